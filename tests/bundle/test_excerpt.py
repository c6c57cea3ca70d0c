from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from numpy.typing import NDArray

from edgecnn.bundle import flatbuffer
from edgecnn.bundle.excerpt import excerpt
from edgecnn.runtime.interpreter import open_interpreter


def noise(model: flatbuffer.Model) -> NDArray[Any]:
    (fed,) = model.inputs
    return np.random.default_rng(0).integers(0, 127, fed.shape).astype(fed.dtype)


def one_by_one(flat: bytes, model: flatbuffer.Model) -> dict[int, NDArray[Any]]:
    """Run every operator as a model of its own, on what the ones before gave."""
    known = {model.inputs[0].index: noise(model)}
    for operator in model.operators:
        fed = [i for i in dict.fromkeys(operator.inputs) if i >= 0 and not model.tensors[i].is_constant]
        part = open_interpreter(excerpt(flat, [operator.index], fed, operator.outputs), threads=1)
        known.update(zip(operator.outputs, part.invoke(*(known[i] for i in fed)), strict=True))
    return known


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_operators_that_run_one_by_one_give_to_the_last_bit_what_the_whole_gives(precision: str) -> None:
    flat = tiny_models.flat(precision)
    model = flatbuffer.parse(flat)
    (whole,) = open_interpreter(flat, threads=1).invoke(noise(model))
    assert np.array_equal(one_by_one(flat, model)[model.outputs[0].index], whole)


@pytest.mark.parametrize("name", ["vww_96_int8", "pretrainedResnet_quant", "mobilenet_v1_0.25_128_quant"])
def test_a_foreign_file_can_be_taken_apart_as_well(shared: Path, name: str) -> None:
    flat = (shared / "reference_models" / f"{name}.tflite").read_bytes()
    model = flatbuffer.parse(flat)
    (whole,) = open_interpreter(flat, threads=1).invoke(noise(model))
    assert np.array_equal(one_by_one(flat, model)[model.outputs[0].index], whole)


def test_reading_every_tensor_leaves_the_result_as_it_was() -> None:
    flat = tiny_models.flat()
    model = flatbuffer.parse(flat)
    given = [index for operator in model.operators for index in operator.outputs]
    part = excerpt(flat, range(len(model.operators)), [model.inputs[0].index], given)
    (whole,) = open_interpreter(flat, threads=1).invoke(noise(model))
    assert np.array_equal(open_interpreter(part, threads=1).invoke(noise(model))[-1], whole)


def test_an_excerpt_keeps_the_operators_tensors_and_scales_of_the_whole() -> None:
    flat = tiny_models.flat()
    whole = flatbuffer.parse(flat)
    middle = whole.operators[2]
    part = flatbuffer.parse(excerpt(flat, [2], middle.inputs[:1], middle.outputs))
    assert [o.op for o in part.operators] == [middle.op]
    assert part.tensors == whole.tensors
