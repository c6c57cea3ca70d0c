"""Everyone who is told, behind one sink: the journal first, the others fed from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.ports import Sink
from edgecnn.core.prediction import Prediction
from edgecnn.errors import EdgecnnError
from edgecnn.watch.config import Config, secret
from edgecnn.watch.mute import Mute
from edgecnn.watch.sinks.clock import ClockJump
from edgecnn.watch.sinks.feed import Feed
from edgecnn.watch.sinks.journal import Journal
from edgecnn.watch.status import Fault

LIVE: Final = frozenset({"clips", "gpio", "terminal"})
"""Sinks for which an event of yesterday means nothing."""

_GRACE_S: Final = 0.3
_FEEDS_S: Final = 0.6
"""Together with what the sinks need to close this stays within the 2 s after SIGTERM."""


class Outbox:
    """A sink in front of all others.

    Args:
        config: Names them.
        mute: Silences the siren.
        extra: Further sinks by name, for instance a terminal; each has its own place in the journal.

    Raises:
        EdgecnnError: If one of them cannot work as configured.
    """

    def __init__(
        self, config: Config, mute: Mute | None = None, extra: Mapping[str, Sink] | None = None
    ) -> None:
        self._mute = mute or Mute()
        self.journal = Journal(config.journal.folder, config.journal.quota_mb, pictures=self._pictures)
        self._feeds: dict[str, Feed] = {}
        self._built: Mapping[str, object] = {}
        self._missing: dict[str, Fault] = {}
        self._config = config
        self._clock = ClockJump()
        self._is_closed = False
        try:
            for name, sink in (extra or {}).items():
                self._feeds[name] = self._feed(name, sink)
            self.reload(config)
        except BaseException:
            self.close()
            raise

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Pass a frame on to those who want it."""
        self._clock.look()
        for feed in tuple(self._feeds.values()):
            feed.on_prediction(frame, prediction)

    def on_event(self, event: Event) -> None:
        """Write an event down; everyone else learns of it from there."""
        self.journal.on_event(event)

    def faults(self) -> tuple[Fault, ...]:
        """Say who is not told now, and why, and whether the clock was set."""
        found = [self._clock.fault(), *(feed.fault() for feed in tuple(self._feeds.values()))]
        found += tuple(self._missing.values())
        return self.journal.faults() + tuple(fault for fault in found if fault is not None)

    def reload(self, config: Config) -> None:
        """Follow a changed configuration; sinks whose section is the same go on undisturbed.

        The journal stays where it is: its folder is read at the start only.

        Raises:
            EdgecnnError: If a sink cannot work as configured; then all go on as they were. One that cannot,
                because its secret is gone meanwhile, is a fault until a reload brings it back.
        """
        wanted = _sections(config)
        changed = [name for name in {**self._built, **wanted} if self._built.get(name) != wanted.get(name)]
        # First let go: pins cannot be opened twice, and a broker throws out the older of two by one name.
        for name in changed:
            self._drop(name)
        try:
            for name in changed:
                self._start(name, wanted, config)
        except BaseException:
            for name in changed:
                self._drop(name)
                self._bring_back(name)
            raise
        self._built, self._config = wanted, config
        self._missing.clear()

    def close(self) -> None:
        """Give everyone a moment to take what is left, then let go; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        ends_at_s = time.monotonic() + _GRACE_S
        feeds = tuple(self._feeds.values())
        while time.monotonic() < ends_at_s and any(not f.is_caught_up and f.fault() is None for f in feeds):
            time.sleep(0.01)
        for feed in feeds:
            feed.stop()
        ends_at_s = time.monotonic() + _FEEDS_S
        for feed in feeds:
            feed.close(max(0.0, ends_at_s - time.monotonic()))
        self.journal.close()

    def _feed(self, name: str, sink: Sink) -> Feed:
        return Feed(name, sink, self.journal, is_live=name in LIVE)

    def _drop(self, name: str) -> None:
        feed = self._feeds.pop(name, None)
        if feed is not None:
            feed.close()
            self.journal.forget(name)

    def _start(self, name: str, sections: Mapping[str, object], config: Config) -> None:
        if name in sections:
            self._feeds[name] = self._feed(name, _MAKERS[name](self, config))

    def _bring_back(self, name: str) -> None:
        """Start a sink as it was."""
        try:
            self._start(name, self._built, self._config)
        except EdgecnnError as error:
            # Not built any more, so that the next reload tries it again even if nothing is changed.
            self._built = {other: section for other, section in self._built.items() if other != name}
            self._missing[name] = Fault(
                name, time.time(), f"It is not told any more. {error.message} {error.fix}"
            )

    # Imported where they are made: a box without a broker does not load a client of one.

    def _make_mqtt(self, config: Config) -> Sink:
        from edgecnn.watch.sinks.mqtt import MqttSink

        mqtt = config.mqtt
        assert mqtt is not None
        labels = [policy.label for policy in config.alarm]
        password = secret(mqtt.password_env, mqtt.password_file, "password of the broker")
        return MqttSink(mqtt, config.device, labels, password, self._standing)

    def _make_webhook(self, config: Config) -> Sink:
        from edgecnn.watch.sinks.webhook import WebhookSink

        webhook = config.webhook
        assert webhook is not None
        key = secret(webhook.secret_env, webhook.secret_file, "secret of the webhook")
        return WebhookSink(webhook, config.device, key or "")

    def _make_clips(self, config: Config) -> Sink:
        from edgecnn.watch.sinks.clips import ClipSink

        assert config.clips is not None
        return ClipSink(config.clips, config.journal.incidents, self.journal.order)

    def _make_gpio(self, config: Config) -> Sink:
        from edgecnn.watch.sinks.gpio import GpioSink

        assert config.gpio is not None
        return GpioSink(config.gpio, lambda: bool(self._mute))

    def _standing(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        return self.journal.open_alarms(), self.journal.open_camera_faults()

    def _pictures(self, incident_id: str) -> tuple[Path | None, Path | None]:
        base = self._config.journal.incidents / incident_id
        picture, clip = base.with_name(f"{incident_id}.jpg"), base.with_name(f"{incident_id}.mp4")
        return picture if picture.is_file() else None, clip if clip.is_file() else None


_MAKERS: Final[Mapping[str, Callable[[Outbox, Config], Sink]]] = {
    "clips": Outbox._make_clips,
    "gpio": Outbox._make_gpio,
    "mqtt": Outbox._make_mqtt,
    "webhook": Outbox._make_webhook,
}


def _sections(config: Config) -> dict[str, object]:
    """Give everything that a sink depends on, by its name, for those that are configured."""
    labels = tuple(policy.label for policy in config.alarm)
    sections: dict[str, tuple[object, ...]] = {
        "clips": (config.clips,),
        "gpio": (config.gpio,),
        "mqtt": (config.mqtt, config.device, labels),
        "webhook": (config.webhook, config.device),
    }
    return {name: section for name, section in sections.items() if section[0] is not None}
