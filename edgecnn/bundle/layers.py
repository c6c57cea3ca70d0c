"""What each operator of a model costs: parameters and multiply-accumulates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgecnn.bundle.file import spec_of
from edgecnn.bundle.flatbuffer import Model, Operator, Tensor

EDGETPU_OPERATOR: Final = "edgetpu-custom-op"
_PASSES_ON: Final = ("DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE")

_SETTINGS: Final = ("RESHAPE", "TRANSPOSE", "PAD", "PADV2", "MIRROR_PAD", "MEAN", "SUM", "STRIDED_SLICE",
                    "SLICE", "SPLIT", "SPLIT_V", "TILE", "GATHER", "RESIZE_BILINEAR",
                    "RESIZE_NEAREST_NEIGHBOR", "REDUCE_MAX", "REDUCE_MIN", "ARG_MAX", "ARG_MIN",
                    "EXPAND_DIMS", "BROADCAST_TO", "FILL", "ONE_HOT", "SQUEEZE")  # fmt: skip
"""Operators whose constants are shapes and axes, which nobody trains."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator, as ``inspect`` prints it.

    Attributes:
        index: Its number, in the order of execution.
        op: ``CONV_2D`` ...
        name: Of the tensor that it gives.
        input_shape: Of its first input that is not a constant.
        output_shape: Of its first output.
        dtype: Of its first output.
        parameters: Weights and biases; shapes and axes are none.
        macs: Multiply-accumulates of one invocation; None for a custom operator, which hides them.
    """

    index: int
    op: str
    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: str
    parameters: int
    macs: int | None


def layers(model: Model) -> tuple[Layer, ...]:
    """List the operators of a model's main graph, with what each costs.

    Weights that two operators share are counted at the first of them.
    """
    counted: set[int] = set()
    rows = []
    for operator in model.operators:
        inputs = [model.tensors[index] for index in operator.inputs if index >= 0]
        weights = [] if operator.op in _SETTINGS else [t for t in inputs if t.is_constant]
        new = [t for t in weights if t.buffer not in counted]
        counted.update(t.buffer for t in new)
        fed = next((t for t in inputs if not t.is_constant), None)
        given = model.tensors[operator.outputs[0]] if operator.outputs else None
        rows.append(
            Layer(
                operator.index,
                operator.op,
                given.name if given else "",
                fed.shape if fed else (),
                given.shape if given else (),
                given.dtype if given else "",
                sum(tensor.size for tensor in new),
                _macs(operator, model.tensors, given),
            )
        )
    return tuple(rows)


def _macs(operator: Operator, tensors: tuple[Tensor, ...], given: Tensor | None) -> int | None:
    """Count multiply-accumulates.

    A convolution takes one per weight of the filter and output position; a depthwise one has no sum
    over channels. What only adds, compares or moves counts as 0, as papers do.

    Source:
        A. Howard et al., MobileNets, arXiv:1704.04861, equations 2 and 4.
    """
    if operator.is_custom:
        return None
    if given is None or len(operator.inputs) < 2:
        return 0
    shapes = [tensors[index].shape if index >= 0 else () for index in operator.inputs]
    if operator.op in ("CONV_2D", "CONV_3D") and len(shapes[1]) > 2:
        # CONV_2D weights: (out, height, width, in); CONV_3D: (depth, height, width, in, out).
        per_output = math.prod(shapes[1][1:] if operator.op == "CONV_2D" else shapes[1][:-1])
        return given.size * per_output
    if operator.op == "DEPTHWISE_CONV_2D" and len(shapes[1]) == 4:
        return given.size * math.prod(shapes[1][1:3])
    if operator.op == "TRANSPOSE_CONV" and len(shapes) > 2 and len(shapes[1]) == 4:
        return math.prod(shapes[2]) * math.prod(shapes[1][:3])
    if operator.op == "FULLY_CONNECTED" and shapes[1]:
        return given.size * shapes[1][-1]
    if operator.op == "BATCH_MATMUL" and shapes[0]:
        return given.size * shapes[0][-2 if operator.options.get("adj_x") else -1]
    if operator.op == "MUL":
        return given.size
    return 0


def activation_of(model: Model, tensor: Tensor) -> str | None:
    """Find what makes an output a score: ``SOFTMAX``, ``LOGISTIC``, or None where nothing does."""
    index = tensor.index
    for operator in reversed(model.operators):
        if index not in operator.outputs:
            continue
        if operator.op in ("SOFTMAX", "LOGISTIC"):
            return operator.op
        if operator.op == EDGETPU_OPERATOR:
            return _activation_of_range(tensor)
        if operator.op not in _PASSES_ON:
            return None
        index = operator.inputs[0]
    return None


def _activation_of_range(tensor: Tensor) -> str | None:
    """Guess nothing but what the codes say, where a compiler hides the operator.

    Source:
        TensorFlow Lite 8-bit quantization specification: the outputs of LOGISTIC and SOFTMAX have
        scale 1/256, and the lowest code as their zero point.
    """
    spec = spec_of(tensor)
    if spec.dtype not in ("uint8", "int8") or spec.scale != 1 / 256:
        return None
    if spec.zero_point != np.iinfo(spec.dtype).min:
        return None
    return "LOGISTIC" if tensor.shape[-1] == 1 else "SOFTMAX"
