from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from edgecnn.bundle import file
from edgecnn.bundle.metadata import Normalization
from edgecnn.core.frame import Frame, resize
from edgecnn.core.prediction import decode
from edgecnn.core.tensor import TensorSpec
from edgecnn.errors import BundleError, DataError
from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.runtime.predictor import byte_table, byte_writer, load, verify_golden


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> file.Bundle:
    return tiny_models.write(tmp_path_factory.mktemp("made") / "tiny.int8.tflite")


def scenery() -> Frame:
    rows, columns = np.mgrid[0:90, 0:120]
    pixels = np.stack([rows * 2, columns * 2, (rows + columns) % 256], axis=-1).astype(np.uint8)
    return Frame(pixels, captured_at_s=4.5, index=7, source_id="scenery")


def foreign(path: Path, model: bytes) -> Path:
    path.write_bytes(model)
    return path


def test_a_frame_becomes_scores_that_add_up_to_one(made: file.Bundle) -> None:
    prediction = load(made.path).predict(scenery())
    assert (prediction.frame_index, prediction.captured_at_s) == (7, 4.5)
    assert prediction.heads["colour"].sum() == pytest.approx(1, abs=0.01)
    assert prediction.times.invoke_ms > 0


def test_predicting_a_frame_is_scoring_its_resized_codes(made: file.Bundle) -> None:
    model = load(made.path)
    codes = resize(scenery().pixels_rgb, model.input)
    np.testing.assert_array_equal(model.scores(codes)["colour"], model.predict(scenery()).heads["colour"])


@pytest.mark.parametrize(
    ("precision", "neurons", "activation"),
    [("int8", 3, "softmax"), ("int8", 1, "sigmoid"), ("float32", 3, "softmax"), ("float32", 1, "sigmoid")],
)
def test_the_fast_way_to_decode_gives_what_the_shared_one_gives(
    tmp_path: Path, precision: str, neurons: int, activation: str
) -> None:
    labels = tiny_models.LABELS if neurons == 3 else ("cold", "hot")
    flat = tiny_models.flat(precision, neurons, activation)
    said: dict[str, Any] = {"labels": labels, "kind": activation, "precision": precision}
    model = load(tiny_models.write(tmp_path / "m.tflite", flat, **said).path)
    interpreter = open_interpreter(flat, threads=1)
    for picture in tiny_models.pictures(20):
        (output,) = interpreter.invoke(picture[None].astype(interpreter.inputs[0].dtype))
        expected = decode(output, interpreter.outputs[0], model.heads[0])
        np.testing.assert_array_equal(model.scores(picture)["colour"], expected)


def test_codes_of_another_size_are_refused(made: file.Bundle) -> None:
    with pytest.raises(BundleError, match=r"pictures of shape \(16, 16, 3\)"):
        load(made.path).scores(np.zeros((16, 17, 3), np.uint8))


@pytest.mark.parametrize("option", [{"labels": Path("x.txt")}, {"normalization": (0.0, 1.0)}])
def test_a_file_that_explains_itself_is_not_told_otherwise(made: file.Bundle, option: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="brings its own"):
        load(made.path, **option)


def test_this_machine_replays_what_it_recorded_itself(made: file.Bundle) -> None:
    verify_golden(load(made.path))


@pytest.mark.parametrize(
    ("neurons", "kind", "codes", "passes"),
    [
        (3, "softmax", 1, True),  # its table is another one on 64-bit ARM
        (3, "softmax", 2, False),
        (1, "sigmoid", 1, False),
    ],
)
def test_a_code_that_differs_from_the_record_is_noticed_but_for_the_rounding_of_a_softmax(
    tmp_path: Path, neurons: int, kind: str, codes: int, passes: bool
) -> None:
    flat = tiny_models.flat(neurons=neurons, activation=kind)
    golden = tiny_models.golden(flat)
    found = int(golden.outputs[0][1, -1])
    golden.outputs[0][1, -1] = found + codes if found < 128 else found - codes
    manifest = tiny_models.manifest(tiny_models.LABELS[: max(2, neurons)], kind)
    model = load(file.write(tmp_path / "m.tflite", flat, manifest, golden).path)
    if passes:
        verify_golden(model)
    else:
        with pytest.raises(BundleError, match=f"recorded picture 1 differs by {codes}"):
            verify_golden(model)


@pytest.mark.parametrize(("change", "passes"), [(5e-5, True), (2e-4, False), (float("nan"), False)])
def test_a_float_output_may_differ_as_far_as_another_processor_makes_it(
    tmp_path: Path, change: float, passes: bool
) -> None:
    flat = tiny_models.flat("float32")
    golden = tiny_models.golden(flat)
    golden.outputs[0][0, 0] += change
    manifest = tiny_models.manifest(precision="float32")
    model = load(file.write(tmp_path / "m.tflite", flat, manifest, golden).path)
    if passes:
        verify_golden(model)
        return
    with pytest.raises(BundleError, match="gives other results here"):
        verify_golden(model)


def test_a_foreign_uint8_model_eats_bytes_and_numbers_its_labels(tmp_path: Path) -> None:
    model = load(foreign(tmp_path / "f.tflite", tiny_models.flat()))
    assert model.manifest is None
    assert (model.name, model.heads[0].labels, model.notes) == ("f", ("0", "1", "2"), ())
    (expected,) = open_interpreter(tiny_models.flat(), threads=1).invoke(tiny_models.pictures(1))
    scores = model.scores(tiny_models.pictures(1)[0])["label"]
    np.testing.assert_allclose(scores, expected[0] / 256, atol=1e-6)


def test_a_foreign_int8_model_eats_bytes_minus_128(tmp_path: Path) -> None:
    picture = tiny_models.pictures(1)
    model = load(foreign(tmp_path / "f.tflite", tiny_models.flat("signed")))
    signed = (picture.astype(np.int16) - 128).astype(np.int8)
    (expected,) = open_interpreter(tiny_models.flat("signed"), threads=1).invoke(signed)
    np.testing.assert_allclose(model.scores(picture[0])["label"], (expected[0] + 128.0) / 256, atol=1e-6)


def test_a_foreign_float_model_that_does_not_say_what_it_eats_is_not_guessed_at(tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.tflite", tiny_models.flat("float32"))
    with pytest.raises(BundleError, match="does not say how bytes become them") as caught:
        load(path)
    assert "--normalization MEAN STD" in caught.value.fix


def test_a_foreign_float_model_is_fed_as_it_is_told(tmp_path: Path) -> None:
    picture = tiny_models.pictures(1)
    model = load(foreign(tmp_path / "f.tflite", tiny_models.flat("float32")), normalization=(10.0, 4.0))
    normalized = (picture.astype(np.float32) - np.float32(10)) / np.float32(4)
    (expected,) = open_interpreter(tiny_models.flat("float32"), threads=1).invoke(normalized)
    np.testing.assert_array_equal(model.scores(picture[0])["label"], expected[0])


@pytest.mark.parametrize("normalization", [(0.0, 0.0), (float("nan"), 1.0)])
def test_an_impossible_normalization_is_refused(tmp_path: Path, normalization: tuple[float, float]) -> None:
    path = foreign(tmp_path / "f.tflite", tiny_models.flat("float32"))
    with pytest.raises(BundleError, match="is none"):
        load(path, normalization=normalization)


def test_foreign_labels_are_read_one_a_line(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\ufeffone\r\ntwo\r\nthree\r\n", encoding="utf-8")
    model = load(foreign(tmp_path / "f.tflite", tiny_models.flat()), labels=labels)
    assert model.heads[0].labels == ("one", "two", "three")


def test_two_labels_name_both_sides_of_one_sigmoid(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("cold\nhot\n", encoding="utf-8")
    path = foreign(tmp_path / "f.tflite", tiny_models.flat("int8", 1, "sigmoid"))
    head = load(path, labels=labels).heads[0]
    assert (head.kind, head.labels, head.is_binary) == ("sigmoid", ("cold", "hot"), True)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("a\nb\n", BundleError, "needs 3 labels; found 2"),
        ("a\n\nc\n", DataError, "Line 2 .* is empty"),
        (None, DataError, "cannot be read"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    tmp_path: Path, text: str | None, error: type[Exception], words: str
) -> None:
    labels = tmp_path / "labels.txt"
    if text is not None:
        labels.write_text(text, encoding="utf-8")
    path = foreign(tmp_path / "f.tflite", tiny_models.flat())
    with pytest.raises(error, match=words):
        load(path, labels=labels)


def test_a_label_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    labels = foreign(tmp_path / "labels.txt", b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        load(foreign(tmp_path / "f.tflite", tiny_models.flat()), labels=labels)


def test_outputs_without_a_softmax_are_shown_as_they_are_and_that_is_said(tmp_path: Path) -> None:
    flat = tiny_models.flat("float32", 3, "linear")
    model = load(foreign(tmp_path / "f.tflite", flat), normalization=(0.0, 1.0))
    picture = tiny_models.pictures(1)
    (expected,) = open_interpreter(flat, threads=1).invoke(picture.astype(np.float32))
    np.testing.assert_array_equal(model.scores(picture[0])["label"], expected[0])
    assert "outputs are shown as they are" in model.notes[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("split_concat", "is no picture classifier"),
        ("deeplabv3_mnv2_dm05_pascal_quant", "are no scores"),
        ("model_invoking_error", "is no picture classifier"),
    ],
)
def test_what_is_no_classifier_is_refused_with_what_it_is(shared: Path, name: str, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        load(shared / "reference_models" / f"{name}.tflite")


def test_a_reference_model_names_what_lies_in_a_real_sea(shared: Path) -> None:
    model = load(shared / "reference_models" / "mobilenet_v1_0.5_160_quant.tflite")
    assert len(model.heads[0].labels) == len(set(model.heads[0].labels)) == 1001
    assert model.predict(scenery()).heads["label"].sum() == pytest.approx(1, abs=0.2)


SPECS = [
    TensorSpec((1, 16, 16, 3), "uint8", 1 / 128, 128),
    TensorSpec((1, 16, 16, 3), "int8", 1 / 255, -128),
    TensorSpec((1, 16, 16, 3), "int8", 0.02, -3),
    TensorSpec((1, 16, 16, 3), "int16", 0.001, 0),
    TensorSpec((1, 16, 16, 3), "float32"),
]
NORMALIZATIONS = [
    Normalization((0.0,), (255.0,)),
    Normalization((127.5,), (127.5,)),
    Normalization((0.0,), (1.0,)),
    Normalization((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.dtype}-{spec.scale:.3g}")
@pytest.mark.parametrize("normalization", NORMALIZATIONS, ids=lambda n: str(n.mean[0]))
def test_the_fast_way_to_write_bytes_writes_what_the_table_says(
    spec: TensorSpec, normalization: Normalization
) -> None:
    picture = tiny_models.pictures(1)[0]
    table = byte_table(spec, normalization)
    rows = np.broadcast_to(table, (3, 256))
    expected = np.stack([rows[channel][picture[..., channel]] for channel in range(3)], axis=-1)
    write = byte_writer(spec, normalization)
    memory = np.zeros(picture.shape, spec.dtype)
    if write is None:
        assert np.abs(expected.astype(int) - picture).max() <= 1
        return
    write(memory, picture)
    np.testing.assert_array_equal(memory, expected)


def test_a_model_without_recorded_pictures_passes(tmp_path: Path) -> None:
    model = load(foreign(tmp_path / "f.tflite", tiny_models.flat()))
    verify_golden(model)
    assert model.golden is None


def test_facts_of_the_file_are_told(made: file.Bundle) -> None:
    model = load(made.path, threads=1)
    assert (model.name, model.precision, model.sha256, model.size_bytes) == (
        "tiny", "int8", made.sha256, made.size_bytes
    )  # fmt: skip
    assert model.interpreter.threads == 1
    assert dataclasses.replace(model.input, width_px=1).width_px == 1
