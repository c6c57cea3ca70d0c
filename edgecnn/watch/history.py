"""The last minutes of scores, to draw them and to try other thresholds on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.alarm import AlarmPolicy, AlarmState, Event, step
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction, highest

ROWS: Final = 6000
"""Ten minutes; with three labels 100 KB."""

EVERY_S: Final = 0.1
"""A chart of two minutes has no more than 1,200 pixels; more rows than this nobody could see."""


@dataclass(frozen=True, slots=True)
class Series:
    """Scores over time.

    Attributes:
        at_s: Shape (rows,), on the clock of the frames, rising.
        scores: By head, shape (rows, label_count); a heatmap counts by its highest cell.
        followed: By label, shape (rows,): what its policy followed, of a heatmap the cells of its zones only.
    """

    at_s: NDArray[np.float64]
    scores: Mapping[str, NDArray[np.float32]]
    followed: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Preview:
    """What a policy would have done with the scores of the last minutes.

    Attributes:
        at_s: Shape (rows,), on the clock of the frames.
        smoothed: Shape (rows,), the score that is compared with the thresholds.
        alarms: Start and end of each alarm; the end is None while it lasts.
    """

    at_s: NDArray[np.float64]
    smoothed: NDArray[np.float32]
    alarms: tuple[tuple[float, float | None], ...]


class History:
    """A sink that remembers the scores of the last minutes, in memory of a fixed size.

    Args:
        followed: Says, by label, which score the alarm follows.
        rows: How many are remembered.
        every_s: At most so often.
    """

    def __init__(
        self,
        followed: Callable[[Frame, Prediction], Mapping[str, float]] = lambda *_: {},
        rows: int = ROWS,
        every_s: float = EVERY_S,
    ) -> None:
        self._follow, self._rows, self._every_s = followed, rows, every_s
        self._lock = threading.Lock()
        self._fresh_at_s: float | None = None
        self._count = 0
        self._at_s = np.zeros(rows)
        self._scores: dict[str, NDArray[np.float32]] = {}
        self._followed: dict[str, NDArray[np.float32]] = {}

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Take the scores of a frame, unless one was taken just before."""
        at_s = frame.captured_at_s
        with self._lock:
            self._fresh_at_s = time.monotonic()
            last_at_s = self._at_s[(self._count - 1) % self._rows] if self._count else -np.inf
            if last_at_s <= at_s < last_at_s + self._every_s:
                return
            rows = {name: highest(scores) for name, scores in prediction.heads.items()}
            followed = self._follow(frame, prediction)
            # Another model has other scores, and a clip that is played again runs back in time.
            shapes = {name: (self._rows, len(row)) for name, row in rows.items()}
            known = {name: scores.shape for name, scores in self._scores.items()}
            if at_s < last_at_s or shapes != known or followed.keys() != self._followed.keys():
                self._count = 0
                self._scores = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
                self._followed = {label: np.zeros(self._rows, np.float32) for label in followed}
            place = self._count % self._rows
            self._at_s[place] = at_s
            for name, row in rows.items():
                self._scores[name][place] = row
            for label, score in followed.items():
                self._followed[label][place] = score
            self._count += 1

    def on_event(self, event: Event) -> None:
        """Do nothing: events are the journal's."""

    def close(self) -> None:
        """Do nothing."""

    def age_s(self) -> float | None:
        """How long ago a frame was last looked at; None where none was."""
        with self._lock:
            return None if self._fresh_at_s is None else time.monotonic() - self._fresh_at_s

    def series(self, seconds: float | None = None) -> Series:
        """Give what is remembered, oldest first.

        Args:
            seconds: Only so many, counted back from the newest; None gives all.
        """
        with self._lock:
            places = np.arange(max(0, self._count - self._rows), self._count) % self._rows
            at_s = self._at_s[places]
            if seconds is not None and len(at_s):
                kept = at_s >= at_s[-1] - seconds
                places, at_s = places[kept], at_s[kept]
            return Series(
                at_s,
                {name: scores[places] for name, scores in self._scores.items()},
                {label: scores[places] for label, scores in self._followed.items()},
            )


def preview(at_s: Sequence[float], scores: Sequence[float], policy: AlarmPolicy) -> Preview:
    """Fold a policy over scores that are past, by the very step that decides about alarms.

    Args:
        at_s: Moments, rising.
        scores: Of the watched label, as many.
        policy: To be tried.

    Example:
        >>> policy = AlarmPolicy("fire", half_life_s=0, minimum_s=0)
        >>> preview([0.0, 1.0, 2.0, 3.0], [0.1, 0.9, 0.9, 0.1], policy).alarms
        ((1.0, 3.0),)
    """
    state = AlarmState()
    smoothed = np.zeros(len(at_s), np.float32)
    alarms: list[tuple[float, float | None]] = []
    for index, (moment_s, score) in enumerate(zip(at_s, scores, strict=True)):
        state, event = step(policy, state, float(score), float(moment_s), index)
        smoothed[index] = state.score
        if event is not None and event.kind == "started":
            alarms.append((event.at_s, None))
        elif event is not None and event.kind == "ended" and alarms:
            alarms[-1] = (alarms[-1][0], event.at_s)
    return Preview(np.asarray(at_s, np.float64), smoothed, tuple(alarms))


def thin(at_s: NDArray[np.float64], values: NDArray[np.float32], every_s: float) -> list[list[float]]:
    """Choose points for a chart so that no peak is lost: of each stretch of time, the highest value.

    The stretches lie at multiples of their length, so that a chart that moves on does not flicker.

    Args:
        at_s: Shape (rows,), rising.
        values: Shape (rows,).
        every_s: Length of a stretch; 0 keeps all.

    Returns:
        Pairs of moment and value.

    Example:
        >>> thin(np.arange(4.0), np.float32([0, 0.5, 0.25, 0]), every_s=2)
        [[0.0, 0.5], [2.0, 0.25]]
    """
    if len(at_s) == 0:
        return []
    stretch = np.floor(at_s / every_s) if every_s else np.arange(len(at_s))
    starts = np.flatnonzero(np.diff(stretch, prepend=stretch[0] - 1))
    largest = np.maximum.reduceat(values, starts)
    return [[round(float(t), 3), round(float(v), 4)] for t, v in zip(at_s[starts], largest, strict=True)]
