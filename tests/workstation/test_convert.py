"""Conversion: honest, repeatable, and refusing what it cannot know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blobs import RECIPE, write_blobs

from edgecnn.bundle import file as bundle_file
from edgecnn.bundle import flatbuffer
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Head
from edgecnn.errors import DataError, ModelError
from edgecnn.runtime.predictor import load, verify_golden
from edgecnn.workstation import calibration, model_file
from edgecnn.workstation.backend import keras
from edgecnn.workstation.check import file_scores
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.catalog import Dataset, open_dataset
from edgecnn.workstation.data.pipeline import Stack
from edgecnn.workstation.data.targets import Targets
from edgecnn.workstation.models.zoo import build
from edgecnn.workstation.prune import open_data_of, prune
from edgecnn.workstation.quality import predict
from edgecnn.workstation.quantize import quantization_aware
from edgecnn.workstation.recipe import parse
from edgecnn.workstation.split import Split
from edgecnn.workstation.subject import Subject
from edgecnn.workstation.tflite import float_operators, to_flatbuffer
from edgecnn.workstation.train import Progress, train

HEATMAP = """
name = "where"

[input]
height_px = 100
width_px = 64

[model]
topology = "mobilenet_v1"
top_down = true
width = 0.5

[[heads]]
name = "where"
kind = "heatmap"
classes = { fire = ["fire"], smoke = ["smoke"] }

[train]
epochs = 1
batch_size = 8
learning_rate = 1e-3
"""


@pytest.fixture(scope="module")
def dataset(blobs: Path) -> Dataset:
    return open_dataset(blobs)


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(parse(RECIPE), RECIPE, dataset, tmp_path_factory.mktemp("trained")).path


@pytest.fixture(scope="module")
def pruned(trained: Path, dataset: Dataset) -> Path:
    return prune(trained, dataset, trained.with_name("pruned.h5"), sparsity=0.6, epochs=4).path


def test_keras_float_and_int8_are_fed_identical_codes_and_decide_alike(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    pictures = [p.read() for p in dataset.split("val")]
    model, _ = model_file.load(trained)
    files = [convert(trained, tmp_path / f"{p}.tflite", p, dataset).bundle.path for p in ("float32", "int8")]  # type: ignore[arg-type]
    fed: list[list[bytes]] = []
    for path in files:
        predictor = load(path)
        invoke, seen = predictor.interpreter.invoke_bytes, []

        def spy(pixels, write, invoke=invoke, seen=seen):  # type: ignore[no-untyped-def]
            codes = np.array(pixels, np.uint8 if write is None else np.float32)
            if write is not None:
                write(codes, pixels)
            seen.append(codes.astype(np.uint8).tobytes())
            return invoke(pixels, write)

        predictor.interpreter.invoke_bytes = spy  # type: ignore[method-assign]
        for pixels in pictures:
            predictor.predict(Frame(pixels, 0.0))
        fed.append(seen)
    from edgecnn.workstation.data.pipeline import codes_of

    trained_on = [row.tobytes() for row in codes_of(dataset.split("val"), parse(RECIPE).input)]

    assert fed[0] == fed[1] == trained_on
    assert model.input_shape == (None, 16, 16, 3)


def test_the_float_file_gives_the_scores_of_the_keras_model(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    from edgecnn.workstation.data.pipeline import codes_of

    codes = codes_of(dataset.split("val"), parse(RECIPE).input)
    predictor = load(convert(trained, tmp_path / "f.tflite", "float32").bundle.path)

    scores = np.stack([predictor.scores(row)["colour"] for row in codes])

    np.testing.assert_allclose(scores, predict(model_file.load(trained)[0], codes), atol=1e-5)


def test_int8_takes_the_raw_byte_as_its_code_and_has_no_operation_for_the_normalisation(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    bundle = convert(trained, tmp_path / "i.tflite", "int8", dataset).bundle
    interpreter = load(bundle.path).interpreter

    assert (interpreter.inputs[0].dtype, interpreter.inputs[0].zero_point) == ("uint8", 128)
    assert interpreter.inputs[0].scale == pytest.approx(1 / 128)
    assert bundle.manifest is not None
    assert bundle.manifest.precision == "int8"


def test_the_same_model_and_list_give_a_byte_identical_file(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    first = convert(trained, tmp_path / "a.tflite", "int8", dataset)
    again = convert(trained, tmp_path / "b.tflite", "int8", dataset, first.calibration)

    assert first.bundle.path.read_bytes() == again.bundle.path.read_bytes()


@pytest.mark.parametrize("precision", ["int8", "int16x8", "float16", "float32"])
def test_every_precision_replays_its_golden_outputs_and_holds_the_accuracy(
    precision: str, trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    converted = convert(trained, tmp_path / "m.tflite", precision, dataset)  # type: ignore[arg-type]

    verify_golden(load(converted.bundle.path))
    assert converted.check is not None
    assert abs(converted.check.drop.drop_pp) <= 5


def test_pruning_makes_zeros_and_a_smaller_gzip_and_keeps_the_accuracy(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    made = prune(trained, dataset, tmp_path / "p.h5", sparsity=0.6, epochs=4)

    assert [round(row.share, 1) for row in made.layers] == [0.6] * len(made.layers)
    assert made.gzip_bytes < made.parent_gzip_bytes
    assert made.val_top1 > made.parent_val_top1 - 0.1


def test_quantization_aware_training_of_a_pruned_model_keeps_it_pruned(
    pruned: Path, dataset: Dataset, tmp_path: Path
) -> None:
    converted = convert(pruned, tmp_path / "pqat.tflite", "int8", dataset, qat_epochs=1)
    plain = convert(pruned, tmp_path / "ptq.tflite", "int8", dataset)

    zeros = [zero_share(c.bundle) for c in (converted, plain)]

    assert zeros[0] >= 0.55
    assert zeros[0] == pytest.approx(zeros[1], abs=0.1)
    assert load(converted.bundle.path).interpreter.inputs[0].scale == pytest.approx(1 / 128)


def zero_share(bundle: bundle_file.Bundle) -> float:
    """Zeros among the int8 weights of the file."""
    model = flatbuffer.parse(bundle.model)
    kernels = [
        model.values(t) for t in model.tensors if t.is_constant and t.dtype == "int8" and len(t.shape) > 1
    ]
    return float(sum(np.sum(k == 0) for k in kernels) / sum(k.size for k in kernels if k is not None))


@pytest.mark.parametrize("is_aware", [False, True], ids=["calibrated", "trained"])
def test_a_heatmap_of_an_odd_side_computes_in_integers_alone_and_says_the_same(is_aware: bool) -> None:
    heads = (Head("where", "heatmap", ("fire", "smoke")),)
    recipe = parse(HEATMAP)
    keras.utils.set_random_seed(1)
    model = build(recipe.model, recipe.input, heads)
    rng = np.random.default_rng(1)
    kernel, bias = model.get_layer("where_logits").get_weights()
    model.get_layer("where_logits").set_weights([rng.normal(0, 0.3, kernel.shape), bias + 3])
    codes = rng.integers(0, 256, (16, 100, 64, 3)).astype(np.uint8)
    if is_aware:
        split = Split(
            Stack(codes), (Targets(np.ones((16, 2), np.float32), (13, 8), mask_of=np.full(16, -1)),)
        )
        model = quantization_aware(model, heads, split, recipe, 1, Progress())
    subject = Subject(model, "where", recipe.input, heads, recipe, None, (128.0, 128.0), True)

    flat = to_flatbuffer(subject, "int8", codes)

    assert float_operators(flat) == ()
    (found,) = file_scores(flat, heads, codes)
    wanted = predict(model, codes)
    assert found.shape == (16, 13, 8, 2)
    assert wanted.std() > 0.02
    assert np.abs(found - wanted).mean() < 0.2 * wanted.std()


def test_calibrating_on_test_pictures_is_refused(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    picture = dataset.split("test")[0]
    calibration.write([calibration.Entry(picture.sha256(), picture.path)], tmp_path / "list.txt")

    with pytest.raises(DataError, match="outside of train"):
        convert(trained, tmp_path / "m.tflite", "int8", dataset, tmp_path / "list.txt")

    assert not (tmp_path / "m.tflite").exists()


def test_a_copy_of_a_test_picture_in_train_is_refused_for_calibration(
    trained: Path, blobs: Path, tmp_path: Path
) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(blobs, data)
    shutil.copy(data / "test" / "red" / "0.png", data / "train" / "red" / "copy.png")
    leaky = open_dataset(data)
    copy = next(p for p in leaky.pictures if p.path.endswith("copy.png"))
    calibration.write([calibration.Entry(copy.sha256(), copy.path)], tmp_path / "list.txt")

    with pytest.raises(DataError, match="stands in test too"):
        convert(trained, tmp_path / "m.tflite", "int8", leaky, tmp_path / "list.txt")


def test_a_calibration_picture_that_was_changed_is_refused(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    calibration.write([calibration.Entry("0" * 64, dataset.split("train")[0].path)], tmp_path / "list.txt")

    with pytest.raises(DataError, match="another digest"):
        convert(trained, tmp_path / "m.tflite", "int8", dataset, tmp_path / "list.txt")


def test_a_drawn_list_holds_every_label_alike_and_only_training_pictures(dataset: Dataset) -> None:
    entries = calibration.draw(dataset, 30, seed=1)

    assert entries == calibration.draw(dataset, 30, seed=1)
    counts = [sum(f"/{label}/" in e.path for e in entries) for label in dataset.labels]
    assert counts == [10, 10, 10]
    assert all(e.path.startswith("train/") for e in entries)


def foreign_network(library: object) -> object:
    """A network as somebody else would write it: no normalisation, logits at the end."""
    layers = library.layers  # type: ignore[attr-defined]
    return library.Sequential(  # type: ignore[attr-defined]
        [
            library.Input((16, 16, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]  # type: ignore[attr-defined]
    )


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # inside Keras 3, under numpy 2
@pytest.mark.parametrize("kind", ["tf_keras.h5", "tf_keras.keras", "keras3.keras", "saved_model"])
def test_a_model_made_elsewhere_converts_to_int8_and_to_float_with_the_same_scores(
    kind: str, dataset: Dataset, tmp_path: Path
) -> None:
    import keras as keras3

    path = tmp_path / kind
    if kind == "saved_model":
        foreign_network(keras3).export(str(path), verbose=False)  # type: ignore[attr-defined]
    elif kind == "keras3.keras":
        foreign_network(keras3).save(path)  # type: ignore[attr-defined]
    else:
        foreign_network(keras).save(path)  # type: ignore[attr-defined]

    made = [
        convert(path, tmp_path / f"{p}.tflite", p, dataset, normalization=(0, 255)).bundle.path  # type: ignore[arg-type]
        for p in ("float32", "int8")
    ]

    pixels = dataset.split("val")[0].read()
    float_scores, int8_scores = (load(p).predict(Frame(pixels, 0.0)).heads["label"] for p in made)
    np.testing.assert_allclose(int8_scores, float_scores, atol=0.05)
    assert float_scores.sum() == pytest.approx(1, abs=1e-4)


def test_a_model_that_does_not_say_how_it_wants_its_pictures_is_refused_instead_of_guessed(
    dataset: Dataset, tmp_path: Path
) -> None:
    foreign_network(keras).save(tmp_path / "m.keras")  # type: ignore[attr-defined]

    with pytest.raises(ModelError) as caught:
        convert(tmp_path / "m.keras", tmp_path / "m.tflite", "float32", dataset)

    assert "--normalization" in caught.value.fix


@pytest.mark.parametrize("told", [{"labels": ("a", "b", "c")}, {"normalization": (0, 255)}])
def test_a_model_that_says_itself_what_it_is_is_told_nothing_else(
    trained: Path, dataset: Dataset, tmp_path: Path, told: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match="says itself what it answers"):
        convert(trained, tmp_path / "m.tflite", "float32", dataset, **told)


def test_a_model_file_that_was_cut_is_named_before_its_pictures_are_opened(
    trained: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(trained.read_bytes()[:4000])

    with pytest.raises(ModelError, match=r"cut\.h5' cannot be read as a Keras model"):
        open_data_of(cut, [tmp_path / "no pictures"])


def test_a_calibration_list_that_nothing_would_use_is_refused(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="nothing is calibrated"):
        convert(trained, tmp_path / "m.tflite", "float32", dataset, tmp_path / "list.txt")


def test_data_with_other_labels_than_the_model_is_refused(trained: Path, tmp_path: Path) -> None:
    other = open_dataset(write_blobs(tmp_path / "data", ("cat", "dog"), per_class=9))

    with pytest.raises(ModelError, match="knows blue, green, red; the data shows cat, dog"):
        convert(trained, tmp_path / "m.tflite", "int8", other)


def test_an_operation_without_an_integer_form_is_named(dataset: Dataset, tmp_path: Path) -> None:
    text = RECIPE[: RECIPE.index("[model]")].replace("= 16", "= 96") + (
        '[model]\ntopology = "alexnet"\nnormalization = "lrn"\nwidth = 0.1\ndense_units = 16\n'
        "[train]\nepochs = 1\n"
    )
    trained = train(parse(text), text, dataset, tmp_path)
    notes: list[str] = []

    convert(trained.path, tmp_path / "m.tflite", "int8", dataset, progress=Progress(on_note=notes.append))

    assert any("stay float: LOCAL_RESPONSE_NORMALIZATION" in note for note in notes)


def test_int8_without_pictures_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs pictures"):
        convert(trained, tmp_path / "m.tflite", "int8")


@pytest.mark.parametrize("name", ["missing.h5", "text.h5", "empty.keras", "folder", "odd.onnx"])
def test_what_is_no_model_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name != "missing.h5":
        path.write_text("this is no model", encoding="utf-8")

    with pytest.raises(ModelError, match=name):
        convert(path, tmp_path / "m.tflite", "float32")
