from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from edgecnn.core.frame import InputSpec, resize
from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.models import folded
from edgecnn.workstation.models.weights import initialise
from edgecnn.workstation.models.zoo import build, features_of
from edgecnn.workstation.recipe import Layer, ModelSpec

V1_EMBEDDING = "mobilenet_v1_1.0_224_quant_embedding_extractor.tflite"
BYTES = folded.Normalisation(np.ones(1, np.float32), np.zeros(1, np.float32))
Codes = NDArray[np.uint8]


def heads(count: int) -> tuple[Head, ...]:
    return (Head("label", "softmax", tuple(f"l{i}" for i in range(count))),)


def noise(*shape: int) -> Codes:
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def scenes(shared: Path) -> Codes:
    """Twenty-four real pictures of 224 x 224."""
    return _pictures(shared / "data" / "scenes.tar.xz", 24, InputSpec(224, 224))


@pytest.fixture(scope="module")
def objects(shared: Path) -> Codes:
    """Two hundred real pictures of 32 x 32."""
    return _pictures(shared / "data" / "cifar10.tar.xz", 200, InputSpec(32, 32))


def _pictures(archive: Path, count: int, spec: InputSpec) -> Codes:
    with tarfile.open(archive, "r|xz") as tar:
        files = (tar.extractfile(member) for member in tar if member.name.endswith(".jpg"))
        first = [np.frombuffer(file.read(), np.uint8) for file, _ in zip(files, range(count), strict=False)]  # type: ignore[union-attr]
    return np.stack([resize(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[:, :, ::-1], spec) for jpeg in first])


def answers(interpreter: Any, codes: Codes) -> NDArray[np.float32]:
    """What a file says about pictures, as real numbers."""
    interpreter.allocate_tensors()
    picture, scores = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shift = 128 if picture["dtype"] == np.int8 else 0
    rows = []
    for code in codes:
        interpreter.set_tensor(
            picture["index"], (code[None].astype(np.int32) - shift).astype(picture["dtype"])
        )
        interpreter.invoke()
        rows.append(_real(interpreter, scores).ravel())
    return np.array(rows)


def _real(interpreter: Any, detail: dict[str, Any]) -> NDArray[np.float32]:
    raw = interpreter.get_tensor(detail["index"]).astype(np.float32)
    scale, zero_point = detail["quantization"]
    return raw if scale == 0 else np.float32(scale) * (raw - zero_point)


def floats(model: Any, codes: Codes) -> NDArray[np.float32]:
    return np.asarray(model(codes.astype(np.float32), training=False))


@pytest.fixture(scope="module")
def v1(shared: Path, scenes: Codes) -> Any:
    model = build(ModelSpec("mobilenet_v1"), InputSpec(224, 224), heads(6))
    initialise(model, str(shared / "reference_models" / V1_EMBEDDING), scenes)
    return model


def test_each_layer_of_the_reference_trunk_is_within_one_code_of_the_interpreter(
    v1: Any, shared: Path, scenes: Codes
) -> None:
    # Fed with the interpreter's own input of a layer, ours may differ by the rounding of its output
    # (half a code) and of its bias and multiplier (far less): by no more than one code.
    path = shared / "reference_models" / V1_EMBEDDING
    interpreter = Interpreter(
        str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    answers(interpreter, scenes[:1])
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    steps = [op for op in interpreter._get_ops_details() if "CONV" in op["op_name"]]
    ours = [x for x in v1.layers if isinstance(x, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D))]
    worst = []
    for op, layer in zip(steps, ours, strict=True):
        x = layer(_real(interpreter, details[op["inputs"][0]]))
        for follower in ("_bn", "_relu"):
            x = v1.get_layer(layer.name + follower)(x)
        output = details[op["outputs"][0]]
        scale, zero_point = output["quantization"]
        ceiling = scale * (255 - zero_point)  # what the file's codes can say
        worst.append(np.abs(np.minimum(x, ceiling) - _real(interpreter, output)).max() / scale)
    assert len(worst) == 27
    assert max(worst) <= 1.0


def test_the_reference_trunk_in_float_says_what_the_interpreter_s_embedding_says(
    v1: Any, shared: Path, scenes: Codes
) -> None:
    # A code of the embedding is 0.0235. 27 layers round to 8 bits, each adding an error of one code
    # over sqrt(12) to activations of a few dozen codes: some percent in all, and 5.5 % was measured.
    embedding = answers(Interpreter(str(shared / "reference_models" / V1_EMBEDDING)), scenes)
    ours = floats(features_of(v1), scenes)
    assert np.linalg.norm(ours - embedding) / np.linalg.norm(embedding) < 0.10
    assert np.corrcoef(ours.ravel(), embedding.ravel())[0, 1] > 0.99


def test_the_head_of_the_reference_names_the_same_things_where_it_is_sure(
    shared: Path, scenes: Codes
) -> None:
    path = shared / "reference_models" / "mobilenet_v2_1.0_224_quant.tflite"
    model = build(ModelSpec("mobilenet_v2"), InputSpec(224, 224), heads(1001))
    report = initialise(model, str(path), scenes)
    theirs, ours = answers(Interpreter(str(path)), scenes), floats(model, scenes)
    sure = np.diff(np.sort(theirs, axis=1)[:, -2:]).ravel() > 0.1
    assert report.left == ()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.98
    assert sure.sum() >= 5
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1))[sure].all()


def test_weights_of_224_px_serve_at_96_px_and_leave_a_head_of_other_labels(shared: Path) -> None:
    model = build(ModelSpec("mobilenet_v1", width=0.25), InputSpec(96, 160), heads(6))
    path = shared / "reference_models" / "mobilenet_v1_0.25_128_quant.tflite"
    report = initialise(model, str(path), noise(8, 96, 160, 3))
    assert report.left == ("label_logits",)
    assert len(report.filled) == 2 * 27


def test_a_heatmap_that_joins_maps_starts_from_its_own_file(tmp_path: Path) -> None:
    # At this width a layer that joins maps has the shape of one of the trunk's.
    spec, size = ModelSpec("mobilenet_v2", width=0.35, top_down=True), InputSpec(64, 64)
    where, other = (Head("where", "heatmap", labels, 1) for labels in (("fire",), ("fire", "smoke")))
    model = build(spec, size, [*heads(3), where])
    rng = np.random.default_rng(4)
    kernel, bias = model.get_layer("where_logits").get_weights()
    model.get_layer("where_logits").set_weights([rng.normal(0, 0.3, kernel.shape), bias])
    (tmp_path / "model.tflite").write_bytes(_with_manifest(_convert(model, "float32")))
    again = build(spec, size, [*heads(3), where])
    codes = noise(8, 64, 64, 3)
    report = initialise(again, str(tmp_path / "model.tflite"), codes)
    assert report.left == ()
    for mine, first in zip(again(codes.astype(np.float32)), model(codes.astype(np.float32)), strict=True):
        np.testing.assert_allclose(mine, first, atol=1e-4)
    # Its old last layer lies before that of the other head in the file.
    answers_otherwise = build(spec, size, [*heads(3), other])
    assert initialise(answers_otherwise, str(tmp_path / "model.tflite"), codes).left == ("where_logits",)


def test_what_joins_maps_for_a_heatmap_is_left_as_a_head_is(shared: Path) -> None:
    where = Head("where", "heatmap", ("fire",), 1)
    model = build(ModelSpec("mobilenet_v1", width=0.25, top_down=True), InputSpec(96, 96), [*heads(6), where])
    path = shared / "reference_models" / "mobilenet_v1_0.25_128_quant.tflite"
    report = initialise(model, str(path), noise(8, 96, 96, 3))
    assert set(report.left) == {"label_logits", "where_logits", *(f"top_down_{n}" for n in (1, 2, 3, 4))}
    assert len(report.filled) == 2 * 27


def test_the_float_resnet_gives_the_interpreter_s_scores_once_it_sees_bytes_as_its_makers_did(
    shared: Path, objects: Codes
) -> None:
    path = shared / "reference_models" / "pretrainedResnet.tflite"
    model = build(ModelSpec("resnet8"), InputSpec(32, 32), heads(10))
    initialise(model, str(path), objects, normalisation=folded.OURS)  # as it is
    normalise = model.get_layer("normalise")
    normalise.scale, normalise.offset = 1.0, 0.0  # the makers fed raw bytes
    np.testing.assert_allclose(floats(model, objects), answers(Interpreter(str(path)), objects), atol=1e-4)


@pytest.mark.parametrize(
    ("file", "normalisation"), [("pretrainedResnet.tflite", BYTES), ("pretrainedResnet_quant.tflite", None)]
)
def test_a_resnet_made_for_raw_bytes_differs_under_our_normalisation_by_its_borders_only(
    file: str, normalisation: folded.Normalisation | None, shared: Path, objects: Codes
) -> None:
    path = shared / "reference_models" / file
    model = build(ModelSpec("resnet8"), InputSpec(32, 32), heads(10))
    report = initialise(model, str(path), objects, normalisation=normalisation)
    agree = floats(model, objects).argmax(axis=1) == answers(Interpreter(str(path)), objects).argmax(axis=1)
    assert "borders" in report.notes[0]
    assert agree.mean() > 0.7  # by chance 0.1; padding is grey instead of black: 0.8 was measured
    first = folded.read(path).layers[0]
    exact = tf.nn.conv2d(objects[:8].astype(np.float32), first.kernel, 1, "VALID") + first.bias
    ours = keras.Model(model.input, model.get_layer("conv1_bn").output)(objects[:8].astype(np.float32))
    np.testing.assert_allclose(ours[:, 1:-1, 1:-1], exact, atol=2e-3)


def test_a_float_file_that_does_not_say_what_it_makes_of_a_byte_is_refused(shared: Path) -> None:
    model = build(ModelSpec("resnet8"), InputSpec(32, 32), heads(10))
    with pytest.raises(ModelError, match="does not say what it makes of a byte"):
        initialise(model, str(shared / "reference_models" / "pretrainedResnet.tflite"), noise(8, 32, 32, 3))


def test_a_batch_in_training_mode_means_the_same_as_at_inference_once_batch_norm_is_unfolded(
    v1: Any, scenes: Codes
) -> None:
    trunk = features_of(v1)
    calm = floats(trunk, scenes)
    norms = [x for x in v1.layers if isinstance(x, keras.layers.BatchNormalization)]
    saved = [norm.get_weights() for norm in norms]
    dropout = v1.get_layer("dropout")
    dropout.rate, rate = 0.0, dropout.rate
    training = np.asarray(trunk(scenes.astype(np.float32), training=True))
    dropout.rate = rate
    for norm, weights in zip(norms, saved, strict=True):
        norm.set_weights(weights)
    assert np.corrcoef(training.ravel(), calm.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("spec", "channels", "says"),
    [
        (ModelSpec("mobilenet_v1", width=0.5), 3, "'conv1' needs a conv 3 x 3 x 3 x 16"),
        (ModelSpec("mobilenet_v2"), 3, "needs a"),
        (ModelSpec("resnet8"), 3, "'conv1' needs a conv 3 x 3 x 3 x 16"),
        (ModelSpec("layers", layers=(Layer("dense", units=4),)), 3, "'dense_1' needs a dense 3072 x 4"),
    ],
    ids=["width", "topology", "other family", "dense"],
)
def test_a_file_of_another_network_is_refused_by_the_layer_and_changes_nothing(
    spec: ModelSpec, channels: int, says: str, shared: Path
) -> None:
    model = build(spec, InputSpec(32, 32), heads(3))
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(ModelError) as caught:
        initialise(model, str(shared / "reference_models" / V1_EMBEDDING), noise(4, 32, 32, channels))
    assert says in caught.value.message
    assert all((a == b.numpy()).all() for a, b in zip(before, model.weights, strict=True))


def test_a_part_of_a_longer_file_is_not_taken_for_the_whole(shared: Path) -> None:
    # The reference begins with this convolution and ends with this dense layer; between them are 27 more.
    layers = (Layer("conv", filters=8, stride=2), Layer("batch_norm"), Layer("global_average_pool"))
    spec = ModelSpec("layers", layers=(*layers, Layer("dense", units=4)))
    model = build(spec, InputSpec(32, 32), heads(3))
    path = shared / "reference_models" / "mobilenet_v1_0.25_128_quant.tflite"
    with pytest.raises(ModelError, match="'dense_4' needs a dense 8 x 4"):
        initialise(model, str(path), noise(4, 32, 32, 3))


def _trained(spec: ModelSpec, channels: int) -> Any:
    """A network as training would leave it: no batch norm does nothing."""
    keras.utils.set_random_seed(7)
    rng = np.random.default_rng(7)
    model = build(spec, InputSpec(32, 32, channels), heads(3))  # type: ignore[arg-type]
    for norm in (x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)):
        norm.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in norm.weights])
    return model


def _convert(model: Any, precision: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        codes = noise(32, *model.input_shape[1:]).astype(np.float32)
        converter.representative_dataset = lambda: ([picture[None]] for picture in codes)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own about statistics that are calibrated
        return bytes(converter.convert())


def _with_manifest(flatbuffer: bytes) -> bytes:
    file = io.BytesIO(flatbuffer)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("edgecnn.json", "{}")
    return file.getvalue()


ROUND_TRIPS = {
    "resnet8": (ModelSpec("resnet8", width=0.5), 3),
    "lenet": (ModelSpec("lenet"), 1),
    "written": (
        ModelSpec(
            "layers",
            layers=(
                Layer("depthwise", stride=2),
                Layer("batch_norm", activation="relu6"),
                Layer("conv", filters=4, padding="valid", activation="relu"),
                Layer("dense", units=8),
                Layer("batch_norm", activation="relu"),
            ),
        ),
        3,
    ),
    # Its first convolution has no padding, so the converter folds the normalisation into it.
    "no padding": (ModelSpec("layers", layers=(Layer("conv", filters=4, kernel=5, padding="valid"),)), 3),
}


@pytest.mark.parametrize(
    ("network", "precision", "tolerance"),
    [
        ("resnet8", "float32", 1e-4),
        ("resnet8", "int8", 0.05),
        ("lenet", "float16", 5e-3),
        ("written", "float32", 1e-4),
        ("written", "float16", 5e-3),
        ("written", "int8", 0.05),
        ("no padding", "float32", 1e-4),
        ("no padding", "int8", 0.05),
    ],
)
def test_what_was_converted_starts_a_network_that_gives_the_same_scores(
    network: str, precision: str, tolerance: float, tmp_path: Path
) -> None:
    spec, channels = ROUND_TRIPS[network]
    model = _trained(spec, channels)
    (tmp_path / "model.tflite").write_bytes(_with_manifest(_convert(model, precision)))
    again = build(spec, InputSpec(32, 32, channels), heads(3))  # type: ignore[arg-type]
    codes = noise(16, 32, 32, channels)
    report = initialise(again, str(tmp_path / "model.tflite"), codes)
    assert report.left == ()
    np.testing.assert_allclose(floats(again, codes), floats(model, codes), atol=tolerance)


def test_a_grey_network_starts_from_a_colour_file_and_sees_grey_pictures_alike(tmp_path: Path) -> None:
    colour = _trained(ModelSpec("resnet8", width=0.5), 3)
    (tmp_path / "model.tflite").write_bytes(_convert(colour, "float32"))
    grey = build(ModelSpec("resnet8", width=0.5), InputSpec(32, 32, 1), heads(3))
    codes = noise(16, 32, 32, 1)
    initialise(grey, str(tmp_path / "model.tflite"), codes)
    np.testing.assert_allclose(floats(grey, codes), floats(colour, codes.repeat(3, axis=3)), atol=1e-4)


def test_a_norm_that_no_convolution_can_hold_is_refused_by_its_name(tmp_path: Path) -> None:
    layers = (Layer("conv", filters=4, activation="relu"), Layer("batch_norm"))
    model = _trained(ModelSpec("layers", layers=layers), 3)
    (tmp_path / "model.tflite").write_bytes(_convert(model, "float32"))
    with pytest.raises(ModelError, match="'batch_norm_2' does not directly follow"):
        initialise(model, str(tmp_path / "model.tflite"), noise(4, 32, 32, 3))


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (8, 32, 33, 3), (8, 32, 32, 1)], ids=str)
def test_a_sample_that_gives_no_statistics_is_refused(shape: tuple[int, ...], shared: Path) -> None:
    model = build(ModelSpec("resnet8"), InputSpec(32, 32), heads(10))
    with pytest.raises(ModelError, match="two pictures or more"):
        initialise(model, str(shared / "reference_models" / "pretrainedResnet_quant.tflite"), noise(*shape))


def _broken(folder: Path) -> Iterator[Path]:
    good = _convert(_trained(ModelSpec("lenet", width=0.2), 1), "int8")
    rng = np.random.default_rng(11)
    for number in range(200):
        damaged = bytearray(good[: rng.integers(1, len(good))] if number % 4 == 0 else good)
        for position in rng.integers(0, len(damaged), 20):
            damaged[position] = rng.integers(256)
        path = folder / f"{number}.tflite"
        path.write_bytes(damaged)
        yield path


def _is_refused(path: Path) -> bool:
    try:
        folded.read(path)
    except ModelError:
        return True
    return False


def test_two_hundred_damaged_files_are_read_or_refused_and_never_end_in_a_traceback(tmp_path: Path) -> None:
    assert sum(map(_is_refused, _broken(tmp_path))) > 100


@pytest.mark.parametrize("name", ["none.tflite", "none.h5", "none.keras", "none.onnx"])
def test_a_source_that_is_not_there_or_of_no_known_kind_is_refused(name: str, tmp_path: Path) -> None:
    model = build(ModelSpec("lenet"), InputSpec(28, 28, 1), heads(3))
    with pytest.raises(ModelError, match=r"none\."):
        initialise(model, str(tmp_path / name), noise(4, 28, 28, 1))


@pytest.mark.parametrize("suffix", [".tflite", ".h5", ".keras"])
def test_a_file_that_only_has_the_right_name_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_text("not a model\n")
    model = build(ModelSpec("lenet"), InputSpec(28, 28, 1), heads(3))
    with pytest.raises(ModelError):
        initialise(model, str(path), noise(4, 28, 28, 1))


def test_a_compiled_file_whose_weights_are_packed_is_refused(shared: Path) -> None:
    model = build(ModelSpec("mobilenet_v1", width=0.25), InputSpec(32, 32), heads(3))
    path = shared / "reference_models" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    with pytest.raises(ModelError, match="no convolution"):
        initialise(model, str(path), noise(4, 32, 32, 3))
