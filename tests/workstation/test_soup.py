"""The mean of the weights of several trainings, and when there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from blobs import RECIPE, write_blobs

from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.catalog import Dataset, open_dataset
from edgecnn.workstation.recipe import parse
from edgecnn.workstation.train import Progress, Trained, train


def run(dataset: Dataset, out: Path, seed: int, **given: object) -> Trained:
    text = RECIPE.replace("epochs = 8", f"epochs = 2\nseed = {seed}").replace('"blobs"', f'"blobs-{seed}"')
    return train(parse(text), text, dataset, out, **given)  # type: ignore[arg-type]


def weights(trained: Trained) -> list[np.ndarray]:
    return list(model_file.load(trained.path)[0].get_weights())


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_blobs(tmp_path_factory.mktemp("blobs") / "blobs"))


@pytest.fixture(scope="module")
def start(blobs: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = RECIPE.replace("epochs = 8", "epochs = 6")
    return train(parse(text), text, blobs, tmp_path_factory.mktemp("start")).path


@pytest.fixture(scope="module")
def sister(blobs: Dataset, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(blobs, tmp_path_factory.mktemp("sister"), 1, init=str(start))


def test_the_model_is_the_mean_of_the_weights_and_says_of_whose(
    blobs: Dataset, start: Path, sister: Trained, tmp_path: Path
) -> None:
    alone = run(blobs, tmp_path / "alone", 2, init=str(start))
    notes: list[str] = []
    both = run(
        blobs, tmp_path / "both", 2, init=str(start), averaged=[sister.path],
        progress=Progress(on_note=notes.append),
    )  # fmt: skip

    for mean, one, other in zip(weights(both), weights(alone), weights(sister), strict=True):
        np.testing.assert_allclose(mean, (one + other) / 2, rtol=1e-6, atol=1e-7)
    assert any(not np.array_equal(a, b) for a, b in zip(weights(alone), weights(sister), strict=True))
    assert both.card.val_top1 >= alone.card.val_top1 - 0.02
    assert "on val; this run alone" in notes[-1]
    manifest = convert(both.path, tmp_path / "both.tflite", "int8", blobs).bundle.manifest
    assert manifest is not None
    digest = model_file.weights_sha256(model_file.load(sister.path)[0])
    assert manifest.provenance.averaged_sha256 == {"blobs-1": digest}


def test_trainings_from_two_starts_have_no_mean_and_the_run_is_not_lost(
    blobs: Dataset, start: Path, tmp_path: Path
) -> None:
    other = run(blobs, tmp_path / "other", 3)

    with pytest.raises(ModelError, match=r"is worse than this run: .* on val") as refused:
        run(blobs, tmp_path / "run", 2, init=str(start), averaged=[other.path])
    assert "--resume and without --average" in refused.value.fix
    assert not (tmp_path / "run" / "model.h5").exists()
    resumed = run(blobs, tmp_path / "run", 2, init=str(start), resume=True)
    alone = run(blobs, tmp_path / "alone", 2, init=str(start))
    assert all(np.array_equal(a, b) for a, b in zip(weights(resumed), weights(alone), strict=True))


def test_a_finished_run_is_not_taken_for_the_mean_of_two(
    blobs: Dataset, start: Path, sister: Trained, tmp_path: Path
) -> None:
    run(blobs, tmp_path, 2, init=str(start))

    with pytest.raises(ModelError, match="is there already"):
        run(blobs, tmp_path, 2, init=str(start), resume=True, averaged=[sister.path])


@pytest.mark.parametrize(
    ("old", "new"),
    [("filters = 8", "filters = 4"), ('head = "colour"', 'head = "tint"')],
    ids=["network", "head"],
)
def test_another_network_is_refused_before_training(
    old: str, new: str, blobs: Dataset, sister: Trained, tmp_path: Path
) -> None:
    text = RECIPE.replace(old, new)

    with pytest.raises(ModelError, match="have no mean"):
        train(parse(text), text, blobs, tmp_path, averaged=[sister.path])
    assert not list(tmp_path.iterdir())


def test_what_edgecnn_did_not_train_is_refused(blobs: Dataset, sister: Trained, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.keras"
    model_file.load(sister.path)[0].save(foreign)

    with pytest.raises(ModelError, match="was not trained by edgecnn"):
        run(blobs, tmp_path / "run", 2, averaged=[foreign])
