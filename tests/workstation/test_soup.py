"""The mean of the weights of several trainings, and when there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from blobs import RECIPE, write_blobs

from edgecnn.bundle.manifest import Manifest
from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.backend import keras
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.catalog import Dataset, open_dataset
from edgecnn.workstation.quality import evaluate
from edgecnn.workstation.recipe import folders_of, parse
from edgecnn.workstation.split import read_split, split_to_centre_on
from edgecnn.workstation.train import Progress, Trained, centre, train

ALARM = """
[[heads]]
name = "alarm"
kind = "sigmoid"

[heads.classes]
red = ["red"]
green = ["green"]

[heads.negatives]
red = ["blue", "green"]
green = ["blue", "red"]
"""


def text_of(seed: int, epochs: int = 2) -> str:
    text = RECIPE.replace("epochs = 8", f"epochs = {epochs}\nseed = {seed}")
    return text.replace('"blobs"', f'"blobs-{seed}"')


def run(dataset: Dataset, out: Path, text: str, **given: object) -> Trained:
    return train(parse(text), text, dataset, out, **given)  # type: ignore[arg-type]


def weights(trained: Trained) -> list[np.ndarray]:
    return list(model_file.load(trained.path)[0].get_weights())


def digest(trained: Trained) -> str:
    return model_file.weights_sha256(model_file.load(trained.path)[0])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("blobs") / "blobs")


@pytest.fixture(scope="module")
def blobs(pictures: Path) -> Dataset:
    return open_dataset(pictures)


@pytest.fixture(scope="module")
def start(blobs: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(blobs, tmp_path_factory.mktemp("start"), text_of(0, 6)).path


@pytest.fixture(scope="module")
def sister(blobs: Dataset, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(blobs, tmp_path_factory.mktemp("sister"), text_of(1), init=str(start))


def test_the_model_is_the_mean_of_the_weights_and_says_of_whose(
    blobs: Dataset, start: Path, sister: Trained, tmp_path: Path
) -> None:
    alone = run(blobs, tmp_path / "alone", text_of(2), init=str(start))
    notes: list[str] = []
    mean = run(
        blobs, tmp_path / "mean", text_of(2), init=str(start), averaged=[sister.path],
        progress=Progress(on_note=notes.append),
    )  # fmt: skip

    assert any(not np.array_equal(a, b) for a, b in zip(weights(alone), weights(sister), strict=True))
    for found, one, other in zip(weights(mean), weights(alone), weights(sister), strict=True):
        np.testing.assert_allclose(found, (one + other) / 2, rtol=1e-6, atol=1e-7)
    model, card = model_file.load(mean.path)
    assert card is not None
    val = read_split(blobs, "val", parse(card.recipe), card.heads, model)
    assert card.val_top1 == evaluate(model, card.heads, val).top1
    assert "on val, and this run alone: colour " in notes[-1]
    manifest = convert(mean.path, tmp_path / "mean.tflite", "int8", blobs).bundle.manifest
    assert isinstance(manifest, Manifest)
    assert manifest.provenance.averaged_sha256 == {"blobs-1": digest(sister)}


def test_the_order_of_the_others_does_not_matter(
    blobs: Dataset, start: Path, sister: Trained, tmp_path: Path
) -> None:
    alike = run(blobs, tmp_path / "alike", text_of(2).replace("blobs-2", "blobs-1"), init=str(start))
    both = [sister.path, alike.path]
    run(blobs, tmp_path / "mean", text_of(3), init=str(start), averaged=both)

    again = run(blobs, tmp_path / "mean", text_of(3), init=str(start), averaged=both[::-1], resume=True)
    assert set(again.card.averaged_sha256) == {"blobs-1", "blobs-1 2"}


def test_a_mean_is_centred_so_that_doing_it_again_changes_little(pictures: Path, tmp_path: Path) -> None:
    texts = [text_of(seed).replace('head = "colour"', "") + ALARM for seed in (0, 1, 2)]
    dataset = open_dataset(pictures, folders_of(parse(texts[0])))
    start = run(dataset, tmp_path / "start", texts[0].replace("epochs = 2", "epochs = 6")).path
    sister = run(dataset, tmp_path / "sister", texts[1], init=str(start)).path

    mean = run(dataset, tmp_path / "mean", texts[2], init=str(start), averaged=[sister])

    model, card = model_file.load(mean.path)
    assert card is not None
    before = model.get_weights()
    val = read_split(dataset, "val", parse(texts[2]), card.heads, model)
    centre(model, card.heads, split_to_centre_on(val, dataset, parse(texts[2]), card.heads))
    for moved, weight in zip(model.get_weights(), before, strict=True):
        # A mean that is not centred moves by 0.09.
        np.testing.assert_allclose(moved, weight, rtol=0, atol=0.03)


def test_trainings_from_several_starts_have_no_mean_and_the_run_is_not_lost(
    blobs: Dataset, tmp_path: Path
) -> None:
    others = [run(blobs, tmp_path / str(seed), text_of(seed, 8)).path for seed in (3, 4)]

    with pytest.raises(ModelError, match="is worse on val than this run alone: colour ") as refused:
        run(blobs, tmp_path / "run", text_of(1, 8), averaged=others)
    assert "--resume and without --average" in refused.value.fix
    assert not (tmp_path / "run" / "model.h5").exists()
    resumed = run(blobs, tmp_path / "run", text_of(1, 8), resume=True)
    assert len(resumed.history) == 8
    assert resumed.card.val_top1 > 0.95
    assert not resumed.card.averaged_sha256


def test_a_finished_run_is_not_taken_for_the_mean_of_two(
    blobs: Dataset, start: Path, sister: Trained, tmp_path: Path
) -> None:
    run(blobs, tmp_path, text_of(2), init=str(start))

    with pytest.raises(ModelError, match="is there already"):
        run(blobs, tmp_path, text_of(2), init=str(start), resume=True, averaged=[sister.path])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("filters = 8", "filters = 4"),
        ('activation = "relu6"', 'activation = "relu"'),
        ('head = "colour"', 'head = "tint"'),
        ("height_px = 16", "height_px = 17"),
    ],
    ids=["network", "activation", "head", "input"],
)
def test_another_network_is_refused_before_training(
    old: str, new: str, blobs: Dataset, sister: Trained, tmp_path: Path
) -> None:
    assert old in RECIPE
    with pytest.raises(ModelError, match="have no mean"):
        run(blobs, tmp_path, RECIPE.replace(old, new), averaged=[sister.path])
    assert not list(tmp_path.iterdir())


def test_an_older_network_of_the_same_recipe_is_refused_before_training(
    blobs: Dataset, sister: Trained, tmp_path: Path
) -> None:
    model, card = model_file.load(sister.path)
    assert card is not None
    grown = keras.Model(model.input, keras.layers.Dense(2, name="more")(model.output))
    model_file.save(grown, tmp_path / "older.h5", card)
    with pytest.raises(ModelError, match="have no mean"):
        run(blobs, tmp_path / "mean", text_of(2), averaged=[tmp_path / "older.h5"])
    assert not (tmp_path / "mean").exists()


def test_what_has_seen_the_pictures_left_out_is_refused(
    pictures: Path, sister: Trained, tmp_path: Path
) -> None:
    text = 'leave_out = ["1?.png"]\n' + text_of(2)

    with pytest.raises(ModelError, match="was trained on other pictures"):
        run(open_dataset(pictures, leave_out=["1?.png"]), tmp_path, text, averaged=[sister.path])
    assert not list(tmp_path.iterdir())


def test_what_edgecnn_did_not_train_is_refused(blobs: Dataset, sister: Trained, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.keras"
    model_file.load(sister.path)[0].save(foreign)

    with pytest.raises(ModelError, match="was not trained by edgecnn"):
        run(blobs, tmp_path / "run", text_of(2), averaged=[foreign])
