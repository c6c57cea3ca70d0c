"""Training: learns, can be killed, and refuses what cannot work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from blobs import RECIPE, write_blobs
from disks import small_disk

from edgecnn.errors import DataError, ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.backend import keras
from edgecnn.workstation.data.archive import file_sha256
from edgecnn.workstation.data.catalog import open_dataset
from edgecnn.workstation.quality import Quality, evaluate
from edgecnn.workstation.recipe import parse
from edgecnn.workstation.split import read_split
from edgecnn.workstation.train import Progress, reset_randomness, train


def command(recipe: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "edgecnn",
        "train",
        str(recipe),
        "--data",
        str(data),
        "--out",
        str(out),
        *more,
    ]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "blobs.toml"
    file.write_text(RECIPE, encoding="utf-8")
    return file


def test_a_run_that_was_killed_again_and_again_ends_with_the_weights_of_an_unbroken_run(
    tmp_path: Path, blobs: Path, recipe_file: Path
) -> None:
    subprocess.run(command(recipe_file, blobs, tmp_path / "unbroken"), check=True, capture_output=True)
    broken, kills = tmp_path / "broken", 0
    state = broken / "checkpoint" / "state.json"

    for wanted in (1, 3):
        process = subprocess.Popen(
            command(recipe_file, blobs, broken, "--resume"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            time.sleep(0.01)
            if state.exists() and len(msgspec.json.decode(state.read_bytes())["history"]) >= wanted:
                os.kill(process.pid, signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
    subprocess.run(command(recipe_file, blobs, broken, "--resume"), check=True, capture_output=True)

    assert kills >= 1
    pairs = zip(
        *(model_file.load(tmp_path / run / "model.h5")[0].get_weights() for run in ("unbroken", "broken")),
        strict=True,
    )
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_training_learns_and_leaves_a_model_a_history_and_a_curve(tmp_path: Path, blobs: Path) -> None:
    trained = train(parse(RECIPE), RECIPE, open_dataset(blobs), tmp_path)

    assert trained.card.val_top1 > 0.9
    assert {p.name for p in tmp_path.iterdir()} == {"model.h5", "history.json", "curve.svg"}
    assert len(msgspec.json.decode((tmp_path / "history.json").read_bytes())) == 8


def test_two_labels_give_one_sigmoid_neuron(tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "data", ("blue", "green"), per_class=30)

    trained = train(parse(RECIPE), RECIPE, open_dataset(data), tmp_path / "out")

    assert model_file.load(trained.path)[0].output_shape == (None, 1)
    assert trained.card.heads[0].labels == ("blue", "green")


def test_an_unfinished_run_is_not_overwritten_unless_it_is_resumed(tmp_path: Path, blobs: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text("{}", encoding="utf-8")

    with pytest.raises(ModelError, match="not finished"):
        train(parse(RECIPE), RECIPE, open_dataset(blobs), tmp_path)


def test_a_finished_run_is_neither_trained_again_nor_overwritten(tmp_path: Path, blobs: Path) -> None:
    text = RECIPE.replace("epochs = 8", "epochs = 1")
    first = train(parse(text), text, open_dataset(blobs), tmp_path)
    written = first.path.read_bytes()
    # As a kill leaves it between the model and the end.
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text("{", encoding="utf-8")

    again = train(parse(text), text, open_dataset(blobs), tmp_path, resume=True)

    assert again == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curve.svg", "history.json", "model.h5"]
    with pytest.raises(ModelError, match="there already"):
        train(parse(text), text, open_dataset(blobs), tmp_path)
    assert first.path.read_bytes() == written


def test_a_run_that_keeps_its_last_epoch_ends_with_weights_that_were_worse_on_val(
    tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecnn.workstation import train as room

    falling = iter([0.9, 0.8, 0.7] * 2)
    monkeypatch.setattr(room, "evaluate", lambda *_: Quality(1.0, next(falling), {}))
    kept = {}
    for which in ("best", "last"):
        text = RECIPE.replace("epochs = 8", f'epochs = 3\nkeep = "{which}"')
        kept[which] = train(parse(text), text, open_dataset(blobs), tmp_path / which).path

    assert {which: model_file.read_card(path).best_epoch for which, path in kept.items()} == {  # type: ignore[union-attr]
        "best": 1,
        "last": 3,
    }
    first, last = (model_file.load(path)[0].get_weights() for path in kept.values())
    assert any(not np.array_equal(one, other) for one, other in zip(first, last, strict=True))


def test_a_finished_run_from_another_start_is_not_taken_for_this_one(tmp_path: Path, blobs: Path) -> None:
    text = RECIPE.replace("epochs = 8", "epochs = 1")
    start = train(parse(text), text, open_dataset(blobs), tmp_path / "start").path
    made = train(parse(text), text, open_dataset(blobs), tmp_path / "run", init=str(start))
    moved = start.rename(tmp_path / "elsewhere.h5")

    assert made.card.init_sha256 == {"blobs": file_sha256(moved)}
    train(parse(text), text, open_dataset(blobs), tmp_path / "run", init=str(moved), resume=True)
    with pytest.raises(ModelError, match="is there already"):
        train(parse(text), text, open_dataset(blobs), tmp_path / "run", resume=True)


def test_a_disk_that_takes_no_checkpoint_is_named_with_the_way_on(tmp_path: Path, blobs: Path) -> None:
    text = RECIPE.replace("epochs = 8", "epochs = 1")
    with (
        small_disk(tmp_path / "disk", "16k") as disk,
        pytest.raises(ModelError, match="cannot be kept") as refusal,
    ):
        train(parse(text), text, open_dataset(blobs), disk / "run")
    assert "--resume" in refusal.value.fix


@pytest.mark.parametrize("content", ["", "{", '{"recipe": 1}'])
def test_a_damaged_checkpoint_is_named(content: str, tmp_path: Path, blobs: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text(content, encoding="utf-8")

    with pytest.raises(ModelError, match="damaged"):
        train(parse(RECIPE), RECIPE, open_dataset(blobs), tmp_path, resume=True)


def test_two_dropout_layers_drop_different_neurons_and_the_same_ones_again_in_the_same_epoch() -> None:
    layers = [keras.layers.Dropout(0.5), keras.layers.Dropout(0.5)]
    picture = keras.Input((64,))
    model = keras.Model(picture, [layer(picture) for layer in layers])
    ones = np.ones((1, 64), np.float32)

    def masks(epoch: int) -> list[list[float]]:
        reset_randomness(model, 1, epoch)
        return [mask.numpy().ravel().tolist() for mask in model(ones, training=True)]

    first, second = masks(1)
    assert first != second
    assert masks(1) == [first, second]
    assert masks(2) != [first, second]


def test_a_run_is_not_resumed_with_another_recipe(tmp_path: Path, blobs: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    state = {"recipe": "another", "data_sha256": "", "init_sha256": {}}
    (tmp_path / "checkpoint" / "state.json").write_bytes(msgspec.json.encode(state))

    with pytest.raises(ModelError, match="another recipe"):
        train(parse(RECIPE), RECIPE, open_dataset(blobs), tmp_path, resume=True)


def test_a_learning_rate_that_is_far_too_high_is_named_instead_of_saving_a_broken_model(
    tmp_path: Path, blobs: Path
) -> None:
    text = RECIPE.replace("5e-3", "1e30")

    with pytest.raises(ModelError, match="diverged"):
        train(parse(text), text, open_dataset(blobs), tmp_path)

    assert not (tmp_path / "model.h5").exists()


def test_one_label_only_is_refused(tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "data", ("blue",), per_class=9)

    with pytest.raises(DataError, match="one class only"):
        train(parse(RECIPE), RECIPE, open_dataset(data), tmp_path / "out")


def test_a_frozen_trunk_that_nothing_taught_is_told_of(tmp_path: Path, blobs: Path) -> None:
    text = RECIPE.replace("epochs = 8", 'epochs = 1\nfreeze = "batch_norm"')
    notes = list[str]()

    train(parse(text), text, open_dataset(blobs), tmp_path, progress=Progress(on_note=notes.append))

    assert any("there is no --init" in note for note in notes)


def test_a_label_that_no_val_picture_shows_is_told_before_the_first_epoch(
    tmp_path: Path, blobs: Path
) -> None:
    shutil.copytree(blobs, tmp_path / "data")
    pictures = open_dataset(blobs).split("val")
    lacking = pictures[0].label
    for picture in open_dataset(tmp_path / "data").split("val"):
        if picture.label == lacking:
            Path(picture.source).unlink()
    told = list[str]()
    progress = Progress(on_note=told.append, on_epoch=lambda _: told.append("epoch"))

    train(parse(RECIPE), RECIPE, open_dataset(tmp_path / "data"), tmp_path / "out", progress=progress)

    note = f"Note: no val picture shows {lacking}: val says nothing about that."
    assert note in told[: told.index("epoch")]


SMALLER = RECIPE.replace("height_px = 16\nwidth_px = 16", "height_px = 24\nwidth_px = 32").replace(
    "[train]", "[train]\nheight_px = 16\nwidth_px = 16"
)


def test_a_network_that_learned_at_another_size_has_these_weights_at_its_own(
    tmp_path: Path, blobs: Path
) -> None:
    text = SMALLER.replace("flatten", "global_average_pool").replace("epochs = 8", "epochs = 16")
    dataset, notes = open_dataset(blobs), list[str]()

    trained = train(parse(text), text, dataset, tmp_path / "at_16", progress=Progress(on_note=notes.append))

    network, card = model_file.load(trained.path)
    assert network.input_shape == (None, 24, 32, 3)
    assert trained.history[-1].val_top1 > 0.9
    found = evaluate(network, card.heads, read_split(dataset, "val", parse(text), card.heads, network))
    assert trained.card.val_top1 == found.top1 > 0.9
    assert notes[-1].startswith("At 24 x 32, on val, and at the size that it learned at: colour ")
    at_16 = text.replace("height_px = 24\nwidth_px = 32", "height_px = 16\nwidth_px = 16")
    same = model_file.load(train(parse(at_16), at_16, dataset, tmp_path / "own").path)[0]
    pairs = zip(network.get_weights(), same.get_weights(), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_a_network_whose_weights_depend_on_the_size_is_refused_before_it_learns_at_another(
    tmp_path: Path, blobs: Path
) -> None:
    with pytest.raises(ModelError, match="layers has other weights at 16 x 16 than at 24 x 32"):
        train(parse(SMALLER), SMALLER, open_dataset(blobs), tmp_path)

    assert not any(tmp_path.rglob("*.h5"))


def test_the_head_alone_is_trained_on_features_of_the_trunk(tmp_path: Path, blobs: Path) -> None:
    text = RECIPE.replace("epochs = 8", "epochs = 0\nhead_epochs = 40")

    trained = train(parse(text), text, open_dataset(blobs), tmp_path)

    assert [e.number for e in trained.history] == [0]
    assert trained.card.val_top1 > 0.6
