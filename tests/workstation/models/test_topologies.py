from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.models import folded
from edgecnn.workstation.models.blocks import LocalResponseNormalization
from edgecnn.workstation.models.zoo import SMALLEST_PX, build, features_of, summary
from edgecnn.workstation.recipe import Layer, ModelSpec, Topology

SMALL = (
    ModelSpec("lenet"),
    ModelSpec("resnet8"),
    ModelSpec("alexnet", width=0.1, dense_units=8),
    ModelSpec("alexnet", width=0.1, dense_units=8, normalization="lrn"),
    ModelSpec("vgg16", width=0.1, dense_units=8),
    ModelSpec("vgg16", width=0.1, dense_units=8, normalization="batch_norm"),
    ModelSpec("mobilenet_v1", width=0.1),
    ModelSpec("mobilenet_v2", width=0.1),
    ModelSpec("layers", layers=(Layer("conv", filters=2), Layer("max_pool", kernel=2))),
)


def heads(count: int = 3, name: str = "label") -> tuple[Head, ...]:
    return (Head(name, "softmax", tuple(f"l{i}" for i in range(count))),)


def count(spec: ModelSpec, size_px: int, channels: int, labels: int) -> tuple[int, int]:
    """Parameters and MACs; inside a graph Keras allocates nothing, so 500 MB of weights cost nothing."""
    with tf.Graph().as_default():
        total = summary(build(spec, InputSpec(size_px, size_px, channels), heads(labels)))[-1]  # type: ignore[arg-type]
    return total.parameters, total.macs


def bytes_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.float32)


def test_vgg16_has_the_138_357_544_parameters_of_the_paper() -> None:
    assert count(ModelSpec("vgg16"), 224, 3, 1000)[0] == 138_357_544


def test_alexnet_has_the_paper_s_parameters_once_three_convolutions_are_halved_into_groups() -> None:
    whole = count(ModelSpec("alexnet", normalization="lrn"), 227, 3, 1000)[0]
    halves = (5 * 5 * 96 * 256 + 3 * 3 * 384 * 384 + 3 * 3 * 384 * 256) // 2
    assert (whole, whole - halves) == (62_378_344, 60_965_224)


@pytest.mark.parametrize(
    ("spec", "size_px", "parameters"),
    [
        (ModelSpec("mobilenet_v1"), 224, 4_253_864),
        (ModelSpec("mobilenet_v2"), 224, 3_538_984),
        (ModelSpec("mobilenet_v2", width=1.4), 96, 6_156_712),
    ],
    ids=str,
)
def test_mobilenets_have_as_many_parameters_as_in_keras_s_own_table(
    spec: ModelSpec, size_px: int, parameters: int
) -> None:
    assert count(spec, size_px, 3, 1000)[0] == parameters


def test_lenet_deploys_61_706_weights_where_the_paper_counts_60_000() -> None:
    with tf.Graph().as_default():
        rows = summary(build(ModelSpec("lenet"), InputSpec(28, 28, 1), heads(10)))[:-1]
    # Of four numbers per channel that batch norm brings, the one that is left after folding is the bias.
    assert sum(r.parameters // 4 if r.kind == "BatchNormalization" else r.parameters for r in rows) == 61_706


def test_resnet8_has_the_layers_and_the_macs_of_the_mlperf_tiny_reference(shared: Path) -> None:
    theirs = folded.read(shared / "reference_models" / "pretrainedResnet.tflite")
    with tf.Graph().as_default():
        ours = build(ModelSpec("resnet8"), InputSpec(32, 32), heads(10))
        shapes = sorted(tuple(x.kernel.shape) for x in ours.layers if hasattr(x, "kernel"))
        macs = summary(ours)[-1].macs
    assert (shapes, macs) == (sorted(layer.kernel.shape for layer in theirs.layers), 12_501_632)


def test_resnet8_as_int8_is_no_larger_than_the_mlperf_tiny_reference() -> None:
    converter = tf.lite.TFLiteConverter.from_keras_model(
        build(ModelSpec("resnet8"), InputSpec(32, 32), heads(10))
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None]] for x in bytes_of(4, 32, 32, 3))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own about statistics that are calibrated
        assert len(converter.convert()) <= 98_496


@pytest.mark.parametrize("spec", SMALL, ids=lambda s: f"{s.topology}-{s.normalization}")
@pytest.mark.parametrize("channels", [1, 3])
def test_every_topology_answers_at_its_smallest_size_and_at_an_odd_one(
    spec: ModelSpec, channels: int
) -> None:
    side = SMALLEST_PX.get(spec.topology, (4, ""))[0]
    for height, width in ((side, side), (side + 5, side + 2)):
        model = build(spec, InputSpec(height, width, channels), heads())  # type: ignore[arg-type]
        scores = model(bytes_of(2, height, width, channels)).numpy()
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("topology", SMALLEST_PX)
def test_a_picture_one_pixel_too_small_is_refused_with_the_smallest_that_fits(topology: str) -> None:
    smallest = SMALLEST_PX[topology][0]
    with pytest.raises(ModelError, match=f"{smallest - 1} x {smallest + 9}") as caught:
        build(ModelSpec(topology), InputSpec(smallest - 1, smallest + 9), heads())  # type: ignore[arg-type]
    assert f"at least {smallest}" in caught.value.fix


def test_a_network_sees_each_byte_as_its_distance_from_128_in_128ths() -> None:
    model = build(ModelSpec("layers", layers=(Layer("flatten"),)), InputSpec(16, 16, 1), heads())
    normalise = keras.Model(model.input, model.get_layer("normalise").output)
    every_byte = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1)
    assert (normalise(every_byte).numpy() == (every_byte - 128) / 128).all()


def test_two_labels_get_one_neuron_and_a_second_head_answers_in_its_place() -> None:
    fire = Head("fire", "sigmoid", ("no_fire", "fire"))
    model = build(ModelSpec("resnet8"), InputSpec(32, 32), (*heads(6, "scene"), fire))
    assert [tuple(x.shape) for x in model(bytes_of(2, 32, 32, 3))] == [(2, 6), (2, 1)]
    assert model.output_names == ["scene", "fire"]


@pytest.mark.parametrize(("top_down", "grid"), [(False, (4, 6)), (True, (8, 12))])
def test_a_heatmap_gives_a_score_per_cell_and_label(top_down: bool, grid: tuple[int, int]) -> None:
    smoke = Head("where", "heatmap", ("fire", "smoke"))
    model = build(ModelSpec("mobilenet_v2", width=0.1, top_down=top_down), InputSpec(64, 96), (smoke,))
    scores = model(bytes_of(1, 64, 96, 3)).numpy()
    assert scores.shape == (1, *grid, 2)
    assert (np.abs(scores - 0.5) < 0.5).all()


@pytest.mark.parametrize("topology", ["mobilenet_v1", "mobilenet_v2"])
def test_a_heatmap_of_an_odd_side_has_no_more_cells_than_the_map_that_says_where(topology: Topology) -> None:
    where = Head("where", "heatmap", ("fire",))
    model = build(ModelSpec(topology, width=0.1, top_down=True), InputSpec(100, 64), (where,))
    assert model.output_shape == (None, 13, 8, 1)
    maps = [model.get_layer(f"top_down_{level}").output_shape[1:3] for level in (1, 2, 3, 4)]
    assert maps == [(25, 16), (13, 8), (7, 4), (4, 2)]


def test_a_network_without_a_heatmap_has_no_layers_for_one() -> None:
    model = build(ModelSpec("mobilenet_v2", width=0.1, top_down=True), InputSpec(64, 64), heads())
    assert not [layer.name for layer in model.layers if layer.name.startswith("top_down")]
    assert len(model.get_layer("block_13_expand_relu").outbound_nodes) == 1


@pytest.mark.parametrize(
    "bad",
    [
        (),
        (*heads(), *heads()),
        heads(name="no fire"),
        heads(name="picture"),
        heads(name="conv1"),
        heads(count=1),
        (Head("x", "sigmoid", ()),),
    ],
    ids=["none", "twice", "space", "input's name", "layer's name", "one label", "no label"],
)
def test_heads_that_cannot_be_told_apart_or_named_are_refused(bad: tuple[Head, ...]) -> None:
    with pytest.raises(ModelError):
        build(ModelSpec("lenet"), InputSpec(28, 28), bad)


def test_a_head_that_learns_on_the_features_of_the_trunk_gives_the_answers_of_the_whole() -> None:
    model = build(ModelSpec("mobilenet_v1", width=0.1), InputSpec(32, 32), heads())
    pictures = bytes_of(2, 32, 32, 3)
    logits = model.get_layer("label_logits")(features_of(model)(pictures))
    np.testing.assert_allclose(tf.nn.softmax(logits), model(pictures), atol=1e-6)


def test_a_model_without_a_head_of_ours_has_no_trunk_to_give() -> None:
    picture = keras.Input((4,))
    with pytest.raises(ModelError, match="told from its trunk"):
        features_of(keras.Model(picture, keras.layers.Dense(2)(picture)))


def test_the_summary_counts_as_by_hand() -> None:
    layers = (Layer("conv", filters=4, stride=2), Layer("depthwise", kernel=5), Layer("global_average_pool"))
    model = build(ModelSpec("layers", layers=layers), InputSpec(8, 8), heads(3))
    rows = {row.name: (row.parameters, row.macs) for row in summary(model)}
    expected = {
        "conv_1": (3 * 3 * 3 * 4 + 4, 4 * 4 * 3 * 3 * 3 * 4),
        "depthwise_2": (5 * 5 * 4 + 4, 4 * 4 * 5 * 5 * 4),
        "label_logits": (4 * 3 + 3, 4 * 3),
    }
    assert {name: rows[name] for name in expected} == expected
    assert rows["total"] == tuple(sum(column) for column in zip(*expected.values(), strict=True))


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_alexnet_with_its_own_normalisation_answers_the_same_after_saving(
    suffix: str, tmp_path: Path
) -> None:
    model = build(
        ModelSpec("alexnet", width=0.1, dense_units=8, normalization="lrn"), InputSpec(67, 67), heads()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras would rather have .keras
        model.save(tmp_path / f"model{suffix}")
    again = keras.models.load_model(tmp_path / f"model{suffix}", compile=False)
    pictures = bytes_of(2, 67, 67, 3)
    np.testing.assert_array_equal(again(pictures), model(pictures))


def test_alexnet_with_its_own_normalisation_answers_the_same_as_float_tflite() -> None:
    model = build(
        ModelSpec("alexnet", width=0.1, dense_units=8, normalization="lrn"), InputSpec(67, 67), heads()
    )
    interpreter = Interpreter(model_content=bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert()))
    interpreter.allocate_tensors()
    picture = bytes_of(1, 67, 67, 3)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture)
    interpreter.invoke()
    scores = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(scores, model(picture), atol=1e-4)


def test_local_response_normalization_is_the_formula_of_the_paper() -> None:
    a = np.random.default_rng(3).normal(0, 30, (1, 2, 2, 8)).astype(np.float32)
    expected = np.empty_like(a)
    for i in range(8):
        near = a[..., max(0, i - 2) : i + 3]
        expected[..., i] = a[..., i] / (2 + 1e-4 * (near**2).sum(axis=-1)) ** 0.75
    np.testing.assert_allclose(LocalResponseNormalization()(a), expected, rtol=1e-5)
