"""A whole camera box: model, source, everyone who is told, page and service, from one configuration."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from edgecnn.core.alarm import AlarmPolicy
from edgecnn.core.ports import Sink
from edgecnn.core.zones import dangers
from edgecnn.errors import EdgecnnError, RecipeError
from edgecnn.watch import config as configs
from edgecnn.watch.config import Config, ModelConfig, SourceConfig, WebConfig, secret
from edgecnn.watch.history import History
from edgecnn.watch.loop import Model, Watch, load_model
from edgecnn.watch.memory import share_arenas
from edgecnn.watch.mute import Mute
from edgecnn.watch.service import LifeSign, Notifier, supervise
from edgecnn.watch.sinks.outbox import Outbox
from edgecnn.watch.sources.open import open_source
from edgecnn.watch.status import Status

Say = Callable[[str], None]


def run(
    config: Config, path: Path | None, sinks: dict[str, Sink], say: Say, model: Model | None = None
) -> bool:
    """Watch until a signal says stop, or until a clip has come to its end.

    Call it from the main thread: only that one gets signals.

    Args:
        config: How to watch.
        path: Where the configuration lies, for SIGHUP to read it again; None if in no file.
        sinks: Who else is told, by name.
        say: Is given each sentence for the person who started it.
        model: Instead of the one that the configuration names, if that was loaded already.

    Returns:
        Whether everything ended in time; if not, leave the process without waiting for its threads.

    Raises:
        EdgecnnError: If anything that the configuration names is missing, damaged or does not fit.
    """
    share_arenas()
    notifier = Notifier.from_environment()
    with ExitStack() as stack:
        model = model or load_model(config.model)
        source = open_source(config.source, config.journal.incidents)
        mute, history = Mute(), History(lambda frame, prediction: watch.followed(frame, prediction))
        outbox = Outbox(config, mute, sinks)
        stack.callback(outbox.close)
        watch = Watch(config, model, source, [outbox, history, LifeSign(notifier)])
        if config.web.port:
            from edgecnn.watch.web import serve  # a box without a page does not load a web server

            token = secret(config.web.token_env, config.web.token_file, "token of the page") or ""
            server = serve(config.web, token, watch, history, outbox.journal, mute)
            stack.callback(server.close)
            say(f"The page is at {server.url}")
        say(f"Watching '{source.name}' for {' and '.join(policy.label for policy in config.alarm)}.")
        in_time = supervise(watch.run, lambda: reload(watch, outbox, path), notifier, _refuser(say))
        say(summary(watch.status()))
        if not in_time:
            stack.pop_all()  # what hangs would hang here again; the journal is whole after each event
        return in_time


def reload(watch: Watch, outbox: Outbox, path: Path | None) -> None:
    """Read the configuration again, and put all of it in force or nothing.

    Raises:
        EdgecnnError: If it is wrong, or needs the program to start again.
    """
    if path is None:
        raise RecipeError(
            "There is no watch.toml to read again: the watch was started with --model and --source.",
            fix="Write a watch.toml and start 'edgecnn watch watch.toml'.",
        )
    try:
        _reload(watch, outbox, path)
    except Exception as error:
        watch.refuse(error)
        raise


def _reload(watch: Watch, outbox: Outbox, path: Path) -> None:
    old, new = watch.config, configs.load(path)
    for section in ("device", "journal", "web"):
        if getattr(old, section) != getattr(new, section):
            raise RecipeError(
                f"[{section}] cannot change while it runs."
                if section != "device"
                else "'device' cannot change.",
                fix="Restart the service: sudo systemctl restart edgecnn.",
            )
    watch.reload(new)
    try:
        outbox.reload(new)
    except BaseException:
        watch.reload(old)
        raise


def quick(model: Path, source: str, labels: Sequence[str], port: int, realtime: bool) -> tuple[Config, Model]:
    """Make a configuration of what stands on the command line.

    Args:
        model: The ``.tflite`` file.
        source: As ``SourceConfig.uri``.
        labels: What to watch; empty for fire and smoke, or else for what the model has a threshold of.
        port: Of the page; 0 for none.
        realtime: Whether a clip is played as it was recorded.

    Returns:
        The configuration, and the model, which had to be loaded to know its labels.

    Raises:
        RecipeError: If it cannot be known what to watch.
    """
    loaded = load_model(ModelConfig(model))
    manifest = getattr(loaded, "manifest", None)
    watched = tuple(labels) or dangers(loaded.heads, manifest.thresholds if manifest else {})
    if not watched:
        known = ", ".join(label for head in loaded.heads for label in head.labels)
        raise RecipeError(
            f"'{model.name}' knows {known}; it does not say which of them is an alarm.",
            fix="Name it with --label.",
        )
    policies = tuple(AlarmPolicy(label) for label in watched)
    device = "".join(c if c.isalnum() or c in "-_" else "-" for c in socket.gethostname()) or "camera"
    config = Config(
        device,
        ModelConfig(model),
        SourceConfig(source, realtime=realtime),
        policies,
        web=WebConfig(port=port),
    )
    journal = replace(config.journal, folder=configs.expanded(config.journal.folder))
    return replace(config, journal=journal), loaded


def summary(status: Status) -> str:
    """Say in one line how it went.

    Example:
        >>> summary(Status(frames_count=3, fps=2.0))
        '3 frames looked at, 0 skipped, 0 alarms.'
    """
    return (
        f"{status.frames_count} frames looked at, {status.skipped_count} skipped, "
        f"{status.incidents_count} alarm{'' if status.incidents_count == 1 else 's'}."
    )


def _refuser(say: Say) -> Callable[[Exception], None]:
    def refuse(error: Exception) -> None:
        said = f"{error.message} Fix: {error.fix}" if isinstance(error, EdgecnnError) else repr(error)
        say(f"The new configuration was refused, the old one goes on: {said}")

    return refuse
