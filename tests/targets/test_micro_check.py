"""What TensorFlow Lite Micro has kernels for, and the arena that it takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from graphs import Graph

from edgecnn.bundle.flatbuffer import Quantization, parse
from edgecnn.targets import micro

INT8 = ["pretrainedResnet_quant", "vww_96_int8"]
UINT8 = ["mobilenet_v1_0.25_128_quant", "split_concat"]
FLOAT = ["pretrainedResnet", "vww_96_float"]

needs_tflite_micro = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="needs tflite-micro, which is not installed"
)


def flat(shared: Path, name: str) -> bytes:
    return (shared / "reference_models" / f"{name}.tflite").read_bytes()


def rules(data: bytes) -> list[bool]:
    return [micro.obstacle(node) is None for node in micro.nodes(parse(data))]


@pytest.mark.parametrize("name", INT8 + FLOAT)
def test_mlperfs_tiny_references_have_a_kernel_for_every_operator(shared: Path, name: str) -> None:
    assert all(rules(flat(shared, name)))


@pytest.mark.parametrize("name", UINT8)
def test_a_uint8_network_of_tensorflow_1_has_no_kernels_there(shared: Path, name: str) -> None:
    assert not any(rules(flat(shared, name))[:1])


def test_integer_weights_on_float_inputs_are_refused() -> None:
    graph = Graph()
    fed = graph.input((1, 4, 4, 8), "float32")
    weights = graph.constant(np.ones((8, 1, 1, 8), np.int8))
    bias = graph.constant(np.zeros(8, np.float32), Quantization())
    graph.op("CONV_2D", (fed, weights, bias), (1, 4, 4, 8), "float32")

    (node,) = micro.nodes(graph.model())

    found = micro.obstacle(node)
    assert found is not None
    assert "dynamic range" in found.reason


def test_an_operator_without_a_kernel_and_a_foreign_one_are_refused() -> None:
    graph = Graph()
    fed = graph.input((1, 4, 4, 8))
    graph.op("GELU", (graph.op("MyOp", (fed,), (1, 4, 4, 8), is_custom=True),), (1, 4, 4, 8))

    reasons = [found.reason for node in micro.nodes(graph.model()) if (found := micro.obstacle(node))]

    assert ["'MyOp' is a custom" in reasons[0], "no GELU" in reasons[1]] == [True, True]


def test_where_tflite_micro_is_missing_the_arena_is_absent_and_a_note_says_how_to_get_it(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    data = flat(shared, INT8[0])

    check = micro.check(parse(data), data)

    assert (check.passed, check.arena_bytes) == (True, None)
    assert "pip install" in check.notes[0]


@needs_tflite_micro
@pytest.mark.parametrize("name", INT8 + FLOAT + UINT8)
def test_the_list_of_kernels_agrees_with_tflite_micro_itself(shared: Path, name: str) -> None:
    data = flat(shared, name)

    trial = micro.measure(data, len(parse(data).inputs))

    assert trial is not None
    assert (trial.arena_bytes is not None) == all(rules(data))


@needs_tflite_micro
def test_the_arena_of_the_int8_resnet_holds_its_two_largest_neighbours(shared: Path) -> None:
    data = flat(shared, INT8[0])

    check = micro.check(parse(data), data)

    # Input, output and shortcut of the first block: three times 32 x 32 x 16 bytes live at once.
    assert check.arena_bytes is not None
    assert 3 * 32 * 32 * 16 <= check.arena_bytes < 64 * 1024


@needs_tflite_micro
def test_a_model_that_brings_tflite_micro_down_does_not_bring_us_down(shared: Path) -> None:
    data = flat(shared, "model_invoking_error")

    check = micro.check(parse(data), data)

    assert (check.passed, check.arena_bytes) == (False, None)


def test_what_tflite_micro_says_of_a_node_is_laid_to_that_node() -> None:
    text = "version 0.dev1\nNode REDUCE_MAX (number 2) failed to invoke with status 1\nRuntimeError: ..."

    trial = micro.read_trial(1, text)

    assert (trial.arena_bytes, trial.index, trial.failure) == (None, 2, "failed to invoke")


def test_a_missing_kernel_and_a_crash_are_told_apart() -> None:
    missing = micro.read_trial(1, "Didn't find op for builtin opcode 'GELU'")
    crashed = micro.read_trial(-6, "")

    assert (missing.op, crashed.failure) == ("GELU", "it crashed with signal 6")
