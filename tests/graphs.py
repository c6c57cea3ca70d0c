"""Small graphs of TFLite operators, put together by hand, for tests that read models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle.flatbuffer import Model, Operator, Quantization, Subgraph, Tensor

PER_TENSOR = Quantization((0.1,), (0,))


@dataclass
class Graph:
    """A graph under construction; every method gives the number of the tensor that it adds."""

    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    buffers: list[memoryview] = field(default_factory=lambda: [memoryview(b"")])
    inputs: list[int] = field(default_factory=list)

    def tensor(
        self, shape: Sequence[int], dtype: str = "int8", quantization: Quantization | None = None
    ) -> int:
        if quantization is None:
            quantization = PER_TENSOR if dtype in ("int8", "uint8", "int16") else Quantization()
        index = len(self.tensors)
        self.tensors.append(Tensor(index, f"t{index}", tuple(shape), dtype, quantization, 0))
        return index

    def input(self, shape: Sequence[int], dtype: str = "int8") -> int:
        self.inputs.append(self.tensor(shape, dtype))
        return self.inputs[-1]

    def constant(self, values: NDArray[Any], quantization: Quantization | None = None) -> int:
        index = self.tensor(values.shape, str(values.dtype), quantization)
        self.buffers.append(memoryview(values.tobytes()))
        old = self.tensors[index]
        self.tensors[index] = Tensor(
            index, old.name, old.shape, old.dtype, old.quantization, len(self.buffers) - 1, is_constant=True
        )
        return index

    def op(
        self,
        op: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        dtype: str = "int8",
        version: int = 1,
        is_custom: bool = False,
        **options: Any,
    ) -> int:
        given = self.tensor(shape, dtype)
        index = len(self.operators)
        self.operators.append(Operator(index, op, version, tuple(inputs), (given,), options, is_custom))
        return given

    def conv(self, fed: int, channels: int = 8, **options: Any) -> int:
        """Add a 1x1 convolution."""
        shape = self.tensors[fed].shape
        weights = self.constant(np.ones((channels, 1, 1, shape[-1]), np.int8))
        bias = self.constant(np.zeros(channels, np.int32), PER_TENSOR)
        return self.op("CONV_2D", (fed, weights, bias), (*shape[:-1], channels), **options)

    def model(self, *outputs: int) -> Model:
        graph = Subgraph(
            "main",
            tuple(self.tensors),
            tuple(self.operators),
            tuple(self.inputs),
            outputs or (len(self.tensors) - 1,),
        )
        return Model(3, "", (graph,), tuple(self.buffers), {})
