"""The alarm is a fold in seconds."""

from __future__ import annotations

import pytest

from edgecnn.core.alarm import AlarmPolicy, AlarmState, Event, step
from edgecnn.errors import RecipeError

POLICY = AlarmPolicy("fire", on_score=0.7, off_score=0.4, half_life_s=0.5, minimum_s=1.0)


def play(rate_hz: float, burns_from_s: float, burns_until_s: float, ends_at_s: float = 20.0) -> list[Event]:
    """Fold a clip whose fire scores 0.95 while it burns and 0.05 else."""
    state, events = AlarmState(), []
    for index in range(int(ends_at_s * rate_hz)):
        at_s = index / rate_hz
        score = 0.95 if burns_from_s <= at_s < burns_until_s else 0.05
        state, event = step(POLICY, state, score, at_s, index)
        if event:
            events.append(event)
    return events


@pytest.mark.parametrize("rate_hz", [2, 10, 30])
def test_same_fire_raises_and_ends_the_alarm_at_the_same_second_at_any_frame_rate(rate_hz: float) -> None:
    reference = play(100, 5, 12)

    events = play(rate_hz, 5, 12)

    assert [(e.kind, e.at_s) for e in events] == [
        (e.kind, pytest.approx(e.at_s, abs=1 / rate_hz + 0.01)) for e in reference
    ]


def test_a_flash_shorter_than_the_minimum_raises_no_alarm() -> None:
    assert play(30, 5, 5.8) == []


def test_a_score_between_the_thresholds_neither_starts_nor_ends_an_alarm() -> None:
    state = AlarmState(score=0.55, at_s=0.0, is_on=True)

    state, event = step(POLICY, state, 0.55, 60.0, 1)

    assert (state.is_on, event) == (True, None)


def test_a_policy_that_could_never_end_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"off_score = 0\.8"):
        AlarmPolicy("fire", on_score=0.7, off_score=0.8)


@pytest.mark.parametrize("seen_s", [0, 15])
def test_a_score_that_is_no_number_is_forgotten(seen_s: int) -> None:
    state, events = AlarmState(), []
    for second in range(40):
        score = float("nan") if second == seen_s else 0.95 if 10 <= second < 20 else 0.05
        state, event = step(POLICY, state, score, second, second)
        events += [event.kind] if event else []

    assert (events[0], events[-1]) == ("started", "ended")
