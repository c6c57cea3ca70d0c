from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.core.frame import Pixels
from edgecnn.errors import DataError
from edgecnn.workstation.data.flames import Pasted, cut_flames, pasted
from edgecnn.workstation.data.procedural import render_scene


@pytest.fixture(scope="module")
def scenery() -> list[Pixels]:
    return [render_scene(np.random.default_rng([9, seed]), False, 96, 128) for seed in range(12)]


@pytest.fixture(scope="module")
def burning(scenery: list[Pixels]) -> list[Pasted]:
    return list(pasted(scenery, count=120, seed=3))


def warmth(pixels: Pixels) -> NDArray[np.float64]:
    return pixels[..., 0].astype(float) - pixels[..., 2]


def test_labels_name_exactly_what_the_masks_show(burning: list[Pasted]) -> None:
    for picture in burning:
        assert picture.labels
        assert picture.labels == tuple(name for name, mask in picture.masks.items() if mask.any())
        assert all(mask.shape == picture.pixels.shape[:2] for mask in picture.masks.values())
    assert {picture.labels for picture in burning} == {("fire",), ("smoke",), ("fire", "smoke")}


def test_flames_are_brighter_and_warmer_than_what_is_around_them(burning: list[Pasted]) -> None:
    flames = [
        p for p in burning if "fire" in p.labels and 30 <= p.masks["fire"].sum() < p.masks["fire"].size / 2
    ]
    hotter = [
        p.pixels[p.masks["fire"], 0].mean() > p.pixels[~p.masks["fire"], 0].mean()
        and warmth(p.pixels)[p.masks["fire"]].mean() > warmth(p.pixels)[~p.masks["fire"]].mean()
        for p in flames
    ]
    assert len(flames) > 40
    assert np.mean(hotter) > 0.9


def test_fires_come_from_a_few_pixels_to_a_large_part_of_the_picture(burning: list[Pasted]) -> None:
    shares = [p.masks["fire"].mean() for p in burning if "fire" in p.labels]
    assert min(shares) < 0.003
    assert max(shares) > 0.25


def test_a_picture_depends_on_its_seed_and_number_alone(scenery: list[Pixels], burning: list[Pasted]) -> None:
    for one, again in zip(pasted(scenery, count=5, seed=3), burning, strict=False):
        np.testing.assert_array_equal(one.pixels, again.pixels)
    other = next(pasted(scenery, count=1, seed=4))
    assert other.pixels.shape != burning[0].pixels.shape or (other.pixels != burning[0].pixels).any()


def test_backgrounds_are_left_as_they_are(scenery: list[Pixels]) -> None:
    before = [background.copy() for background in scenery]
    list(pasted(scenery, count=20, seed=1))
    for background, was in zip(scenery, before, strict=True):
        np.testing.assert_array_equal(background, was)


def test_a_fire_fits_into_the_smallest_and_the_narrowest_picture() -> None:
    for shape in ((16, 16, 3), (20, 200, 3), (200, 20, 3)):
        grey = np.full(shape, 100, np.uint8)
        assert [p.pixels.shape for p in pasted([grey], count=25, seed=2)] == [shape] * 25


def test_without_a_background_there_is_a_way_out() -> None:
    with pytest.raises(DataError, match="no picture"):
        next(pasted([], count=1, seed=1))


def test_a_cut_flame_is_the_warm_part_of_its_box_and_ends_softly() -> None:
    pixels = np.full((60, 80, 3), (40, 70, 120), np.uint8)
    pixels[20:40, 30:50] = (255, 160, 40)
    patch, alpha = cut_flames(pixels, (20, 10, 40, 40))
    assert patch.shape == (40, 40, 3)
    assert alpha[20, 20] > 0.95
    assert alpha[20, 2] < 0.05
    assert ((alpha > 0.1) & (alpha < 0.9)).any()


def test_a_box_beyond_the_picture_is_refused() -> None:
    with pytest.raises(DataError, match="no pixel"):
        cut_flames(np.zeros((40, 40, 3), np.uint8), (50, 0, 10, 10))


def test_flames_that_were_cut_out_burn_elsewhere() -> None:
    # A green that no rendered flame has shows where the cut-out went.
    patch, alpha = np.full((30, 20, 3), (255, 250, 0), np.uint8), np.ones((30, 20), np.float32)
    night = np.full((96, 96, 3), 8, np.uint8)
    made = list(pasted([night], count=40, seed=5, real_flames=[(patch, alpha)]))
    is_there = [(p.pixels[..., 1].astype(int) > p.pixels[..., 0] * 0.8 + 30).mean() > 0.01 for p in made]
    plain = [
        (p.pixels[..., 1].astype(int) > p.pixels[..., 0] * 0.8 + 30).mean() > 0.01
        for p in pasted([night], 40, 5)
    ]
    assert sum(is_there) > sum(plain) + 5
