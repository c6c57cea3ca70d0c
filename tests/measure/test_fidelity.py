from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from graphs import Graph
from planted import LABELS, Planted

from edgecnn.bundle import flatbuffer
from edgecnn.errors import DataError
from edgecnn.measure.fidelity import NOISELESS_DB, Fidelity, LayerFidelity, advice, compare
from edgecnn.measure.pairing import landmarks, pair, scores_before_squashing

PICTURES = planted.stripes(16, seed=9)[0]


@functools.cache
def converted(make: Callable[[], Planted], precision: Any, fog: int = 1) -> bytes:
    """Convert a planted network; ``fog`` divides the contrast of what it is calibrated on."""
    from edgecnn.workstation.subject import read_subject
    from edgecnn.workstation.tflite import to_flatbuffer

    network = make()
    pictures = network.train[0][:200]
    if fog > 1:
        pictures = (128 + (pictures.astype(int) - 128) // fog).astype(np.uint8)
        pictures[:, 0, 0], pictures[:, 0, 1] = 0, 255  # or a byte would be no code
    with tempfile.TemporaryDirectory() as folder:
        subject = read_subject(network.save(Path(folder) / "net.h5"), LABELS)
    return to_flatbuffer(subject, precision, pictures)


@functools.cache
def held(make: Callable[[], Planted], precision: str = "int8", fog: int = 1) -> Fidelity:
    """Hold a planted network against its float twin."""
    quantized = converted(make, precision, fog)
    (fed,) = flatbuffer.parse(quantized).inputs
    codes, real = PICTURES[:, None].astype(fed.dtype), PICTURES[:, None].astype(np.float32)
    return compare(quantized, converted(make, "float32"), [codes], [real])


@pytest.mark.parametrize(
    ("make", "rung"),
    [
        (planted.outlier_channels, "equalize"),
        (planted.dead_concat, "equalize"),
        (planted.saturated_output, "ranges"),
    ],
)
def test_the_layer_with_the_fault_comes_first_with_the_rung_that_mends_it(
    make: Callable[[], Planted], rung: str
) -> None:
    worst = held(make).worst_first[0]
    assert (worst.label, worst.rung) == (make().layer, rung)


@pytest.mark.parametrize("make", [planted.outlier_channels, planted.dead_concat, planted.saturated_output])
def test_every_layer_but_the_one_with_the_fault_costs_little(make: Callable[[], Planted]) -> None:
    assert [layer.label for layer in held(make).layers if layer.rung] == [make().layer]


def test_a_fault_that_the_noise_of_the_whole_tensor_hides_shows_at_the_scores() -> None:
    worst = held(planted.outlier_channels).worst_first[0]
    assert worst.own_sqnr_db is not None
    assert worst.output_sqnr_db is not None
    assert worst.own_sqnr_db > 35
    assert worst.output_sqnr_db < 10


def test_no_layer_of_a_sound_network_needs_a_rung() -> None:
    assert [layer.rung for layer in held(planted.sound).layers if layer.rung] == []


def test_the_noise_of_all_layers_together_is_about_the_sum_of_what_each_costs_alone() -> None:
    found = held(planted.sound)
    shares = [
        10 ** (-layer.output_sqnr_db / 10) for layer in found.layers if layer.output_sqnr_db is not None
    ]
    assert found.output_sqnr_db == pytest.approx(-10 * np.log10(sum(shares)), abs=4)


def test_layers_that_were_calibrated_in_fog_are_found_clipped_in_clear_air() -> None:
    worst = held(planted.sound, fog=8).worst_first[0]
    assert worst.rung == "ranges"
    assert worst.clipped is not None
    assert worst.clipped > 0.01


def test_16_bit_activations_take_the_fault_away() -> None:
    eight, sixteen = held(planted.outlier_channels), held(planted.outlier_channels, "int16x8")
    assert eight.output_sqnr_db is not None
    assert sixteen.output_sqnr_db is not None
    assert sixteen.output_sqnr_db > eight.output_sqnr_db + 20


def test_a_file_held_against_itself_has_no_noise_anywhere() -> None:
    flat, fed = converted(planted.sound, "float32"), PICTURES[:, None].astype(np.float32)
    found = compare(flat, flat, [fed], [fed])
    assert {layer.sqnr_db for layer in found.layers} == {NOISELESS_DB}
    assert {layer.own_sqnr_db for layer in found.layers} == {NOISELESS_DB}


def test_the_normalisation_that_int8_does_without_is_named_as_unpaired() -> None:
    assert [(item.file, item.op) for item in held(planted.sound).unpaired] == [
        ("against", "MUL"),
        ("against", "ADD"),
    ]


def test_a_quantized_twin_is_refused() -> None:
    fed = PICTURES[:, None].astype(np.float32)
    with pytest.raises(DataError, match="quantized itself"):
        compare(
            converted(planted.sound, "float32"), converted(planted.sound, "int8"), [fed], [PICTURES[:, None]]
        )


def a_layer(**facts: Any) -> LayerFidelity:
    measured = held(planted.sound).layers[0]
    return replace(measured, **({"output_sqnr_db": 12.0} | facts))


@pytest.mark.parametrize(
    ("facts", "rung"),
    [
        ({"output_sqnr_db": 45.0, "clip_noise": 1.0}, ""),
        ({"output_sqnr_db": None}, ""),
        ({"clip_noise": 0.9}, "ranges"),
        ({"bulk_used": 0.01}, "ranges"),
        ({"bulk_used": 0.01, "shares_scale": "branches"}, "equalize"),
        ({"bulk_used": 0.01, "shares_scale": "input"}, "int16x8"),
        ({"channel_spread": 100.0}, "equalize"),
        ({"bias_noise": 0.8}, "bias"),
        ({"step_noise": 9.0}, "adaround"),
        ({}, "qat"),
        ({"weight_sqnr_db": None}, "int16x8"),
    ],
)
def test_each_cause_of_noise_has_its_rung(facts: dict[str, Any], rung: str) -> None:
    calm = {"clip_noise": 0.0, "bulk_used": 0.7, "channel_spread": 3.0, "bias_noise": 0.1, "step_noise": 1.0}
    assert advice(a_layer(**(calm | facts)))[0] == rung


def graph_of(dtype: str, fused: bool, extra: bool = False) -> flatbuffer.Model:
    graph = Graph()
    fed = graph.input((1, 4, 4, 3), dtype)
    if fused:
        x = graph.conv(fed, 8, activation="RELU")
    else:
        x = graph.op("RELU", (graph.conv(fed, 8, activation="NONE"),), (1, 4, 4, 8), dtype)
    if extra:
        x = graph.op("QUANTIZE", (x,), (1, 4, 4, 8), dtype)
        x = graph.op("ABS", (x,), (1, 4, 4, 8), dtype)
    x = graph.conv(x, 4, activation="NONE")
    graph.op("SOFTMAX", (x,), (1, 4, 4, 4), dtype)
    return graph.model()


def test_a_fused_rectifier_pairs_with_one_that_stands_alone() -> None:
    pairs = pair(landmarks(graph_of("int8", fused=True)), landmarks(graph_of("int8", fused=False)))
    assert [(one.op, one.activation, other.activation) for one, other in pairs] == [
        ("CONV_2D", "RELU", "RELU"),
        ("CONV_2D", "NONE", "NONE"),
        ("SOFTMAX", "NONE", "NONE"),
    ]


def test_an_operator_that_only_one_file_has_does_not_shift_the_pairs_behind_it() -> None:
    first, second = graph_of("int8", fused=True, extra=True), graph_of("int8", fused=True)
    pairs = pair(landmarks(first), landmarks(second))
    assert [(one.op, one.operator, other.operator) for one, other in pairs] == [
        ("CONV_2D", 0, 0),
        ("CONV_2D", 3, 1),
        ("SOFTMAX", 4, 2),
    ]


def test_names_decide_where_the_order_of_equal_layers_differs() -> None:
    marks = landmarks(graph_of("int8", fused=True))
    one, other = replace(marks[0], name="net/a/Conv2D"), replace(marks[0], tensor=90, name="net/b/Conv2D")
    twins = [replace(other, name="twin/b/Conv2D"), replace(one, name="twin/a/Conv2D")]
    assert [(p.name, q.name) for p, q in pair([one, other], twins)] == [
        ("net/a/Conv2D", "twin/a/Conv2D"),
        ("net/b/Conv2D", "twin/b/Conv2D"),
    ]


def test_the_scores_that_count_are_those_before_the_softmax() -> None:
    model = graph_of("int8", fused=True)
    assert scores_before_squashing(model) == (model.operators[-1].inputs[0],)


def test_files_without_a_layer_in_common_are_refused(shared: Path) -> None:
    folder = shared / "reference_models"
    flats = [(folder / f"{name}.tflite").read_bytes() for name in ("pretrainedResnet_quant", "vww_96_float")]
    with pytest.raises(DataError, match="no layer in common"):
        compare(*flats, [np.zeros((1, 1, 32, 32, 3), np.int8)], [np.zeros((1, 1, 96, 96, 3), np.float32)])


@pytest.mark.parametrize(
    ("quantized", "real"),
    [("vww_96_int8", "vww_96_float"), ("pretrainedResnet_quant", "pretrainedResnet")],
)
def test_the_layers_of_foreign_files_are_all_paired(shared: Path, quantized: str, real: str) -> None:
    folder = shared / "reference_models"
    flats = [(folder / f"{name}.tflite").read_bytes() for name in (quantized, real)]
    models = [flatbuffer.parse(flat) for flat in flats]
    (fed,) = models[0].inputs
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (4, *fed.shape)).astype(np.int8)
    scale, zero = fed.quantization.scales[0], fed.quantization.zero_points[0]
    real_values = ((codes.astype(np.float32) - zero) * scale).astype(np.float32)
    found = compare(*flats, [codes], [real_values])
    assert found.unpaired == ()
    assert all(layer.cosine > 0.9 for layer in found.layers)
