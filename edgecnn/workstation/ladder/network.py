"""A float network with the ranges of its activations: what every rung of the ladder takes and gives.

The door to int8 is TensorFlow's own quantizer, fed with a calibrated float flatbuffer: weights that a rung
changed and ranges that it chose are written over the old ones, in place. So a rung needs no Keras and works
on every network that converts, and the first rung is the file that plain conversion makes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle import flatbuffer
from edgecnn.bundle.flatbuffer import Model, Operator
from edgecnn.bundle.tables import Buffer, Table
from edgecnn.errors import ModelError
from edgecnn.runtime.quiet import quietly
from edgecnn.workstation.backend import quantizer, tf

Floats = NDArray[np.float32]
Range = tuple[float, float]
"""The real numbers that the lowest and the highest code of an activation stand for."""

OUT_AXIS: Final = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Operators with weights, and the axis of the output channel, each of which has a scale of its own."""


@dataclass(frozen=True, slots=True)
class Network:
    """A float network and the range of each activation.

    Attributes:
        flat: The flatbuffer, as the calibrator wrote it.
        ranges: By number of the tensor.
    """

    flat: bytes
    ranges: Mapping[int, Range]

    @property
    def model(self) -> Model:
        """What the flatbuffer holds."""
        return _parsed(self.flat)


@dataclass(frozen=True, slots=True)
class Layer:
    """An operator with weights of its own.

    Attributes:
        operator: Which one.
        fed: The number of its input tensor.
        given: That of its output.
        weights: That of its weights.
        bias: That of its bias; None where it has none.
        out_axis: Axis of the output channel in the weights.
    """

    operator: Operator
    fed: int
    given: int
    weights: int
    bias: int | None
    out_axis: int


@lru_cache(maxsize=4)
def _parsed(flat: bytes) -> Model:
    return flatbuffer.parse(flat)


def read_network(calibrated: bytes) -> Network:
    """Take a calibrated float flatbuffer apart.

    Args:
        calibrated: As TensorFlow's calibrator writes it: with a least and a greatest value of every
            activation.

    Returns:
        The network, with these for ranges.
    """
    found = {index: limits for index, limits in enumerate(_limits(calibrated)) if limits is not None}
    return Network(calibrated, {i: (float(low[0]), float(high[0])) for i, (low, high) in found.items()})


def layers(model: Model) -> tuple[Layer, ...]:
    """List the operators whose weights nobody else uses, in the order of execution."""
    users: dict[int, int] = {}
    for operator in model.operators:
        for index in operator.inputs:
            buffer = model.tensors[index].buffer if index >= 0 else 0
            users[buffer] = users.get(buffer, 0) + 1
    found = []
    for operator in model.operators:
        if operator.op not in OUT_AXIS:
            continue
        weights = model.tensors[operator.inputs[1]]
        third = operator.inputs[2] if len(operator.inputs) > 2 else -1
        has_bias = third >= 0 and model.tensors[third].is_constant and users[model.tensors[third].buffer] == 1
        if weights.is_constant and weights.dtype == "float32" and users[weights.buffer] == 1:
            bias = third if has_bias else None
            axis = OUT_AXIS[operator.op]
            found.append(Layer(operator, operator.inputs[0], operator.outputs[0], weights.index, bias, axis))
    return tuple(found)


def values(network: Network, tensor: int) -> Floats:
    """Copy a constant of the network."""
    found = network.model.values(network.model.tensors[tensor])
    assert found is not None  # layers() names constants only
    return np.array(found, np.float32)


def with_values(network: Network, new: Mapping[int, Floats]) -> Network:
    """Write constants over the old ones.

    Args:
        network: Stays as it is.
        new: By number of the tensor, of the old shape.
    """
    data = bytearray(network.flat)
    model = flatbuffer.parse(cast(bytes, data))  # views into what can be written to
    for index, array in new.items():
        view = model.values(model.tensors[index])
        assert view is not None
        view[...] = array
    return replace(network, flat=bytes(data))


def quantized(network: Network, islands: Collection[str] = ()) -> bytes:
    """Make the int8 file: ``uint8`` in and out, a scale for each output channel of the weights.

    Args:
        network: What to quantize.
        islands: Operators that stay float, by the name of the tensor that each gives.

    Returns:
        The flatbuffer; the same network gives the same bytes.

    Raises:
        ModelError: If the quantizer refuses.
    """
    data = bytearray(network.flat)
    found = _limits(cast(bytes, data))
    for index, (low, high) in network.ranges.items():
        limits = found[index]
        if limits is not None:
            limits[0][:], limits[1][:] = low, high
    try:
        with quietly():
            flat: bytes = quantizer()(
                bytes(data),
                input_data_type=tf.uint8,
                output_data_type=tf.uint8,
                denylisted_nodes=set(islands) or None,
            )
    except Exception as error:  # the quantizer raises its own ConverterError, ValueError, RuntimeError ...
        raise ModelError(
            f"TensorFlow Lite cannot quantize the network: {str(error).splitlines()[0][:300]}",
            fix="Convert it without --max-drop, or with --precision float32.",
        ) from error
    return flat


def _limits(flat: bytes) -> list[tuple[NDArray[Any], NDArray[Any]] | None]:
    """View the least and greatest value that stand beside each tensor; None where there are none."""
    graph = next(Buffer(flat).root().tables(2))
    return [_limits_of(tensor.table(4)) for tensor in graph.tables(0)]


def _limits_of(quantization: Table | None) -> tuple[NDArray[Any], NDArray[Any]] | None:
    # schema.fbs: QuantizationParameters begins with min and max.
    low, high = (quantization.vector(slot, "f32") if quantization else None for slot in (0, 1))
    return None if low is None or high is None or not len(low) else (low, high)
