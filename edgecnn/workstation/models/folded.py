"""Weights read out of a ``.tflite`` file: real numbers, in Keras's layout, batch norm folded."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle.flatbuffer import Model, Operator, Quantization, Tensor, parse
from edgecnn.errors import BundleError, ModelError

Floats = NDArray[np.float32]
Kind = Literal["conv", "depthwise", "dense"]

_KINDS: dict[str, Kind] = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}
_UNCHANGED = {"QUANTIZE", "DEQUANTIZE", "CAST", "RESHAPE", "PAD"}


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a network makes of a byte before its first layer: ``real = scale * byte + offset``.

    Attributes:
        scale: Per channel, red first, or one for all.
        offset: Likewise.
    """

    scale: Floats
    offset: Floats


OURS = Normalisation(np.array([1 / 128], np.float32), np.array([-1], np.float32))
"""``(byte - 128) / 128``, as ``zoo.build`` puts it into every network."""


@dataclass(frozen=True, slots=True)
class FoldedLayer:
    """One layer with weights.

    Attributes:
        name: As the converter named its output.
        kind: What it does.
        kernel: In Keras's layout: conv (rows, columns, in, out), depthwise (rows, columns, in,
            multiplier), dense (in, out).
        bias: One per output channel, batch norm included.
        stride: Vertical and horizontal step.
    """

    name: str
    kind: Kind
    kernel: Floats
    bias: Floats
    stride: tuple[int, int]


@dataclass(frozen=True, slots=True)
class FoldedModel:
    """A file's layers in the order of execution.

    Attributes:
        layers: Those with weights.
        normalisation: What it makes of a byte; None for a float file that does not say.
    """

    layers: tuple[FoldedLayer, ...]
    normalisation: Normalisation | None


def read(path: Path) -> FoldedModel:
    """Read the weights of a ``.tflite`` file.

    Float32, float16, per-tensor uint8 and per-channel int8 are dequantized; of a quantized file the
    input's scale says how bytes are normalised, of a float one the manifest or its first operators.

    Raises:
        ModelError: If the file cannot be read or keeps its weights in another way.
    """
    try:
        file = path.read_bytes()
        model = parse(file)
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error}.", fix="Check the path.") from error
    except BundleError as error:
        raise ModelError(f"'{path}' gives no weights: {error.message}", fix=error.fix) from error
    layers = tuple(_layer(model, op) for op in model.operators if op.op in _KINDS)
    if not layers:
        raise ModelError(
            f"'{path}' holds no convolution and no dense layer that could be read; its operators are "
            f"{', '.join(sorted({op.op for op in model.operators}))}.",
            fix="Take the file as it was before a compiler, the Edge TPU's for instance, packed it.",
        )
    return FoldedModel(layers, _normalisation(model, is_ours=_has_manifest(file)))


def describe(layer: FoldedLayer) -> str:
    """Name a layer of a file for a message.

    Example:
        >>> kernel, bias = np.zeros((3, 3, 8, 16), np.float32), np.zeros(16, np.float32)
        >>> describe(FoldedLayer("a", "conv", kernel, bias, (2, 2)))
        "conv 3 x 3 x 8 x 16, stride 2 ('a')"
    """
    stride = f", stride {layer.stride[0]}" if layer.stride[0] != 1 else ""
    return f"{layer.kind} {' x '.join(map(str, layer.kernel.shape))}{stride} ('{layer.name}')"


def _layer(model: Model, op: Operator) -> FoldedLayer:
    kind = _KINDS[op.op]
    output = model.tensors[op.outputs[0]]
    kernel = _constant(model, op.inputs[1])
    if kernel is None or kernel.ndim != (2 if kind == "dense" else 4):
        raise ModelError(
            f"The weights of '{output.name}' cannot be read: they are computed, sparse or packed.",
            fix="Convert the model again as float32 or int8.",
        )
    match kind:
        case "conv":  # (out, rows, columns, in)
            kernel = kernel.transpose(1, 2, 3, 0)
        case "depthwise":  # (1, rows, columns, in * multiplier), the multiplier running fastest
            multiplier = int(op.options["depth_multiplier"])  # type: ignore[arg-type]  # schema: an int
            kernel = kernel.reshape(*kernel.shape[1:3], -1, max(1, multiplier))
        case "dense":  # (out, in)
            kernel = kernel.transpose()
    outputs = int(np.prod(kernel.shape[2:])) if kind == "depthwise" else kernel.shape[-1]
    bias = _constant(model, op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    stride = (int(op.options.get("stride_h", 1)), int(op.options.get("stride_w", 1)))  # type: ignore[arg-type]
    return FoldedLayer(
        output.name,
        kind,
        np.ascontiguousarray(kernel),
        np.zeros(outputs, np.float32) if bias is None else bias.reshape(outputs),
        stride,
    )


def _constant(model: Model, index: int) -> Floats | None:
    """Real values of a constant, also of one that the file dequantizes from float16 or int8."""
    tensor = model.tensors[index]
    values = model.values(tensor)
    if values is not None:
        return _real(values, tensor.quantization)
    maker = next((op for op in model.operators if index in op.outputs), None)
    return _constant(model, maker.inputs[0]) if maker is not None and maker.op == "DEQUANTIZE" else None


def _real(codes: NDArray[Any], quantization: Quantization) -> Floats:
    """Give ``scale * (code - zero_point)``, per tensor or along one axis, in double precision before float32.

    Source:
        TensorFlow Lite 8-bit quantization specification.
    """
    if not quantization.scales:
        return codes.astype(np.float32)
    shape = [1] * codes.ndim
    if len(quantization.scales) > 1:
        shape[quantization.axis] = -1
    zero_points = quantization.zero_points or (0,) * len(quantization.scales)
    centred = codes.astype(np.float64) - np.reshape(zero_points, shape)
    real: Floats = (centred * np.reshape(np.asarray(quantization.scales), shape)).astype(np.float32)
    return real


def _normalisation(model: Model, *, is_ours: bool) -> Normalisation | None:
    picture = model.inputs[0]
    start = _of_input(picture)
    steps = tuple(_steps(model, picture.index))
    if start is None and not (is_ours or steps):
        return None
    scale, offset = (np.ones(1), np.zeros(1)) if start is None else start
    for op, number in steps:
        match op:
            case "MUL":
                scale, offset = scale * number, offset * number
            case "DIV":
                scale, offset = scale / number, offset / number
            case "ADD":
                offset = offset + number
            case "SUB":
                offset = offset - number
    return Normalisation(scale.astype(np.float32), offset.astype(np.float32))


def _of_input(picture: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """What the scale of a quantized input says about bytes; int8 codes are bytes less 128."""
    if picture.dtype not in ("uint8", "int8") or not picture.quantization.scales:
        return None
    scale = np.asarray(picture.quantization.scales[:1], np.float64)
    zero_byte = picture.quantization.zero_points[0] + (128 if picture.dtype == "int8" else 0)
    return scale, -scale * zero_byte


def _steps(model: Model, index: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Follow the picture through arithmetic with constants, up to the first real layer."""
    for op in model.operators:
        if index not in op.inputs:
            continue
        if op.op in ("MUL", "ADD", "SUB", "DIV") and op.inputs[0] == index:
            number = _constant(model, op.inputs[1])
            if number is None:
                return
            yield op.op, number.astype(np.float64).reshape(-1)
        elif op.op not in _UNCHANGED:
            return
        index = op.outputs[0]


def _has_manifest(file: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            return "edgecnn.json" in archive.namelist()
    except zipfile.BadZipFile:
        return False
