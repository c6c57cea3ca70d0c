"""Switches a siren and an LED on the pins of a Raspberry Pi."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction
from edgecnn.errors import MissingPackageError, RuntimeFault
from edgecnn.watch.config import GpioConfig
from edgecnn.watch.sinks.journal import ACKNOWLEDGED

DARK_AFTER_S: Final = 10.0
"""The LED says that frames are looked at; without one for so long it goes out."""

_POLL_S: Final = 0.2
_BLINK_S: Final = 0.2


class GpioSink:
    """The siren sounds while an alarm lasts that nobody has acknowledged; the LED shines while all is well.

    During an alarm the LED blinks.

    Args:
        config: Which pins.
        is_muted: Whether a person has silenced the siren for now.

    Raises:
        MissingPackageError: If ``gpiozero`` is not installed.
        RuntimeFault: If there are no such pins here, or another program has them.
    """

    def __init__(self, config: GpioConfig, is_muted: Callable[[], bool] = lambda: False) -> None:
        self._is_muted = is_muted
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._silenced: set[str] = set()
        self._fresh_at_s: float | None = None
        self._shows = ""
        self._siren, self._led = _devices(config)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpio", daemon=True)
        self._thread.start()

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Note that frames are looked at."""
        self._fresh_at_s = time.monotonic()

    def on_event(self, event: Event) -> None:
        """Follow the alarms."""
        if event.kind == "camera":
            return
        with self._lock:
            if event.kind == "ended":
                self._open.discard(event.incident_id)
                self._silenced.discard(event.incident_id)
            else:
                self._open.add(event.incident_id)
            if event.detail == ACKNOWLEDGED and event.kind == "updated":
                self._silenced.add(event.incident_id)
            self._switch()

    def close(self) -> None:
        """Switch everything off and let go of the pins; may be called twice."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(1.0)
        with self._lock:
            for device in (self._siren, self._led):
                if device is not None:
                    device.close()  # gpiozero switches an output off when it lets go
            self._siren = self._led = None

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            with self._lock:
                self._switch()

    def _switch(self) -> None:
        if self._siren is not None:
            self._siren.value = int(bool(self._open - self._silenced) and not self._is_muted())
        if self._led is None:
            return
        fresh_at_s = self._fresh_at_s
        is_watching = fresh_at_s is not None and time.monotonic() - fresh_at_s < DARK_AFTER_S
        wanted = "blink" if self._open else "on" if is_watching else "off"
        if wanted != self._shows:  # a blink that is asked for again starts again
            self._shows = wanted
            if wanted == "blink":
                self._led.blink(_BLINK_S, _BLINK_S)
            else:
                (self._led.on if wanted == "on" else self._led.off)()


def _devices(config: GpioConfig) -> tuple[Any, Any]:
    try:
        import gpiozero
    except ImportError as error:
        raise MissingPackageError(
            "The package gpiozero, which switches the pins, is not installed.",
            fix="Install it: pip install 'edgecnn[gpio]', or apt install python3-gpiozero.",
        ) from error
    opened: list[Any] = []
    try:
        for kind, pin in ((gpiozero.OutputDevice, config.siren_pin), (gpiozero.LED, config.led_pin)):
            opened.append(None if pin is None else kind(pin))
    except Exception as error:  # each pin factory raises errors of its own library, too
        for device in opened:
            if device is not None:
                device.close()
        raise RuntimeFault(
            f"The pins {config.siren_pin} and {config.led_pin} cannot be switched: {error}.",
            fix="Use Broadcom's numbering, check that no other program has them, "
            "and that the user is in the group 'gpio'.",
        ) from error
    return opened[0], opened[1]
