"""``watch.toml``: everything that decides how a camera is watched, in one file."""

from __future__ import annotations

import math
import os
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from edgecnn.core import settings
from edgecnn.core.alarm import AlarmPolicy
from edgecnn.errors import RecipeError
from edgecnn.zoo.shelf import for_watching

if sys.version_info >= (3, 11):
    import tomllib
else:  # tomllib came with 3.11
    import tomli as tomllib

STATE_FOLDER: Final = Path("~/.local/state/edgecnn")
"""Where a person who runs it by hand keeps state, by the XDG base directory specification."""

_POSITIVE: Final = (
    "source.stalled_after_s",
    "source.frozen_after_s",
    "journal.quota_mb",
    "clips.ring_mb",
    "clips.quota_mb",
    "webhook.timeout_s",
    "mqtt.port",
)
_NOT_NEGATIVE: Final = (
    "model.threads",
    "source.width_px",
    "source.height_px",
    "source.frames_per_second",
    "web.port",
    "clips.pre_roll_s",
    "clips.post_roll_s",
)
_NO_PATH: Final = re.compile(r"picamera(:\d+)?|\d+|[a-z]+://.*|replay:[^./]*", re.IGNORECASE | re.DOTALL)
"""A camera, a stream, or an incident by its id, which has neither dot nor slash."""

_REPLAY: Final = "replay:"
_LAST_PORT: Final = 65535
_LOCAL_HOSTS: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model looks.

    Attributes:
        path: The ``.tflite`` file; left out, the model for watching that ships.
        threads: How many may compute; 0 for all cores, up to 4.
        delegate: ``edgetpu``, or the path of a delegate's library; empty for the CPU.
        trusted_keys: A public key, or a folder of them, of which one must have signed the file; None
            takes every file.
        fallback: The same model for the CPU, which looks while the delegate cannot; left out, a delegate
            that is missing refuses the start, and one that fails later is told, and every frame is tried.
    """

    path: Path = field(default_factory=for_watching)
    threads: int = 0
    delegate: str = ""
    trusted_keys: Path | None = None
    fallback: Path | None = None


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where the frames come from.

    Attributes:
        uri: ``picamera``, ``picamera:1``, ``/dev/video0``, ``0``, a clip, a folder, ``rtsp://...``,
            ``http://...``, or ``replay:INCIDENT``: the id of an incident or its clip.
        width_px: What to ask a camera for; 0 takes what it gives.
        height_px: Likewise.
        frames_per_second: What to ask a camera for, and how fast a folder is played; 0 takes what it gives.
        realtime: Whether a clip or folder is played as it was recorded; else as fast as the model goes,
            without a frame left out.
        self_test: Whether to look for a frozen, covered, dark, over-exposed or wrongly coloured picture;
            left out, of live cameras and streams only.
        stalled_after_s: A source that gives no frame for so long counts as lost.
        frozen_after_s: A picture that does not change at all for so long counts as frozen. Above the
            distance of key frames of a stream, which may show a still scene without a change between.
        format: Of a Raspberry Pi camera, by libcamera's name: ``RGB888``, ``BGR888``, ``XRGB8888`` or
            ``XBGR8888``; all of them give the same colours.
        username: For a stream that asks for one.
        password_env: Name of the environment variable that holds the password of a stream.
        password_file: File that holds it, instead.
    """

    uri: str
    width_px: int = 640
    height_px: int = 480
    frames_per_second: float = 0.0
    realtime: bool = True
    self_test: bool | None = None
    stalled_after_s: float = 5.0
    frozen_after_s: float = 10.0
    format: Literal["RGB888", "BGR888", "XRGB8888", "XBGR8888"] = "RGB888"
    username: str = ""
    password_env: str = ""
    password_file: Path | None = None


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """Where every event is kept first.

    Attributes:
        folder: Holds the journal, and pictures and clips of incidents.
        quota_mb: How large it may grow; the oldest goes first.
    """

    folder: Path = STATE_FOLDER
    quota_mb: float = 100.0

    @property
    def incidents(self) -> Path:
        """Holds a picture and a clip of each incident, named by its id."""
        return self.folder / "incidents"


@dataclass(frozen=True, slots=True)
class MqttConfig:
    """Which broker is told.

    Attributes:
        host: Its name or address.
        port: 1883 is usual, 8883 with TLS.
        username: Empty for none.
        password_env: Name of the environment variable that holds the password.
        password_file: File that holds it, instead.
        tls: Whether the connection is encrypted.
        ca_file: Certificates to trust; left out, those of the system.
        topic_prefix: In front of every topic but those of Home Assistant's discovery.
    """

    host: str
    port: int = 1883
    username: str = ""
    password_env: str = ""
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    topic_prefix: str = "edgecnn"


@dataclass(frozen=True, slots=True)
class WebhookConfig:
    """Which address is told.

    Attributes:
        url: Gets one POST an event.
        secret_env: Name of the environment variable that holds the key for the signature.
        secret_file: File that holds it, instead.
        timeout_s: How long to wait for an answer.
    """

    url: str
    secret_env: str = ""
    secret_file: Path | None = None
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """What is kept of an incident to look at.

    Attributes:
        pre_roll_s: Seconds before the alarm.
        post_roll_s: Seconds after it started.
        ring_mb: Memory that the seconds before may take.
        quota_mb: Disk that all clips and pictures may take; the oldest goes first.
    """

    pre_roll_s: float = 5.0
    post_roll_s: float = 10.0
    ring_mb: float = 16.0
    quota_mb: float = 500.0


@dataclass(frozen=True, slots=True)
class GpioConfig:
    """Which pins are switched, in Broadcom's numbering.

    Attributes:
        siren_pin: On while an alarm lasts.
        led_pin: On while frames are looked at.
    """

    siren_pin: int | None = None
    led_pin: int | None = None


@dataclass(frozen=True, slots=True)
class WebConfig:
    """Where the page is served.

    Attributes:
        host: ``127.0.0.1`` for this machine alone.
        port: 0 switches the page off.
        token_env: Name of the environment variable that holds the token; needed beyond this machine.
        token_file: File that holds it, instead.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token_env: str = ""
    token_file: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can open the page."""
        return self.host in _LOCAL_HOSTS


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that decides how a camera is watched.

    Attributes:
        device: Short name of this camera, in topics and messages.
        model: Which model looks.
        source: At what.
        alarm: What raises an alarm, one policy a label.
        journal: Where every event is kept first.
        mqtt: Which broker is told; None for none.
        webhook: Which address is told; None for none.
        clips: What is kept of an incident; None for nothing.
        gpio: Which pins are switched; None for none.
        web: Where the page is served.
    """

    device: str
    model: ModelConfig
    source: SourceConfig
    alarm: tuple[AlarmPolicy, ...]
    journal: JournalConfig = JournalConfig()
    mqtt: MqttConfig | None = None
    webhook: WebhookConfig | None = None
    clips: ClipConfig | None = None
    gpio: GpioConfig | None = None
    web: WebConfig = WebConfig()


def load(path: Path) -> Config:
    """Read ``watch.toml``; paths in it count from the folder that it lies in.

    Raises:
        RecipeError: If it cannot be read, or a key or value in it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"The configuration '{path}' cannot be read: {error}.",
            fix="Check the path, and that the file is UTF-8 text.",
        ) from error
    return parse(text, path.parent)


def parse(text: str, folder: Path = Path()) -> Config:
    r"""Read a configuration from TOML text.

    Args:
        text: As in the file.
        folder: From where relative paths count.

    Raises:
        RecipeError: Names the key that is unknown, with the nearest valid one, or the value that does
            not fit.

    Example:
        >>> text = 'device = "yard"\n[model]\npath = "fire.tflite"\n[source]\nuri = "0"\n'
        >>> parse(text + '[[alarm]]\nlabel = "fire"').source.uri
        '0'
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The watch.toml is not valid TOML: {error}.", fix="Mend that line.") from error
    see = "Compare it with docs/watch.md, which names every key."
    config = settings.convert({"model": {}, **table}, Config, "watch.toml", see, dec_hook=_decode)
    _refuse_impossible_values(config)
    return _resolved(config, folder)


def secret(env: str, file: Path | None, what: str) -> str | None:
    """Read a secret from where the configuration says; it never stands in the file itself.

    Args:
        env: Name of an environment variable; empty for none.
        file: A file; None for none.
        what: What to call it in an error.

    Returns:
        The secret without white space around it; None where the configuration names no place.

    Raises:
        RecipeError: If the place that is named holds nothing.
    """
    if env:
        value = os.environ.get(env, "").strip()
        place = f"the environment variable {env}"
    elif file is not None:
        try:
            value = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"The {what} cannot be read from '{file}': {error}.",
                fix="Check the path and its permissions.",
            ) from error
        place = f"'{file}'"
    else:
        return None
    if not value:
        raise RecipeError(f"The {what} should be in {place}, which holds nothing.", fix="Put it there.")
    return value


def expanded(path: str | Path) -> Path:
    """Put the home folder in the place of ``~`` or ``~user``.

    Raises:
        RecipeError: If there is no such user, or nobody knows where that home is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RecipeError(
            f"'{path}' begins in a home folder that is not known here.", fix="Write the path from '/' on."
        ) from error


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} from {type(value).__name__}")


def _resolved(config: Config, folder: Path) -> Config:
    def at(path: Path) -> Path:
        return folder / expanded(path)

    def maybe(path: Path | None) -> Path | None:
        return None if path is None else at(path)

    mqtt, webhook = config.mqtt, config.webhook
    return replace(
        config,
        model=replace(
            config.model,
            path=at(config.model.path),
            trusted_keys=maybe(config.model.trusted_keys),
            fallback=maybe(config.model.fallback),
        ),
        source=replace(
            config.source,
            uri=_placed(config.source.uri, folder),
            password_file=maybe(config.source.password_file),
        ),
        journal=replace(config.journal, folder=at(config.journal.folder)),
        mqtt=mqtt and replace(mqtt, password_file=maybe(mqtt.password_file), ca_file=maybe(mqtt.ca_file)),
        webhook=webhook and replace(webhook, secret_file=maybe(webhook.secret_file)),
        web=replace(config.web, token_file=maybe(config.web.token_file)),
    )


def _placed(uri: str, folder: Path) -> str:
    """Let the path of a clip or a folder count from another folder; every other source stays as it is.

    Example:
        >>> [_placed(uri, Path("/srv")) for uri in ("clip.mp4", "replay:old/clip.mp4", "picamera")]
        ['/srv/clip.mp4', 'replay:/srv/old/clip.mp4', 'picamera']
    """
    if _NO_PATH.fullmatch(uri):
        return uri
    name = uri.removeprefix(_REPLAY)
    return f"{uri[: len(uri) - len(name)]}{folder / expanded(name)}"


def _refuse_impossible_values(config: Config) -> None:
    if not config.device or set(config.device) & set("/+#\0 \t\n"):
        raise RecipeError(
            f"'device' becomes part of a topic and cannot be '{config.device}'.",
            fix="Use letters, digits, '-' and '_', for instance 'yard-2'.",
        )
    labels = [policy.label for policy in config.alarm]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if not labels or twice:
        raise RecipeError(
            f"There are two [[alarm]] for '{twice[0]}'." if twice else "There is no [[alarm]].",
            fix="Write one [[alarm]] for each label that is watched; [[alarm.hours]] changes it by hour.",
        )
    if config.model.fallback and not config.model.delegate:
        raise RecipeError(
            "'model.fallback' looks while the delegate cannot, and there is no 'model.delegate'.",
            fix='Set model.delegate = "edgetpu", or leave model.fallback out.',
        )
    if not config.web.is_local and not (config.web.token_env or config.web.token_file):
        raise RecipeError(
            f"The page would be open to everyone who reaches '{config.web.host}'.",
            fix='Set web.token_env or web.token_file, or web.host = "127.0.0.1".',
        )
    if config.mqtt is not None and not config.mqtt.host.strip():
        raise RecipeError("'mqtt.host' is empty.", fix="Write the name or the address of the broker.")
    if config.mqtt is not None and set(config.mqtt.topic_prefix) & set("+#\0"):
        raise RecipeError(
            f"'mqtt.topic_prefix' begins every topic and cannot be '{config.mqtt.topic_prefix}'.",
            fix="Leave '+' and '#' out, which stand for other topics; 'home/edgecnn' for instance.",
        )
    for name in _POSITIVE + _NOT_NEGATIVE:
        if rule := _broken_rule(name, _setting(config, name)):
            raise RecipeError(f"'{name}' {rule}; found {_setting(config, name)}.", fix=f"Correct '{name}'.")
    _refuse_no_address("source.uri", config.source.uri)
    _refuse_no_address("webhook.url", config.webhook.url if config.webhook else "")


def _broken_rule(name: str, value: float | None) -> str:
    """Say what is wrong with a number; empty for nothing.

    Example:
        >>> _broken_rule("mqtt.port", 0), _broken_rule("web.port", 0), _broken_rule("web.port", 70000)
        ('must be above 0', '', 'goes up to 65535')
    """
    if value is None:
        return ""
    if not (value > 0 or (value == 0 and name in _NOT_NEGATIVE)):
        return "cannot be negative" if name in _NOT_NEGATIVE else "must be above 0"
    if name.endswith(".port") and value > _LAST_PORT:
        return f"goes up to {_LAST_PORT}"
    return "" if math.isfinite(value) else "is a finite number"


def _refuse_no_address(name: str, address: str) -> None:
    try:
        _ = urlsplit(address).port
    except ValueError as error:
        raise RecipeError(
            f"'{name}' is no address: {error}.", fix=f"Correct '{name}': after '//' comes host or host:port."
        ) from error


def _setting(config: Config, name: str) -> float | None:
    """Look a number up by its name in the file; None where its table is left out."""
    section, key = name.split(".")
    table = getattr(config, section)
    value: float | None = None if table is None else getattr(table, key)
    return value
