"""What a student hears from a teacher, whether that is a Keras model or a file of the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from blobs import RECIPE, write_blobs

from edgecnn.bundle.manifest import Precision
from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.catalog import Dataset, open_dataset
from edgecnn.workstation.data.pipeline import codes_of
from edgecnn.workstation.models.zoo import build
from edgecnn.workstation.recipe import Distill, parse
from edgecnn.workstation.teachers import Teacher, open_teacher, teaching
from edgecnn.workstation.train import train

TAUGHT = (
    RECIPE.replace("epochs = 8", 'epochs = 3\nfreeze = "batch_norm"\nema = 0.9')
    + """
[distill]
weight = 1.0
temperature = 1.0
"""
)
GREY = RECIPE.replace("width_px = 16", "width_px = 16\nchannels = 1")


@pytest.fixture(
    scope="module", params=[("blue", "green", "red"), ("blue", "green")], ids=["three", "two labels"]
)
def blobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_blobs(tmp_path_factory.mktemp("blobs") / "blobs", request.param))


@pytest.fixture(scope="module", params=[RECIPE, GREY], ids=["colour", "grey"])
def trained(request: pytest.FixtureRequest, blobs: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = request.param.replace("epochs = 8", "epochs = 2")
    return train(parse(text), text, blobs, tmp_path_factory.mktemp("run")).path


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_tflite_teacher_answers_as_the_model_that_it_was_made_from(
    precision: Precision, trained: Path, blobs: Dataset, tmp_path: Path
) -> None:
    path = convert(trained, tmp_path / "teacher.tflite", precision, blobs).bundle.path
    quick, slow = open_teacher(path), open_teacher(trained)
    recipe = parse(model_file.read_card(trained).recipe)  # type: ignore[union-attr]
    student = build(recipe.model, recipe.input, slow.heads)
    codes = codes_of(blobs.split("test"), recipe.input).astype(np.float32)
    one, other = (
        teaching([teacher], student, slow.heads, Distill())[0](tf.constant(codes))[0].numpy()
        for teacher in (quick, slow)
    )

    assert one.shape == other.shape
    assert np.abs(one - other).max() < (1e-4 if precision == "float32" else 0.1)


def test_a_keras_teacher_takes_pictures_of_another_number_of_channels(trained: Path, blobs: Dataset) -> None:
    teacher = open_teacher(trained)
    picture = blobs.split("test")[0].read()[None, 2:18, 2:18].astype(np.float32)
    grey = picture.mean(axis=-1, keepdims=True)
    (one,) = teacher.answer(tf.constant(grey))
    (same,) = teacher.answer(tf.constant(np.repeat(grey, 3, -1)))

    assert np.abs(one.numpy() - same.numpy()).max() < 1e-3


def test_an_int8_teacher_is_no_surer_than_half_a_code(trained: Path, blobs: Dataset, tmp_path: Path) -> None:
    teacher = open_teacher(convert(trained, tmp_path / "teacher.tflite", "int8", blobs).bundle.path)
    picture = blobs.split("test")[0].read()[None, 2:18, 2:18].astype(np.float32)
    (answer,) = teacher.answer(tf.constant(picture))

    assert answer.numpy().min() >= 1 / 512
    assert answer.numpy().max() <= 511 / 512


@pytest.mark.parametrize("trained", [RECIPE], indirect=True, ids=["colour"])
def test_a_student_of_a_file_resumes_to_the_same_weights_and_names_its_teacher(
    trained: Path,
    blobs: Dataset,
    tmp_path: Path,
    dies_after_an_epoch: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    teachers = [convert(trained, tmp_path / "teacher.tflite", "int8", blobs).bundle.path]
    whole = train(parse(TAUGHT), TAUGHT, blobs, tmp_path / "whole", teachers=teachers)
    with dies_after_an_epoch():
        train(parse(TAUGHT), TAUGHT, blobs, tmp_path / "broken", teachers=teachers)
    with pytest.raises(ModelError, match="another --init, --teacher or --boxes"):
        train(parse(TAUGHT), TAUGHT, blobs, tmp_path / "broken", resume=True)
    resumed = train(parse(TAUGHT), TAUGHT, blobs, tmp_path / "broken", resume=True, teachers=teachers)

    pairs = zip(*(model_file.load(run.path)[0].get_weights() for run in (whole, resumed)), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    student = convert(whole.path, tmp_path / "student.tflite", "int8", blobs).bundle.manifest
    assert student is not None
    assert student.provenance.teachers_sha256 == {"blobs": open_teacher(teachers[0]).sha256}


@pytest.mark.parametrize("trained", [RECIPE], indirect=True, ids=["colour"])
def test_a_finished_run_of_another_teacher_is_not_taken_for_this_one(
    trained: Path, blobs: Dataset, tmp_path: Path
) -> None:
    text = model_file.read_card(trained).recipe  # type: ignore[union-attr]
    teacher = convert(trained, tmp_path / "teacher.tflite", "int8", blobs).bundle.path

    with pytest.raises(ModelError, match="is there already"):
        train(parse(text), text, blobs, trained.parent, resume=True, teachers=[teacher])


def test_a_teacher_with_a_heatmap_of_another_grid_says_that_it_does_not_teach_it() -> None:
    heads = (
        Head("fire", "sigmoid", ("fire", "smoke"), 0, True),
        Head("place", "heatmap", ("fire", "smoke"), 1),
    )
    entry = keras.Input((8, 8, 2))
    student = keras.Model(entry, [keras.layers.GlobalAveragePooling2D()(entry), entry])
    told: list[str] = []

    for grid in (4, 8):
        teacher = Teacher("sentinel", heads, ((2,), (grid, grid, 2)), "ab", lambda _: [])
        teaching([teacher], student, heads, Distill(), told.append)

    (note,) = told
    assert note.startswith("sentinel does not teach place:")


def test_a_teacher_that_edgecnn_did_not_make_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.keras"
    keras.Sequential([keras.layers.Dense(2, input_shape=(4,))]).save(path)

    with pytest.raises(ModelError, match="edgecnn did not make it"):
        open_teacher(path)
