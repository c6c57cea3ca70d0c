"""When scores become an alarm: a fold over predictions, in seconds, with no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edgecnn.errors import RecipeError


@dataclass(frozen=True, slots=True)
class AlarmPolicy:
    """How certain, and for how long, before anyone is told.

    Attributes:
        label: The label that is watched.
        on_score: The smoothed score at and above which the alarm may start, in (0, 1].
        off_score: The smoothed score below which it may end; below ``on_score``.
        half_life_s: After so many seconds an old score counts half.
        minimum_s: How long the score must stay up before the alarm starts, or down before it ends.
    """

    label: str
    on_score: float = 0.7
    off_score: float = 0.4
    half_life_s: float = 0.5
    minimum_s: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a policy under which an alarm could never start or never end."""
        if not 0 < self.off_score < self.on_score <= 1:
            raise RecipeError(
                f"An alarm for '{self.label}' needs 0 < off_score < on_score <= 1; "
                f"found off_score = {self.off_score}, on_score = {self.on_score}.",
                fix="Set off_score well below on_score, for instance 0.4 and 0.7.",
            )
        if self.half_life_s < 0 or self.minimum_s < 0:
            raise RecipeError(
                f"half_life_s and minimum_s are seconds and cannot be negative; "
                f"found {self.half_life_s} and {self.minimum_s}.",
                fix="Set them to 0 or more.",
            )


@dataclass(frozen=True, slots=True)
class AlarmState:
    """What the fold remembers from one frame to the next."""

    score: float = 0.0
    at_s: float | None = None
    is_on: bool = False
    crossed_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An alarm that started or ended.

    Attributes:
        kind: ``started`` or ``ended``.
        label: What was seen.
        at_s: When, on the clock of the frames.
        score: The smoothed score at that moment.
        frame_index: The frame that decided it.
    """

    kind: Literal["started", "ended"]
    label: str
    at_s: float
    score: float
    frame_index: int


def step(
    policy: AlarmPolicy, state: AlarmState, score: float, at_s: float, frame_index: int
) -> tuple[AlarmState, Event | None]:
    """Take one more score into account.

    Smoothing and waiting are counted in seconds, not in frames, so that the same fire raises the
    alarm at the same moment at 2 and at 30 frames per second.

    Args:
        policy: The rules.
        state: What the step before left; ``AlarmState()`` at the start.
        score: Of the watched label in this frame, in [0, 1].
        at_s: When the frame was taken.
        frame_index: Which frame it was.

    Returns:
        The new state, and an event if the alarm started or ended with this frame.

    Example:
        >>> policy = AlarmPolicy("fire", half_life_s=0, minimum_s=1)
        >>> state, event = step(policy, AlarmState(), 0.9, at_s=0.0, frame_index=0)
        >>> state, event = step(policy, state, 0.9, at_s=1.0, frame_index=1)
        >>> event.kind, event.at_s
        ('started', 1.0)
    """
    smoothed = _smooth(policy, state, score, at_s)
    wants_change = smoothed < policy.off_score if state.is_on else smoothed >= policy.on_score
    if not wants_change:
        return replace(state, score=smoothed, at_s=at_s, crossed_at_s=None), None
    crossed_at_s = at_s if state.crossed_at_s is None else state.crossed_at_s
    if at_s - crossed_at_s < policy.minimum_s:
        return replace(state, score=smoothed, at_s=at_s, crossed_at_s=crossed_at_s), None
    kind: Literal["started", "ended"] = "ended" if state.is_on else "started"
    event = Event(kind, policy.label, at_s, smoothed, frame_index)
    return AlarmState(smoothed, at_s, not state.is_on), event


def _smooth(policy: AlarmPolicy, state: AlarmState, score: float, at_s: float) -> float:
    """Weigh the old score by ``0.5 ** (elapsed / half_life)``: exponential smoothing in time."""
    if state.at_s is None or policy.half_life_s == 0:
        return score
    kept = float(0.5 ** (max(0.0, at_s - state.at_s) / policy.half_life_s))
    return kept * state.score + (1 - kept) * score
