"""How a CPU runs a model: integers, floats in between, and what no runtime has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import Graph

from edgecnn.bundle.flatbuffer import parse
from edgecnn.targets import cpu


@pytest.mark.parametrize("name", ["vww_96_int8", "vww_96_float", "mobilenet_v2_1.0_224_quant"])
def test_plain_networks_run_as_a_whole(shared: Path, name: str) -> None:
    model = parse((shared / "reference_models" / f"{name}.tflite").read_bytes())

    check = cpu.check(model)

    assert (check.passed, check.mapped_macs_share) == (True, 1.0)


def test_a_float_layer_amid_integers_runs_and_is_pointed_at() -> None:
    graph = Graph()
    floats = graph.op("DEQUANTIZE", (graph.conv(graph.input((1, 4, 4, 8))),), (1, 4, 4, 8), "float32")
    graph.op("QUANTIZE", (graph.op("ELU", (floats,), (1, 4, 4, 8), "float32"),), (1, 4, 4, 8))

    check = cpu.check(graph.model())

    assert check.passed
    assert [op.index for op in check.ops if op.reason and "float32" in op.reason] == [2]
    assert "compute in float32: 2" in check.verdict


def test_a_float_network_is_no_chain_of_islands() -> None:
    graph = Graph()
    graph.op("RELU", (graph.input((1, 4, 4, 8), "float32"),), (1, 4, 4, 8), "float32")

    assert cpu.check(graph.model()).verdict == "A CPU runs the whole network: 1 operator."


@pytest.mark.parametrize(
    ("op", "said"),
    [("FlexErf", "TensorFlow itself"), ("edgetpu-custom-op", "Edge TPU"), ("Mine", "no common")],
)
def test_a_custom_operator_that_no_runtime_has_fails_the_check(op: str, said: str) -> None:
    graph = Graph()
    graph.op(op, (graph.input((1, 4, 4, 8)),), (1, 4, 4, 8), is_custom=True)

    first = cpu.check(graph.model()).first_blocking_op

    assert first is not None
    assert said in (first.reason or "")


def test_16_bit_activations_are_remarked_as_slow() -> None:
    graph = Graph()
    graph.op("RELU", (graph.input((1, 4, 4, 8), "int16"),), (1, 4, 4, 8), "int16")

    assert "16-bit" in (cpu.check(graph.model()).ops[0].reason or "")


def test_integer_weights_on_float_inputs_are_remarked_as_dynamic_range() -> None:
    graph = Graph()
    weights = graph.constant(np.ones((8, 1, 1, 8), np.int8))
    graph.op("CONV_2D", (graph.input((1, 4, 4, 8), "float32"), weights), (1, 4, 4, 8), "float32")

    assert "dynamic range" in (cpu.check(graph.model()).ops[0].reason or "")
