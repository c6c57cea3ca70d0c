"""Incidents: one id from start to end, told again while they last, the same at every frame rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.core.alarm import AlarmPolicy, AlarmState, Event, Hours, step
from edgecnn.core.frame import Pixels
from edgecnn.errors import RecipeError
from edgecnn.workstation.data.procedural import render_clip

POLICY = AlarmPolicy("fire", cooldown_s=5.0, update_every_s=2.0)


def flames(pixels_rgb: Pixels) -> float:
    """A score that grows with the share of pixels that glow like a flame: 0.4 % of them are certain."""
    red, green, blue = (pixels_rgb[..., channel].astype(np.int16) for channel in range(3))
    glows = (red > 200) & (red - green > 40) & (green - blue > 40)
    return float(min(1.0, glows.mean() / 0.004))


def fold(policy: AlarmPolicy, scores: list[tuple[float, float]], hour: float | None = None) -> list[Event]:
    state, events = AlarmState(), []
    for index, (at_s, score) in enumerate(scores):
        state, event = step(policy, state, score, at_s, index, new_id=f"i{index}", hour=hour)
        if event:
            events.append(event)
    return events


def burn(rate_hz: float, spans: list[tuple[float, float]], until_s: float) -> list[tuple[float, float]]:
    times = [index / rate_hz for index in range(int(until_s * rate_hz))]
    return [(t, 0.95 if any(start <= t < end for start, end in spans) else 0.02) for t in times]


@pytest.mark.parametrize("seed", [3, 8, 21])
def test_the_same_rendered_fire_gives_the_same_incidents_at_2_10_and_30_frames_per_second(seed: int) -> None:
    policy = AlarmPolicy("fire", update_every_s=1e6)
    found = {}
    for rate_hz in (2, 10, 30):
        clip = render_clip(seed, 9.0, rate_hz, 3.0, 96, 128)
        found[rate_hz] = fold(policy, [(f.captured_at_s, flames(f.pixels_rgb)) for f in clip])

    kinds = {rate_hz: [event.kind for event in events] for rate_hz, events in found.items()}
    assert kinds == {rate_hz: ["started"] for rate_hz in (2, 10, 30)}
    starts = [events[0].at_s for events in found.values()]
    assert min(starts) > 3.0
    assert max(starts) - min(starts) <= 0.5


@given(
    phase_s=st.floats(0, 1),
    lasts_s=st.floats(3, 8),
    rates_hz=st.tuples(st.integers(2, 30), st.integers(2, 30)),
)
def test_two_cameras_of_any_rates_tell_of_a_fire_within_a_period_of_each(
    phase_s: float, lasts_s: float, rates_hz: tuple[int, int]
) -> None:
    slow, fast = sorted(rates_hz)
    spans = [(5 + phase_s, 5 + phase_s + lasts_s)]

    a, b = (fold(AlarmPolicy("fire"), burn(rate, spans, 25)) for rate in (slow, fast))

    assert [e.kind for e in a if e.kind != "updated"] == [e.kind for e in b if e.kind != "updated"]
    for one, other in zip(a, b, strict=False):
        if one.kind == "updated" or other.kind == "updated":
            break
        # Frames of two cameras do not fall on the same moments: each may be late by its own period.
        assert abs(one.at_s - other.at_s) <= 1 / slow + 1 / fast + 1e-9


def test_an_incident_keeps_its_id_and_is_told_again_while_it_lasts() -> None:
    events = fold(POLICY, burn(10, [(1, 7)], 12))

    assert [event.kind for event in events] == ["started", "updated", "updated", "ended"]
    assert len({event.incident_id for event in events}) == 1


def test_after_an_alarm_no_other_starts_until_the_cool_down_is_over() -> None:
    events = [e for e in fold(POLICY, burn(10, [(1, 4), (5.5, 20)], 20)) if e.kind != "updated"]

    assert [event.kind for event in events] == ["started", "ended", "started"]
    assert events[2].at_s - events[1].at_s == pytest.approx(5.0, abs=0.1)
    assert events[2].incident_id != events[0].incident_id


def test_one_bright_frame_of_a_slow_camera_raises_no_alarm() -> None:
    scores = [(0.0, 0.0), (2.0, 0.0), (4.0, 1.0), (6.0, 0.0), (8.0, 0.0)]

    assert fold(AlarmPolicy("fire", half_life_s=0.1, minimum_s=0.5), scores) == []


def test_a_camera_that_was_away_for_an_hour_does_not_vouch_for_that_hour() -> None:
    policy = AlarmPolicy("fire", half_life_s=0.5, minimum_s=3.0)

    events = fold(policy, [(0.0, 0.0), (3600.0, 1.0), (3600.5, 1.0), (3601.0, 1.0)])

    assert events == []


def test_other_thresholds_hold_in_the_hours_that_have_them() -> None:
    policy = AlarmPolicy("fire", hours=(Hours(22, 6, 0.98, 0.5),))
    scores = burn(10, [(1, 7)], 12)

    by_day, by_night = fold(policy, scores, hour=12.0), fold(policy, scores, hour=23.5)

    assert ([e.kind for e in by_day], by_night) == (["started", "ended"], [])


@pytest.mark.parametrize(
    "broken",
    [
        {"update_every_s": 0.0},
        {"cooldown_s": float("nan")},
        {"include": (((0.0, 0.0), (1.0, 1.0)),)},
        {"exclude": (((0.0, 0.0), (1.0, 0.0), (0.0, 2.0)),)},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        AlarmPolicy("fire", **broken)  # type: ignore[arg-type]


def test_hours_that_no_clock_shows_are_refused() -> None:
    with pytest.raises(RecipeError, match="between 0 and 24"):
        Hours(22, 25, 0.9, 0.5)
