"""The self-test: each way in which a picture cannot be trusted is named, and none raises a fire alarm."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from edgecnn.core.frame import Frame, Pixels
from edgecnn.watch.selftest import SelfTest, judge
from edgecnn.workstation.data.procedural import render_clip, render_scene

SCENE = render_scene(np.random.default_rng(5), flames=False, height_px=240, width_px=320)


def noisy(pixels_rgb: Pixels, seed: int) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, 3, pixels_rgb.shape)
    return np.clip(pixels_rgb + noise, 0, 255).astype(np.uint8)


def cloth(pixels_rgb: Pixels) -> Pixels:
    shade = np.linspace(70, 110, pixels_rgb.shape[1])[None, :, None]
    return np.broadcast_to(shade, pixels_rgb.shape).astype(np.uint8)


BROKEN: dict[str, Callable[[Pixels, int], Pixels]] = {
    "frozen": lambda pixels, _: pixels,
    "covered": lambda pixels, seed: noisy(cloth(pixels), seed),
    "dark": lambda pixels, seed: noisy(np.zeros_like(pixels), seed),
    "over-exposed": lambda pixels, seed: noisy(np.full_like(pixels, 255), seed),
    "swapped": lambda pixels, seed: noisy(np.ascontiguousarray(pixels[..., ::-1]), seed),
}


def watched(
    spoil: Callable[[Pixels, int], Pixels], from_s: float, to_s: float, until_s: float
) -> Iterator[Frame]:
    for index in range(int(until_s * 5)):
        at_s = index / 5
        is_broken = from_s <= at_s < to_s
        yield Frame(spoil(SCENE, index) if is_broken else noisy(SCENE, index), at_s, index)


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_of_the_picture_is_told_once_when_it_begins_and_once_when_it_is_over(name: str) -> None:
    state, told = SelfTest(), []

    for frame in watched(BROKEN[name], 70, 90, 95):
        state, verdict = judge(state, frame.pixels_rgb, frame.captured_at_s)
        told += [(fault, True, frame.captured_at_s) for fault in verdict.began]
        told += [(fault, False, frame.captured_at_s) for fault in verdict.ended]

    wait_s = 10.2 if name == "frozen" else 2.0
    assert told == [
        (name, True, pytest.approx(70 + wait_s, abs=0.3)),
        (name, False, pytest.approx(91, abs=0.3)),
    ]


@pytest.mark.parametrize("luma", [0, 6, 14, 24])
@pytest.mark.parametrize("radius_px", [3, 8])
def test_a_far_flame_in_a_night_without_detail_is_no_fault(luma: int, radius_px: int) -> None:
    night = np.full((480, 640, 3), luma, np.uint8)
    cv2.circle(night, (200, 300), radius_px, (255, 160, 60), -1)

    assert judge(SelfTest(), noisy(night, 1), 0.0)[1].suspicions == frozenset()


def test_hot_pixels_behind_a_cap_and_light_beside_a_cloth_are_no_flames() -> None:
    cap = np.zeros((480, 640, 3), np.uint8)
    cap[np.random.default_rng(1).integers(0, 480, 20), np.random.default_rng(2).integers(0, 640, 20)] = 255
    leak = np.broadcast_to(np.linspace(20, 200, 640)[None, :, None], (480, 640, 3)).astype(np.uint8)

    assert judge(SelfTest(), noisy(cap, 1), 0.0)[1].suspicions == {"dark"}
    assert judge(SelfTest(), noisy(leak, 1), 0.0)[1].suspicions == {"covered"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_frame_of_a_broken_picture_is_suspected_at_once_so_that_it_cannot_raise_an_alarm(name: str) -> None:
    state = SelfTest()
    suspected = []

    for frame in watched(BROKEN[name], 70, 72, 74):
        state, verdict = judge(state, frame.pixels_rgb, frame.captured_at_s)
        suspected.append(name in verdict.suspicions)

    expected = [70 <= index / 5 < 72 for index in range(len(suspected))]
    if name == "frozen":  # the first unchanged picture differs from the one before it
        expected[350] = False
    assert suspected == expected


def test_a_fire_that_starts_in_the_picture_is_no_fault_of_the_camera() -> None:
    for seed in range(6):
        state, found = SelfTest(), set()
        for frame in render_clip(seed, 80.0, 3, 70.0, 120, 160):
            state, verdict = judge(state, frame.pixels_rgb, frame.captured_at_s)
            found |= verdict.suspicions
        assert found == set(), seed


def test_nightfall_that_turns_the_scene_blue_is_not_taken_for_swapped_colours() -> None:
    state, found = SelfTest(), set()
    for index in range(900):
        at_s = index * 4.0
        night = min(1.0, max(0.0, (at_s - 600) / 2400))
        tint = np.array([1 - 0.75 * night, 1 - 0.7 * night, 1 - 0.55 * night])
        pixels = noisy(np.clip(SCENE * tint, 0, 255).astype(np.uint8), index)
        state, verdict = judge(state, pixels, at_s)
        found |= verdict.suspicions

    assert "swapped" not in found


def test_a_lens_out_of_focus_is_not_taken_for_a_covered_one() -> None:
    blurred = cv2.GaussianBlur(SCENE, (0, 0), 4)

    assert judge(SelfTest(), blurred, 0.0)[1].suspicions == frozenset()
