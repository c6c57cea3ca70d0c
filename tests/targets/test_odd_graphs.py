"""A model that a converter would never write gets a verdict, not a traceback."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Graph

from edgecnn.bundle.schema import OPERATORS
from edgecnn.targets import cpu, edgetpu, micro


def graph_of(op: str, shape: tuple[int, ...], inputs: int, is_constant: bool) -> Graph:
    """Give a graph of one operator with inputs that may be anything but what it expects."""
    graph = Graph()
    fed = [graph.input(shape)] if inputs else []
    zeros = np.zeros(shape, np.int32)
    fed += [graph.constant(zeros) if is_constant else graph.input(shape) for _ in range(inputs - 1)]
    graph.op(op, fed, shape)
    return graph


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 4, 4, 8), (2, 2, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("is_constant", [True, False])
def test_every_operator_with_every_kind_of_input_gets_a_verdict(
    shape: tuple[int, ...], is_constant: bool
) -> None:
    for op in OPERATORS:
        for inputs in (0, 1, 2, 4):
            model = graph_of(op, shape, inputs, is_constant).model()
            (node,) = micro.nodes(model)

            found = [edgetpu.predict(model).ops, cpu.check(model).ops, [micro.obstacle(node)]]

            assert [len(each) for each in found] == [1, 1, 1]


def test_an_operator_without_an_output_gets_a_verdict() -> None:
    graph = Graph()
    graph.conv(graph.input((1, 4, 4, 8)))
    last = graph.operators[-1]
    graph.operators[-1] = type(last)(last.index, last.op, last.version, last.inputs, (), last.options)

    assert not edgetpu.predict(graph.model()).passed
