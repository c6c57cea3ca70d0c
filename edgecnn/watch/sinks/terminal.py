"""Tells the person in front of the terminal, or the journal of systemd."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction


class TerminalSink:
    """One line an event."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Do nothing: a line a frame would drown the alarm."""

    def on_event(self, event: Event) -> None:
        """Print one event."""
        print(line(event), file=self._stream or sys.stdout, flush=True)

    def close(self) -> None:
        """Do nothing."""


def line(event: Event) -> str:
    """Put an event into one line; the time is the local one.

    Example:
        >>> line(Event("started", "fire", 5.0, 0.91, 50, "a1"))
        'fire: started, score 0.91, incident a1'
        >>> line(Event("camera", "dark", 5.0, 0.0, 50, "c1"))
        'camera: no longer dark, incident c1'
    """
    if event.kind == "camera":
        what = f"camera: {'' if event.score > 0 else 'no longer '}{event.label}"
    else:
        what = f"{event.label}: {event.kind}, score {event.score:.2f}"
    moment = "" if event.at_utc_s is None else time.strftime("%H:%M:%S ", time.localtime(event.at_utc_s))
    detail = f" ({event.detail.rstrip('.')})" if event.detail else ""
    return f"{moment}{what}, incident {event.incident_id}{detail}"
