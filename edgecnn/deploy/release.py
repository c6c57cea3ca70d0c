"""What is brought onto a device: a model, its configuration, and the environment that they run in."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgecnn.bundle import file
from edgecnn.bundle.manifest import Manifest
from edgecnn.core.zones import dangers
from edgecnn.deploy import wheelhouse
from edgecnn.deploy.fitness import Facts, python_of
from edgecnn.deploy.wheel import own_wheel
from edgecnn.errors import DeployError

if sys.version_info >= (3, 11):
    import tomllib
else:  # tomllib came with 3.11
    import tomli as tomllib

CONFIG: Final = "watch.toml"
_EXTRAS: Final = ",".join(wheelhouse.EXTRAS)
_CONSTRAINTS: Final = "constraints.txt"
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9._-]+\.tflite")


@dataclass(frozen=True, slots=True)
class Environment:
    """The set of packages that a release runs in.

    Attributes:
        digest: Of everything that decides what is installed.
        python: The program on the device that makes it.
        files: By name, what pip needs to find.
        requirements: As pip reads them.
        wheel: Name of edgecnn's own.
        offline: Whether ``files`` is all that is needed.
    """

    digest: str
    python: str
    files: Mapping[str, bytes]
    requirements: tuple[str, ...]
    wheel: str
    offline: bool


@dataclass(frozen=True, slots=True)
class Release:
    """One model with one configuration in one environment.

    Attributes:
        model: Name of the model file on the device: what the configuration calls it.
        models: The model files by name: this one, and where there is one the fallback for the CPU.
        config: Text of ``watch.toml``; None to keep the one that is there.
        digests: SHA-256 by name of the file.
        environment: What it runs in.
    """

    model: str
    models: Mapping[str, bytes]
    config: bytes | None
    digests: Mapping[str, str]
    environment: Environment

    @property
    def id(self) -> str:
        """Names it: the same files in the same environment are the same release."""
        text = json.dumps([dict(self.digests), self.environment.digest], sort_keys=True)
        return sha256(text.encode())


def release(
    model: Path, config: bytes | None, running: Mapping[str, Any] | None, environment: Environment
) -> Release:
    """Put together what is to run.

    Args:
        model: The model file; the fallback that the configuration names lies beside it.
        config: Text of a ``watch.toml``; None to keep that of ``running``.
        running: The release that the device runs, as it told; None for none.
        environment: What it is to run in.

    Raises:
        BundleError: If a model file is damaged.
        DeployError: If the configuration cannot live in a slot, or names a fallback that is not there.
    """
    if config is None and running is None:
        raise DeployError(
            "There is no watch.toml on the device yet, and none was given.",
            fix="Give one: --config watch.toml.",
        )
    kept = running or {}
    names = model_names(config) if config is not None else _kept_names(kept)
    paths = {name: model.with_name(name) for name in names} | {names[0]: model}
    models = {name: _read(path, model) for name, path in paths.items()}
    digests = {name: sha256(content) for name, content in models.items()}
    digests[CONFIG] = sha256(config) if config is not None else kept["files"][CONFIG]
    return Release(names[0], models, config, digests, environment)


def _kept_names(running: Mapping[str, Any]) -> tuple[str, ...]:
    first = str(running["model"])
    return (first, *(name for name in running["files"] if name not in (first, CONFIG)))


def _read(path: Path, model: Path) -> bytes:
    """Read a model file that is whole."""
    if path != model and not path.exists():
        raise DeployError(
            f"The configuration falls back on '{path.name}', which does not lie beside '{model}'.",
            fix="Put both files of 'edgecnn convert --target edgetpu' into one folder.",
        )
    file.read(path)
    return path.read_bytes()


def model_names(config: bytes) -> tuple[str, ...]:
    """Read what a configuration calls its model, and the fallback if it has one; both lie beside it.

    Raises:
        DeployError: If it names another place than its own folder, keeps its journal in the slot, or
            has no page that could be asked how it is.
    """
    try:
        table = tomllib.loads(config.decode("utf-8"))
        model = table.get("model", {})
        names = [str(model[key]) for key in ("path", "fallback") if key in model]
        web = table.get("web", {})
        folder = str(table.get("journal", {}).get("folder", "~"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, LookupError, TypeError, AttributeError) as error:
        raise DeployError(
            f"The configuration cannot be read: {error}.", fix="Compare it with docs/watch.md."
        ) from error
    if "path" not in model:
        raise DeployError(
            "The configuration does not say which file it watches with.",
            fix='Write the name of the model that is deployed, in [model]: path = "fire.tflite".',
        )
    for name in names:
        if not _PLAIN_NAME.fullmatch(name):
            raise DeployError(
                f"The configuration looks for a model at '{name}'; on the device it lies beside watch.toml.",
                fix='Write a name alone, in [model]: path = "fire.tflite".',
            )
    if not folder.startswith(("/", "~")):
        raise DeployError(
            f"The journal would lie in '{folder}', in the slot, and be lost with the next release.",
            fix='Write, in [journal]: folder = "/var/lib/edgecnn".',
        )
    if web.get("port") == 0:
        raise DeployError(
            "Without its page nobody can see, during the probation, whether the watch is well.",
            fix="Set a port in [web]; host 127.0.0.1 keeps it to the device.",
        )
    return tuple(names)


def environment(facts: Facts, folder: Path | None) -> Environment:
    """Choose what the release runs in.

    Args:
        facts: What the device says.
        folder: A wheelhouse; None to install from the net.

    Raises:
        DeployError: If the wheelhouse is not whole, or edgecnn itself cannot be packed.
    """
    own, content = own_wheel()
    if folder is None:
        python = python_of(facts, None)
        files = {own: content, _CONSTRAINTS: Path(__file__).with_name(_CONSTRAINTS).read_bytes()}
        # The pins were tested with numpy 2; a 32-bit device has its own set, in pyproject.toml.
        pins = () if facts.bits == 32 else ("--constraint", _CONSTRAINTS)
    else:
        house = wheelhouse.read(folder)
        python, pins = house.python, ()
        files = {wheel.name: (folder / wheel.name).read_bytes() for wheel in house.files}
        own = next(name for name in files if name.startswith("edgecnn-"))
    assert python is not None, "a device without a fitting Python was refused before"
    requirements = (*pins, f"./{own}[{_EXTRAS}]")
    parts = {name: sha256(data) for name, data in files.items()}
    text = json.dumps([parts, requirements, python, facts.machine, facts.codename], sort_keys=True)
    return Environment(
        sha256(text.encode())[:16], facts.pythons[python], files, requirements, f"./{own}", folder is not None
    )


def first_config(facts: Facts, manifest: Manifest | None) -> bytes:
    """Write a configuration for the first camera of a device, and what of a model is watched unasked.

    Raises:
        DeployError: If there is no camera, or the model does not say what is an alarm.
    """
    labels = dangers(manifest.heads, manifest.thresholds) if manifest else ()
    ribbon = [camera for camera in facts.cameras if camera.startswith("picamera")]
    if not facts.cameras or not labels:
        raise DeployError(
            "There is no watch.toml, and none can be made: "
            + ("the model does not say what is an alarm." if facts.cameras else "the device has no camera."),
            fix="Give one: --config watch.toml; docs/watch.md says how.",
        )
    uri = (ribbon or facts.cameras)[0].partition(" ")[0]
    alarms = "".join(f"\n[[alarm]]\nlabel = {json.dumps(label)}\n" for label in labels)
    device = re.sub(r"[^A-Za-z0-9_-]", "-", facts.hostname) or "camera"
    return (
        f'device = "{device}"\n\n[model]\npath = "model.tflite"\n\n[source]\nuri = "{uri}"\n{alarms}'
        '\n[journal]\nfolder = "/var/lib/edgecnn"\n'
    ).encode()


def sha256(data: bytes) -> str:
    """Give the digest of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
