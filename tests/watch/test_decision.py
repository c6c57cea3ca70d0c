"""What is told of a frame, and when the picture itself is looked at."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.core.alarm import AlarmPolicy
from edgecnn.core.frame import Frame, InputSpec, Pixels
from edgecnn.core.prediction import Head, Prediction, StageTimes
from edgecnn.core.zones import aim
from edgecnn.watch import decision
from edgecnn.watch.decision import Decider, Rules

HEADS = (Head("fire", "sigmoid", ("no_fire", "fire")),)
AT_ONCE = AlarmPolicy("fire", half_life_s=0, minimum_s=0, cooldown_s=0)
RNG = np.random.default_rng(3)
SCENE = RNG.integers(40, 200, (96, 128, 3), np.uint8)
WHITE = np.full((96, 128, 3), 255, np.uint8)


def told(decider: Decider, index: int, pixels_rgb: Pixels, score: float) -> list[str]:
    """Show one of thirty frames a second; each differs from the one before as by noise."""
    pixels_rgb = np.where(RNG.random(pixels_rgb.shape) < 0.01, pixels_rgb ^ 1, pixels_rgb)
    frame = Frame(pixels_rgb, index / 30, index)
    scores = {"fire": np.float32([1 - score, score])}
    seen = Prediction(scores, index, frame.captured_at_s, StageTimes(0, 0, 0))
    return [event.kind for event in decider.decide(frame, seen, 1e9 + index / 30)]


@pytest.fixture
def decider() -> Decider:
    return Decider(Rules((aim(AT_ONCE, HEADS),), InputSpec(96, 128), self_tests=True, frozen_after_s=10))


@pytest.mark.parametrize("index", range(1, 10))
def test_a_single_flash_starts_no_alarm_whenever_it_comes(decider: Decider, index: int) -> None:
    for before in range(index):
        told(decider, before, SCENE, 0.1)

    assert told(decider, index, WHITE, 1.0) == []
    assert decider.alarms == ()


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "covered"])
def test_a_time_in_which_nobody_could_look_is_no_time_in_which_a_score_held(is_lost: bool) -> None:
    policy = AlarmPolicy("fire", half_life_s=0, minimum_s=2)
    decider = Decider(Rules((aim(policy, HEADS),), InputSpec(96, 128), self_tests=True, frozen_after_s=10))
    for index in range(30):
        assert told(decider, index, SCENE, 0.9) == []
    if is_lost:
        decider.camera("lost", True, 1.0, 30, 1e9)
    else:
        for index in range(30, 3000, 3):
            told(decider, index, WHITE, 0.9)

    kinds = [kind for index in range(3000, 3060) for kind in told(decider, index, SCENE, 0.9)]
    at = decider.alarms

    assert ("started" in kinds, at) == (True, ("fire",))
    again = Decider(decider.rules)
    for index in range(30):
        told(again, index, SCENE, 0.9)
    again.camera("lost", True, 1.0, 30, 1e9)
    assert "started" not in told(again, 3000, SCENE, 0.9)


def test_a_flash_when_the_camera_is_back_starts_no_alarm() -> None:
    decider = Decider(Rules((aim(AlarmPolicy("fire"), HEADS),), InputSpec(96, 128), True, 10))
    for index in range(60):
        told(decider, index, SCENE, 0.0)
    decider.camera("lost", True, 2.0, 60, 1e9)

    kinds = [kind for k in range(90) for kind in told(decider, 3000 + k, SCENE, 0.9 if k < 3 else 0.0)]

    assert kinds == ["camera"]
    lasting = [kind for k in range(60) for kind in told(decider, 3090 + k, SCENE, 0.95)]
    assert lasting == ["started"]


@pytest.mark.parametrize("period_s", [0.2, 0.5, 1.0, 3.0])
def test_a_camera_that_sends_each_picture_several_times_still_raises_an_alarm(period_s: float) -> None:
    decider = Decider(Rules((aim(AlarmPolicy("fire"), HEADS),), InputSpec(96, 128), True, 10))
    started_s = []

    for index in range(25 * 20):
        at_s = index / 25
        picture = np.random.default_rng(int(at_s / period_s + 1e-9)).integers(0, 256, (96, 128, 3), np.uint8)
        score = 0.95 if at_s >= 4 else 0.0
        seen = Prediction({"fire": np.float32([1 - score, score])}, index, at_s, StageTimes(0, 0, 0))
        events = decider.decide(Frame(picture, at_s, index), seen, 1e9 + at_s)
        started_s += [event.at_s for event in events if event.kind == "started"]

    assert len(started_s) == 1
    assert 4 < started_s[0] <= 5.5 + 2 * period_s


def test_a_picture_that_stands_still_raises_no_alarm_whatever_its_score() -> None:
    decider = Decider(Rules((aim(AlarmPolicy("fire"), HEADS),), InputSpec(96, 128), True, 10))
    told(decider, 0, SCENE, 0.0)

    kinds = []
    for index in range(1, 30 * 30):
        seen = Prediction({"fire": np.float32([0, 1])}, index, index / 30, StageTimes(0, 0, 0))
        kinds += [e.kind for e in decider.decide(Frame(SCENE, index / 30, index), seen, 1e9)]

    assert kinds == ["camera"]


@pytest.mark.parametrize("index", range(1, 10))
def test_a_single_flash_ends_no_alarm_whenever_it_comes(decider: Decider, index: int) -> None:
    for before in range(index):
        told(decider, before, SCENE, 0.9)

    assert told(decider, index, WHITE, 0.0) == []
    assert decider.alarms == ("fire",)


def test_fire_after_a_flash_starts_an_alarm_with_the_first_frame_that_can_be_trusted(
    decider: Decider,
) -> None:
    kinds = [told(decider, index, WHITE if index < 5 else SCENE, 0.9) for index in range(7)]

    assert kinds == [[], [], [], [], [], ["started"], []]


def test_a_quiet_picture_is_looked_at_ten_times_a_second(
    decider: Decider, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    judge = decision.judge
    monkeypatch.setattr(decision, "judge", lambda *args: (looks.append(args[2]), judge(*args))[1])

    for index in range(60):
        told(decider, index, SCENE, 0.1)

    assert 15 <= len(looks) <= 20
    assert max(np.diff(looks)) < 0.14
