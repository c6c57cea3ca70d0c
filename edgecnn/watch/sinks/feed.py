"""Carries events from the journal to one sink, in order, until the sink has taken each."""

from __future__ import annotations

import threading
import time
from typing import Final

import tenacity
from tenacity.nap import sleep_using_event

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.ports import Sink
from edgecnn.core.prediction import Prediction
from edgecnn.errors import EdgecnnError
from edgecnn.watch.sinks.journal import Journal
from edgecnn.watch.status import Fault

LONGEST_WAIT_S: Final = 5.0
"""Between two tries: what comes back is noticed within this time, and nobody is flooded."""

_IDLE_S: Final = 0.5


class Undelivered(EdgecnnError):
    """A sink could not be told now; it is tried again."""


class Refused(EdgecnnError):
    """A sink will never take this event; the next one is tried."""


class Feed:
    """One sink with its place in the journal, on a thread of its own.

    ``on_event`` of the sink is called once an event, and again until it returns without an error.

    Args:
        name: Of the sink: its place in the journal goes by it.
        sink: Who is told.
        journal: Where the events come from.
        is_live: Whether it is told only what happens from now on: a siren has no use for yesterday.
    """

    def __init__(self, name: str, sink: Sink, journal: Journal, *, is_live: bool = False) -> None:
        self.name, self.sink = name, sink
        self._journal, self._is_live = journal, is_live
        self._taken = journal.last if is_live else journal.register(name)
        self._stop = threading.Event()
        self._fault: Fault | None = None
        self._tries = tenacity.Retrying(
            wait=tenacity.wait_exponential(multiplier=0.1, max=LONGEST_WAIT_S - 1)
            + tenacity.wait_random(0, 0.5),
            retry=tenacity.retry_if_not_exception_type(Refused),
            stop=tenacity.stop_when_event_set(self._stop),
            sleep=sleep_using_event(self._stop),
            before_sleep=self._note,
            reraise=True,
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Pass a frame on at once: no frame is ever late."""
        self.sink.on_prediction(frame, prediction)

    def fault(self) -> Fault | None:
        """Say why the sink takes nothing; None when it does."""
        own = getattr(self.sink, "fault", None)
        return self._fault or (own() if own is not None else None)

    @property
    def is_caught_up(self) -> bool:
        """Whether the sink has taken everything."""
        return self._taken >= self._journal.last

    def stop(self) -> None:
        """Ask the thread to end after the event that it is at."""
        self._stop.set()
        self._journal.wake()

    def close(self, timeout_s: float = 1.0) -> None:
        """Let go; what the sink has not taken waits in the journal. May be called twice."""
        self.stop()
        self._thread.join(timeout_s)
        self.sink.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            entries = self._journal.after(self._taken)
            for entry in entries:
                if not self._deliver(entry.event):
                    return
                self._taken = entry.sequence
                if not self._is_live:
                    self._journal.advance(self.name, entry.sequence)
            if not entries:
                self._journal.wait(self._taken, _IDLE_S)

    def _deliver(self, event: Event) -> bool:
        """Tell the sink until it knows; False if the program ends before."""
        try:
            self._tries(self.sink.on_event, event)
        except Refused as refusal:
            self._fault = Fault(self.name, time.time(), f"{refusal.message} {refusal.fix}")
        except Exception:  # whatever it was: the program ends, and the event stays in the journal
            return False
        else:
            self._fault = None
        return True

    def _note(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        detail = f"{error.message} {error.fix}" if isinstance(error, EdgecnnError) else f"{error!r}"
        self._fault = Fault(self.name, self._fault.since_utc_s if self._fault else time.time(), detail)
