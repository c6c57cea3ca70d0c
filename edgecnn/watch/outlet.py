"""Stands between the loop and a sink, so that no sink can stop the camera or lose an event by failing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.ports import Clock, Sink
from edgecnn.core.prediction import Prediction
from edgecnn.errors import EdgecnnError
from edgecnn.watch.status import Fault

_TRY_AGAIN_S: Final = 1.0
_MOST_WAITING: Final = 10_000
"""Events that wait in memory for a sink that refuses them; more than a month of quiet, a day of storm."""


class Outlet:
    """One sink, told in order and again until it takes what it is told.

    Args:
        sink: Who is told.
        clock: For the waits and the time of a fault.
    """

    def __init__(self, sink: Sink, clock: Clock) -> None:
        self.sink = sink
        self._name = str(getattr(sink, "name", "")) or type(sink).__name__.lower()
        self._clock = clock
        self._waiting: deque[Event] = deque(maxlen=_MOST_WAITING)
        self._next_try_s = 0.0
        self._fault: Fault | None = None

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Pass a frame on; a sink that refuses events is not well because it takes frames."""
        self._guarded(lambda: self.sink.on_prediction(frame, prediction), heals=not self._waiting)

    def on_event(self, event: Event) -> None:
        """Pass an event on, behind those that wait."""
        self._waiting.append(event)
        self._next_try_s = 0.0
        self.flush()

    def flush(self) -> None:
        """Try again what waits, if it is time."""
        if not self._waiting or self._clock.now_s() < self._next_try_s:
            return
        while self._waiting:
            if not self._guarded(lambda: self.sink.on_event(self._waiting[0])):
                self._next_try_s = self._clock.now_s() + _TRY_AGAIN_S
                return
            self._waiting.popleft()

    def close(self) -> None:
        """Try once more, and let the sink go."""
        self._next_try_s = 0.0
        self.flush()
        self._guarded(self.sink.close)

    def faults(self) -> tuple[Fault, ...]:
        """Say what is wrong with it, in its own words where it has some."""
        own = getattr(self.sink, "faults", None)
        if callable(own):
            return (*own(), *([self._fault] if self._fault else []))
        one = getattr(self.sink, "fault", None)
        found = one() if callable(one) else None
        return tuple(fault for fault in (self._fault, found) if fault is not None)

    def _guarded(self, action: Callable[[], None], heals: bool = True) -> bool:
        try:
            action()
        except Exception as error:  # whatever a sink does, the camera goes on
            said = f"{error.message} {error.fix}" if isinstance(error, EdgecnnError) else f"{error!r}"
            since_utc_s = self._fault.since_utc_s if self._fault else time.time()
            self._fault = Fault(self._name, since_utc_s, said)
            return False
        if heals:
            self._fault = None
        return True
