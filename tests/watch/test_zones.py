"""Zones: which cells of a heatmap count, and where in the picture something is seen."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.core.alarm import AlarmPolicy, Zone
from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head, Prediction, StageTimes
from edgecnn.core.zones import Window, aim, box_of, mask, score_of
from edgecnn.errors import RecipeError

SCENE = Head("scene", "softmax", ("calm", "fire"))
WHERE = Head("where", "heatmap", ("fire", "smoke"))
LEFT: Zone = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
DOT: Zone = ((0.6, 0.6), (0.61, 0.6), (0.61, 0.61), (0.6, 0.61))


def prediction(scene: float, cells: dict[tuple[int, int], float]) -> Prediction:
    heat = np.zeros((4, 8, 2), np.float32)
    for cell, score in cells.items():
        heat[cell][0] = score
    heads = {"scene": np.array([1 - scene, scene], np.float32), "where": heat}
    return Prediction(heads, 0, 0.0, StageTimes(0, 0, 0))


def test_a_fire_in_an_excluded_chimney_does_not_count_and_one_beside_it_does() -> None:
    one = aim(AlarmPolicy("fire", exclude=(LEFT,)), [SCENE, WHERE])

    assert score_of(one, prediction(0.9, {(1, 1): 0.95})) == 0.0
    assert score_of(one, prediction(0.1, {(1, 5): 0.9})) == pytest.approx(0.9)


def test_only_what_lies_in_an_included_zone_counts() -> None:
    one = aim(AlarmPolicy("fire", include=(LEFT,)), [SCENE, WHERE])

    assert score_of(one, prediction(0.1, {(1, 1): 0.8, (1, 5): 0.9})) == pytest.approx(0.8)


def test_without_zones_the_head_that_saw_the_whole_picture_decides_and_the_heatmap_says_where() -> None:
    one = aim(AlarmPolicy("fire"), [WHERE, SCENE])
    found = prediction(0.7, {(1, 4): 0.9, (2, 5): 0.8, (0, 0): 0.5})

    assert score_of(one, found) == pytest.approx(0.7)
    assert box_of(one, found) == (0.5, 0.25, 0.75, 0.75)


def test_where_nothing_is_seen_there_is_no_box() -> None:
    assert box_of(aim(AlarmPolicy("fire"), [SCENE, WHERE]), prediction(0.9, {})) is None
    assert box_of(aim(AlarmPolicy("fire"), [SCENE]), prediction(0.9, {(0, 0): 1.0})) is None


def test_zones_without_a_heatmap_are_refused_with_the_reason() -> None:
    with pytest.raises(RecipeError, match="no heatmap"):
        aim(AlarmPolicy("fire", include=(LEFT,)), [SCENE])


def test_a_label_that_the_model_does_not_know_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        aim(AlarmPolicy("fires"), [SCENE, WHERE])

    assert caught.value.fix == "Did you mean 'fire'?"


def test_a_zone_smaller_than_a_cell_still_works_as_its_cell() -> None:
    assert mask((DOT,), (), 4, 8).nonzero()[0].tolist() == [2]
    assert np.argwhere(~mask((), (DOT,), 4, 8)).tolist() == [[2, 4]]


def test_an_excluded_zone_takes_no_cell_of_which_it_covers_less_than_half() -> None:
    wide: Zone = ((0.0, 0.0), (0.3, 0.0), (0.3, 1.0), (0.0, 1.0))  # 2.4 of 8 columns

    assert mask((), (wide,), 1, 8).tolist() == [[False, False, True, True, True, True, True, True]]


def test_a_zone_follows_the_picture_into_the_letterbox() -> None:
    window = Window.of(InputSpec(100, 100, resize="letterbox"), 240, 480)
    upper: Zone = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5))

    assert mask((upper,), (), 4, 4, window).any(axis=1).tolist() == [False, True, False, False]
    heat = prediction(0.9, {(1, 0): 0.9})
    assert box_of(aim(AlarmPolicy("fire"), [WHERE]), heat, window) == (0.0, 0.0, 0.125, 0.5)
