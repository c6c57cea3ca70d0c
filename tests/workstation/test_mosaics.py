"""Mosaics: four pictures in one, and what a network learns from them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from test_heads import FIRE, RECIPE_HEADS, WHERE, write_world

from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError, RecipeError
from edgecnn.workstation.backend import keras, tf, tfmot
from edgecnn.workstation.data.catalog import open_dataset
from edgecnn.workstation.data.targets import SOMEWHERE
from edgecnn.workstation.losses import NOWHERE_ODDS, PEAK_WEIGHT, loss_for, soft_loss_for
from edgecnn.workstation.models.zoo import build
from edgecnn.workstation.mosaics import any_of, cut, joined, shrunk
from edgecnn.workstation.prune import fine_tune, is_prunable
from edgecnn.workstation.recipe import folders_of, parse
from edgecnn.workstation.split import heads_of, read_split
from edgecnn.workstation.step import MOSAIC_SHARE, batch_loss, mosaic_shares
from edgecnn.workstation.train import Progress, train

NAN = float("nan")
WITH_MOSAIC = RECIPE_HEADS.replace("[augment]", "[augment]\nmosaic = true")
FIRST, *_, LAST = (part.start() for part in re.finditer(r"\[\[heads\]\]", RECIPE_HEADS))
WHERE_ALONE = RECIPE_HEADS[:FIRST] + RECIPE_HEADS[LAST:]


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


def sure_of_red(heads: int) -> keras.Model:
    """Give a network of fixed answers: logits 1 for fire where a picture is red, -2 for all else."""
    picture = keras.Input((4, 4, 3))
    where = keras.layers.Conv2D(2, 1, activation="sigmoid", name="where")
    flat = keras.layers.Dense(2, activation="sigmoid", name="danger")
    outputs = [flat(keras.layers.GlobalMaxPooling2D()(picture)), where(picture)][:heads]
    model = keras.Model(picture, outputs)
    kernel = np.float32([[3, 0], [0, 0], [0, 0]])
    for layer in (flat, where)[:heads]:
        layer.set_weights([kernel.reshape(layer.kernel.shape), np.float32([-2, -2])])
    return model


def one_red_of_four() -> tf.Tensor:
    pictures = np.zeros((4, 4, 4, 3), np.float32)
    pictures[1, ..., 0] = 1
    return tf.constant(pictures)


MISSED, RIGHT = np.log1p(np.exp(-1)), np.log1p(np.exp(-2))  # the losses of those two logits


def test_beside_other_heads_only_mosaics_teach_a_heatmap_from_pictures_that_do_not_say_where() -> None:
    cells = np.zeros((4, 4, 4, 2), np.float32)
    cells[1, ..., 0] = SOMEWHERE
    unknown = tf.fill((4, 2), NAN)
    losses = [loss_for(head, 0.0) for head in (FIRE, WHERE)]
    loss = batch_loss(sure_of_red(2), parse(RECIPE_HEADS), (FIRE, WHERE), losses)

    found = float(loss(one_red_of_four(), (unknown, tf.constant(cells))))

    # Of a whole picture 16 cells are not ahead of nowhere, of a quarter of a mosaic 4.
    silent, quiet = (RIGHT + PEAK_WEIGHT * np.log1p(count * np.exp(-2) / NOWHERE_ODDS) for count in (16, 4))
    assert found == pytest.approx(silent + (7 * quiet + MISSED) / 8, rel=1e-5)


@pytest.mark.parametrize("text", [RECIPE_HEADS, WITH_MOSAIC], ids=["no mosaic", "mosaic"])
def test_independent_labels_learn_half_as_much_from_mosaics_as_from_their_pictures(text: str) -> None:
    labels = np.zeros((4, 2), np.float32)
    labels[1, 0] = 1
    loss = batch_loss(sure_of_red(1), parse(text), (FIRE,), [loss_for(FIRE, 0.0)])

    found = float(loss(one_red_of_four(), (tf.constant(labels),)))

    pictures, mosaic = (7 * RIGHT + MISSED) / 8, (RIGHT + MISSED) / 2
    assert found == pytest.approx(pictures + MOSAIC_SHARE * mosaic * (text == WITH_MOSAIC), rel=1e-5)


def test_a_teacher_is_asked_about_mosaics_too() -> None:
    seen = []

    def teach(pictures: tf.Tensor) -> tuple[tf.Tensor]:
        seen.append(len(pictures))
        return (tf.fill((len(pictures), 2), 1.0),)

    taught = teach, (soft_loss_for(FIRE, 1.0),), 1.0
    labels = tf.zeros((4, 2))
    loss = batch_loss(sure_of_red(1), parse(WITH_MOSAIC), (FIRE,), [loss_for(FIRE, 0.0)], taught)

    found = float(loss(one_red_of_four(), (labels,)))

    surprised = np.log1p(np.exp(2))
    pictures, mosaic = (7 * surprised + MISSED) / 8, (surprised + MISSED) / 2
    assert seen == [5]
    assert found == pytest.approx(pictures + MOSAIC_SHARE * mosaic, rel=1e-3)


def test_a_batch_with_its_mosaics_is_one_call_of_the_network() -> None:
    """Batch norm follows each call, and TFMOT's pruning counts it."""
    picture = keras.Input((4, 4, 3))
    norm = keras.layers.BatchNormalization(momentum=0.5, name="norm")
    flat = keras.layers.Dense(2, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(norm(picture)))
    model = keras.Model(picture, flat)
    loss = batch_loss(model, parse(WITH_MOSAIC), (FIRE,), [loss_for(FIRE, 0.0)])

    loss(tf.ones((4, 4, 4, 3)), (tf.zeros((4, 2)),))

    np.testing.assert_allclose(norm.moving_mean, 0.5)


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
        (RECIPE_HEADS.replace("epochs = 10", "epochs = 0\nhead_epochs = 3"), "tell a heatmap nothing"),
        (WHERE_ALONE.replace("epochs = 10", "epochs = 10\nhead_epochs = 3"), "asks for nothing else"),
    ],
)
def test_recipes_that_teach_a_head_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE_HEADS.replace("height_px = 32", "height_px = 31"), "31 x 32 pixels have no halves"),
        (RECIPE_HEADS.replace("height_px = 32", "height_px = 34"), "17 x 16 cells of the heatmap 'where'"),
        (RECIPE_HEADS.replace("batch_size = 16", "batch_size = 3"), "a batch has 3"),
    ],
)
def test_what_no_mosaic_can_be_made_of_is_refused(tmp_path: Path, text: str, message: str) -> None:
    data = open_dataset(write_world(tmp_path / "world"), folders_of(parse(text)))

    with pytest.raises(ModelError, match=message):
        train(parse(text), text, data, tmp_path / "run")


def test_the_ramp_of_pruning_takes_as_many_steps_as_there_are_batches(tmp_path: Path) -> None:
    recipe = parse(WITH_MOSAIC)
    data = open_dataset(write_world(tmp_path / "world"), folders_of(recipe))
    heads = heads_of(recipe, data)
    model = build(recipe.model, recipe.input, heads)
    training = read_split(data, "train", recipe, heads, model)
    toolkit = tfmot().sparsity.keras
    wrapped = keras.models.clone_model(
        model, clone_function=lambda x: toolkit.prune_low_magnitude(x) if is_prunable(x) else x
    )

    callbacks = [toolkit.UpdatePruningStep()]
    fine_tune(wrapped, heads, training, recipe, 1, 1e-3, callbacks, Progress())

    steps = {int(x) for x in wrapped.weights if "pruning_step" in x.name}
    assert steps == {-(-len(training.codes) // recipe.train.batch_size)}
