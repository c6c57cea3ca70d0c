"""Mosaics: four pictures in one, and what a network learns from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_heads import FIRE, RECIPE_HEADS, WHERE, write_world

from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError, RecipeError
from edgecnn.workstation.averages import Averages
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.data.catalog import open_dataset
from edgecnn.workstation.data.targets import SOMEWHERE
from edgecnn.workstation.losses import loss_for, placed
from edgecnn.workstation.mosaics import any_of, cut, joined, shrunk
from edgecnn.workstation.recipe import folders_of, parse
from edgecnn.workstation.train import MOSAIC_SHARE, make_step, mosaic_shares, train

NAN = float("nan")
WITH_MOSAIC = RECIPE_HEADS.replace("[augment]", "[augment]\nmosaic = true")


def test_each_picture_fills_its_quarter_and_is_cut_out_of_it_again() -> None:
    pictures = np.random.default_rng(1).uniform(0, 255, (8, 6, 4, 3)).astype(np.float32)

    mosaics = joined(tf.constant(pictures))

    halves = pictures.reshape(8, 3, 2, 2, 2, 3).mean((2, 4))
    assert mosaics.shape == (2, 6, 4, 3)
    np.testing.assert_allclose(mosaics[1, 3:, :2], halves[6], rtol=1e-5)
    np.testing.assert_allclose(cut(mosaics), halves, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_a_batch_that_is_no_multiple_of_four_is_filled_from_its_start(count: int) -> None:
    numbers = tf.range(float(count))
    pictures = tf.reshape(numbers, (-1, 1, 1, 1)) * tf.ones((1, 2, 2, 1))
    whole = [place % count for place in range(-(-count // 4) * 4)]

    assert cut(joined(pictures))[:, 0, 0, 0].numpy().tolist() == whole
    assert shrunk(pictures)[:, 0, 0, 0].numpy().tolist() == whole
    assert any_of(numbers[:, None] + 1).numpy()[:, 0].tolist() == [
        max(whole[start : start + 4]) + 1 for start in range(0, len(whole), 4)
    ]


def test_what_is_not_known_of_a_picture_is_not_known_of_its_quarter() -> None:
    cells = np.zeros((4, 2, 2, 2), np.float32)
    cells[0, ..., 0], cells[1, ..., 0], cells[2, 0, 1, 0] = NAN, SOMEWHERE, 0.7

    small = shrunk(tf.constant(cells)).numpy()

    np.testing.assert_array_equal(small[:, 0, 0, 0], np.float32([NAN, SOMEWHERE, 0.7, 0]))
    assert not small[..., 1].any()


@pytest.mark.parametrize(
    ("four", "expected"),
    [([0, 0, 0, 0], 0), ([0, 1, 0, 0], 1), ([0, NAN, 0, 0], NAN), ([NAN, 1, 0, NAN], 1), ([NAN] * 4, NAN)],
)
def test_a_mosaic_shows_what_one_of_its_pictures_shows(four: list[float], expected: float) -> None:
    np.testing.assert_array_equal(any_of(tf.constant(four, tf.float32)[:, None]), np.float32([[expected]]))


def test_the_quarter_that_burns_is_learned_where_no_picture_says_where() -> None:
    picture = keras.Input((4, 4, 3))
    where = keras.layers.Conv2D(2, 1, activation="sigmoid", name="where")(picture)
    model = keras.Model(picture, [keras.layers.GlobalAveragePooling2D()(where), where])
    pictures = np.zeros((4, 4, 4, 3), np.float32)
    pictures[1, ..., 0] = 1  # red
    unknown = np.full((4, 2), np.nan, np.float32)
    cells = np.zeros((4, 4, 4, 2), np.float32)
    cells[1, ..., 0] = SOMEWHERE
    heads = (FIRE, WHERE)
    losses = [loss_for(head, 0.0) for head in heads]
    optimizer, following = keras.optimizers.SGD(1.0), Averages(model.trainable_variables, 0.0)
    step = make_step(model, parse(RECIPE_HEADS), heads, losses, optimizer, following)

    for _ in range(300):
        step(tf.constant(pictures), (tf.constant(unknown), tf.constant(cells)))

    heat = model(joined(tf.constant(pictures)))[1].numpy()[0, ..., 0]
    assert heat[:2, 2:].min() > 0.8
    assert np.delete(heat.ravel(), [2, 3, 6, 7]).max() < 0.2


def test_a_whole_picture_teaches_a_heatmap_beside_other_heads_only_known_places() -> None:
    targets = np.float32([[[[SOMEWHERE, 0, 0.7, NAN]]]])

    np.testing.assert_array_equal(placed(tf.constant(targets)), np.float32([[[[NAN, 0, 0.7, NAN]]]]))


def test_independent_labels_learn_from_mosaics_if_asked_and_heatmaps_beside_other_heads_always() -> None:
    ground, word = Head("ground", "softmax", ("a", "b")), Head("word", "sigmoid", ("no", "yes"))

    assert mosaic_shares((ground, FIRE, WHERE), mosaic=True) == (0, MOSAIC_SHARE, 1)
    assert mosaic_shares((ground, FIRE, WHERE), mosaic=False) == (0, 0, 1)
    assert mosaic_shares((word,), mosaic=True) == (0,)
    assert mosaic_shares((WHERE,), mosaic=False) == (0,)
    assert mosaic_shares((WHERE,), mosaic=True) == (1,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WITH_MOSAIC[: WITH_MOSAIC.index('[[heads]]\nname = "danger"')], "mosaic teaches independent labels"),
        (WITH_MOSAIC.replace("height_px = 32", "height_px = 31"), "cannot be shrunk to a half"),
    ],
)
def test_mosaics_that_teach_nothing_or_have_no_halves_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(text)


def test_a_heatmap_that_no_mosaic_can_be_cut_out_of_is_refused(tmp_path: Path) -> None:
    text = WITH_MOSAIC.replace("height_px = 32", "height_px = 34")
    data = open_dataset(write_world(tmp_path / "world"), folders_of(parse(text)))

    with pytest.raises(ModelError, match="no mosaic can be cut out"):
        train(parse(text), text, data, tmp_path / "run")
