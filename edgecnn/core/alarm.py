"""When scores become an alarm: a fold over predictions, in seconds, with no clock of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

from edgecnn.errors import RecipeError

Zone = tuple[tuple[float, float], ...]
"""Corners (x, y) of a polygon; 0, 0 is the top left of the picture, 1, 1 the bottom right."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in the same coordinates."""

_LONGEST_HOLD_S: Final = 1.0
"""A frame speaks for the time since the one before, but after a gap for no longer than this."""


@dataclass(frozen=True, slots=True)
class Hours:
    """Other thresholds for a part of the day.

    Attributes:
        from_hour: Start, on the local clock, 0 to 24; 22.5 is half past ten in the evening.
        to_hour: End, not included; below ``from_hour`` it lies on the next day.
        on_score: Instead of the policy's.
        off_score: Instead of the policy's.
        minimum_s: Instead of the policy's; None keeps it.
    """

    from_hour: float
    to_hour: float
    on_score: float
    off_score: float
    minimum_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse hours that no clock shows and thresholds that never meet."""
        if not (0 <= self.from_hour <= 24 and 0 <= self.to_hour <= 24) or self.from_hour == self.to_hour:
            raise RecipeError(
                f"Hours of an alarm lie between 0 and 24 and differ; "
                f"found from_hour = {self.from_hour}, to_hour = {self.to_hour}.",
                fix="Write for instance from_hour = 22 and to_hour = 6.",
            )
        _check_scores("these hours", self.on_score, self.off_score)
        if self.minimum_s is not None:
            _check_seconds("minimum_s", self.minimum_s)

    def hold_at(self, hour: float) -> bool:
        """Say whether they hold at an hour of the day.

        Example:
            >>> Hours(22, 6, 0.9, 0.5).hold_at(23.0), Hours(22, 6, 0.9, 0.5).hold_at(6.0)
            (True, False)
        """
        if self.from_hour < self.to_hour:
            return self.from_hour <= hour < self.to_hour
        return hour >= self.from_hour or hour < self.to_hour


@dataclass(frozen=True, slots=True)
class AlarmPolicy:
    """How certain, and for how long, before anyone is told.

    Attributes:
        label: The label that is watched.
        on_score: The smoothed score at and above which the alarm may start, in (0, 1].
        off_score: The smoothed score below which it may end; below ``on_score``.
        half_life_s: After so many seconds an old score counts half.
        minimum_s: How long the score must stay up before the alarm starts, or down before it ends.
            Unless it is 0, one frame alone starts or ends nothing.
        cooldown_s: After an alarm ended, no other starts for so long; what still burns then starts one.
        update_every_s: How often a lasting alarm is told again.
        include: Where to look, through the model's heatmap; empty for everywhere.
        exclude: Where not to look.
        hours: Other thresholds by hour of the day; the first that hold count.
    """

    label: str
    on_score: float = 0.7
    off_score: float = 0.4
    half_life_s: float = 0.5
    minimum_s: float = 0.5
    cooldown_s: float = 30.0
    update_every_s: float = 10.0
    include: tuple[Zone, ...] = ()
    exclude: tuple[Zone, ...] = ()
    hours: tuple[Hours, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a policy under which an alarm could never start or never end."""
        _check_scores(f"'{self.label}'", self.on_score, self.off_score)
        for name in ("half_life_s", "minimum_s", "cooldown_s"):
            _check_seconds(name, getattr(self, name))
        if not self.update_every_s > 0:
            raise RecipeError(
                f"update_every_s must be above 0; found {self.update_every_s}.",
                fix="Set it to 10, or to a day (86400) to be told once.",
            )
        for zone in self.include + self.exclude:
            _check_zone(self.label, zone)

    @property
    def has_zones(self) -> bool:
        """Whether it looks at a part of the picture only."""
        return bool(self.include or self.exclude)

    def at_hour(self, hour: float | None) -> AlarmPolicy:
        """Give the policy that holds at an hour of the day.

        Example:
            >>> AlarmPolicy("fire", hours=(Hours(22, 6, 0.9, 0.5),)).at_hour(3.0).on_score
            0.9
        """
        for hours in self.hours:
            if hour is not None and hours.hold_at(hour):
                minimum_s = self.minimum_s if hours.minimum_s is None else hours.minimum_s
                return replace(
                    self, on_score=hours.on_score, off_score=hours.off_score, minimum_s=minimum_s, hours=()
                )
        return self


@dataclass(frozen=True, slots=True)
class AlarmState:
    """What the fold remembers from one frame to the next.

    Attributes:
        score: Smoothed.
        at_s: When; None before the first frame.
        is_on: Whether an alarm lasts.
        crossed_at_s: Since when the score asks for a change.
        incident_id: Of the alarm that lasts.
        told_at_s: When the last event of this alarm was given; None counts from the next frame.
        ended_at_s: When the last alarm ended.
    """

    score: float = 0.0
    at_s: float | None = None
    is_on: bool = False
    crossed_at_s: float | None = None
    incident_id: str = ""
    told_at_s: float | None = None
    ended_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that people are told.

    Attributes:
        kind: ``started``, ``updated`` or ``ended`` of an alarm; ``camera`` for a picture that cannot be
            trusted.
        label: What was seen; of a ``camera`` event the fault: ``frozen``, ``covered``, ``dark``,
            ``over-exposed``, ``swapped``, ``lost``, or ``degraded`` where the CPU looks for an accelerator.
        at_s: When, on the clock of the frames.
        score: The smoothed score at that moment; of a ``camera`` event 1 when the fault begins and 0
            when it is over.
        frame_index: The frame that decided it.
        incident_id: The same for all events of one incident, and for no other.
        detail: A sentence for people.
        box: Where, if the model tells.
        at_utc_s: When, on the wall clock, in seconds since 1970; None where nobody looked.
        event_id: Unique; the journal gives it, and whoever is told twice knows by it.
    """

    kind: Literal["started", "updated", "ended", "camera"]
    label: str
    at_s: float
    score: float
    frame_index: int
    incident_id: str = ""
    detail: str = ""
    box: Box | None = None
    at_utc_s: float | None = None
    event_id: str = ""


def step(
    policy: AlarmPolicy,
    state: AlarmState,
    score: float,
    at_s: float,
    frame_index: int,
    *,
    new_id: str = "",
    hour: float | None = None,
) -> tuple[AlarmState, Event | None]:
    """Take one more score into account.

    Smoothing and waiting are counted in seconds, not in frames, so that the same fire raises the
    alarm at the same moment at 2 and at 30 frames per second, to within one period of the slower.

    Args:
        policy: The rules.
        state: What the step before left; ``AlarmState()`` at the start.
        score: Of the watched label in this frame, in [0, 1].
        at_s: When the frame was taken.
        frame_index: Which frame it was.
        new_id: The id of the incident, should one start with this frame.
        hour: Of the day, on the local clock, for a policy that has ``hours``.

    Returns:
        The new state, and an event if the alarm started, lasts, or ended with this frame.

    Example:
        >>> policy = AlarmPolicy("fire", half_life_s=0, minimum_s=1)
        >>> state, event = step(policy, AlarmState(), 0.9, at_s=0.0, frame_index=0)
        >>> state, event = step(policy, state, 0.9, at_s=1.0, frame_index=1, new_id="a1")
        >>> event.kind, event.at_s, event.incident_id
        ('started', 1.0, 'a1')
    """
    policy = policy.at_hour(hour)
    smoothed = _smooth(policy, state, score, at_s)
    now = replace(state, score=smoothed, at_s=at_s)
    wants_change = smoothed < policy.off_score if state.is_on else smoothed >= policy.on_score
    if not wants_change:
        return _last(policy, replace(now, crossed_at_s=None), frame_index)
    if state.crossed_at_s is None:
        threshold = policy.off_score if state.is_on else policy.on_score
        now = replace(now, crossed_at_s=_crossing(policy, state, threshold, score, at_s))
        if policy.minimum_s > 0:
            return _last(policy, now, frame_index)
    if at_s - (now.crossed_at_s or 0.0) < policy.minimum_s or _is_cooling(policy, now, at_s):
        return _last(policy, now, frame_index)
    if state.is_on:
        event = Event("ended", policy.label, at_s, smoothed, frame_index, state.incident_id)
        return AlarmState(smoothed, at_s, ended_at_s=at_s), event
    event = Event("started", policy.label, at_s, smoothed, frame_index, new_id)
    return AlarmState(smoothed, at_s, is_on=True, incident_id=new_id, told_at_s=at_s), event


def resumed(state: AlarmState, at_s: float) -> AlarmState:
    """Leave out a time in which nobody looked: a score goes on holding, and the next one weighs nothing yet.

    Args:
        state: What the last step before left.
        at_s: When the first frame after it was taken.

    Example:
        >>> later = resumed(AlarmState(0.9, at_s=5.0, crossed_at_s=4.0), at_s=100.0)
        >>> later.crossed_at_s, later.at_s
        (99.0, 100.0)
    """
    if state.at_s is None:
        return state
    gap_s = max(0.0, at_s - state.at_s)
    crossed_at_s = None if state.crossed_at_s is None else state.crossed_at_s + gap_s
    return replace(state, at_s=state.at_s + gap_s, crossed_at_s=crossed_at_s)


def _last(policy: AlarmPolicy, state: AlarmState, frame_index: int) -> tuple[AlarmState, Event | None]:
    """Leave everything as it is; a lasting alarm is told again when it is time."""
    at_s = state.at_s or 0.0
    if not state.is_on:
        return state, None
    if state.told_at_s is None or at_s - state.told_at_s < policy.update_every_s:
        return replace(state, told_at_s=at_s if state.told_at_s is None else state.told_at_s), None
    event = Event("updated", policy.label, at_s, state.score, frame_index, state.incident_id)
    return replace(state, told_at_s=at_s), event


def _is_cooling(policy: AlarmPolicy, state: AlarmState, at_s: float) -> bool:
    return not state.is_on and state.ended_at_s is not None and at_s - state.ended_at_s < policy.cooldown_s


def _smooth(policy: AlarmPolicy, state: AlarmState, score: float, at_s: float) -> float:
    """Weigh the old score by ``0.5 ** (elapsed / half_life)``: exponential smoothing in time.

    A score that is no number says nothing, and would never be forgotten.
    """
    if math.isnan(score):
        return state.score
    if state.at_s is None or policy.half_life_s == 0:
        return score
    kept = float(0.5 ** (max(0.0, at_s - state.at_s) / policy.half_life_s))
    return kept * state.score + (1 - kept) * score


def _crossing(policy: AlarmPolicy, state: AlarmState, threshold: float, score: float, at_s: float) -> float:
    """Find when between two frames the smoothed score crossed a threshold.

    The smoothing takes a frame's score as that of the whole time since the frame before. Solving
    ``score + (old - score) * 0.5 ** (t / half_life) = threshold`` for ``t`` by the same assumption keeps
    slow cameras from losing up to a period here and another one in the wait that follows.

    Example:
        >>> policy = AlarmPolicy("fire", on_score=0.5, half_life_s=0.5)
        >>> _crossing(policy, AlarmState(0.0, 10.0), 0.5, 1.0, 11.0)
        10.5
    """
    if state.at_s is None:
        return at_s
    elapsed_s = max(0.0, at_s - state.at_s)
    share = (score - state.score) / (score - threshold) if score != threshold else math.inf
    after_s = policy.half_life_s * math.log2(share) if 0 < share < math.inf else elapsed_s
    return max(state.at_s + min(max(0.0, after_s), elapsed_s), at_s - _LONGEST_HOLD_S)


def _check_scores(what: str, on_score: float, off_score: float) -> None:
    if not 0 < off_score < on_score <= 1:
        raise RecipeError(
            f"An alarm for {what} needs 0 < off_score < on_score <= 1; "
            f"found off_score = {off_score}, on_score = {on_score}.",
            fix="Set off_score well below on_score, for instance 0.4 and 0.7.",
        )


def _check_seconds(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise RecipeError(f"{name} is in seconds and cannot be {value}.", fix=f"Set {name} to 0 or more.")


def _check_zone(label: str, zone: Zone) -> None:
    if len(zone) < 3 or not all(0 <= x <= 1 and 0 <= y <= 1 for x, y in zone):
        raise RecipeError(
            f"A zone of the alarm for '{label}' needs three corners or more between 0 and 1; found {zone}.",
            fix="Write [[0, 0], [1, 0], [1, 0.5], [0, 0.5]] for the upper half of the picture.",
        )
