"""The sockets that the outside world plugs into."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction


class Source(Protocol):
    """Where frames come from: a camera, a clip, a folder."""

    def __iter__(self) -> Iterator[Frame]:
        """Give frames, oldest first, until the source ends."""

    def close(self) -> None:
        """Let go of the device or file; may be called twice."""


class Predictor(Protocol):
    """What turns a frame into scores."""

    def predict(self, frame: Frame) -> Prediction:
        """Give the scores of one frame."""


class Sink(Protocol):
    """Who is told."""

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Take note of every frame that was looked at."""

    def on_event(self, event: Event) -> None:
        """Take note of an alarm that starts, changes or ends."""

    def close(self) -> None:
        """Deliver what is pending and let go; may be called twice."""


class Clock(Protocol):
    """What time it is."""

    def now_s(self) -> float:
        """Seconds that never run backwards."""

    def utc_s(self) -> float:
        """Seconds since 1970, which someone may set back and forward."""
