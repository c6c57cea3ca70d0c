"""The one door to the TFLite converter: from a network to a flatbuffer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle import flatbuffer
from edgecnn.bundle.layers import activation_of
from edgecnn.bundle.manifest import Precision
from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.runtime.interpreter import Interpreter, open_interpreter
from edgecnn.runtime.quiet import quietly
from edgecnn.workstation import model_file
from edgecnn.workstation.backend import tf
from edgecnn.workstation.quantize import aware_trunk_of, is_aware
from edgecnn.workstation.subject import Subject, signature_of


def to_flatbuffer(subject: Subject, precision: Precision, representative: NDArray[np.uint8] | None) -> bytes:
    """Convert, with a batch of one and fixed shapes.

    An int8 file takes the raw bytes as its codes where the normalisation allows it: then it has no
    operation for the normalisation at all. A float file keeps it as its first layer.

    Args:
        subject: What to convert.
        precision: What to convert to.
        representative: Calibration pictures, shape (count, height, width, channels).

    Returns:
        The flatbuffer; the same subject and pictures give the same bytes.

    Raises:
        ModelError: If the converter refuses.
    """
    return _with_scores(subject, precision, representative, calibrate_only=False)


def to_network(subject: Subject, representative: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.float32]]:
    """Stop half way to int8: before the rounding.

    Args:
        subject: What to convert.
        representative: Calibration pictures, shape (count, height, width, channels).

    Returns:
        A float flatbuffer with the least and greatest value of every activation, and the pictures as it
        eats them.

    Raises:
        ModelError: If the converter refuses.
    """
    flat = _with_scores(subject, "int8", representative, calibrate_only=True)
    mean, std = _mean_std_outside(subject)
    return flat, np.concatenate([row for (row,) in _normalised(representative, mean, std)])


def _with_scores(
    subject: Subject, precision: Precision, representative: NDArray[np.uint8] | None, calibrate_only: bool
) -> bytes:
    flat = _converted(subject, precision, representative, _as_it_is, calibrate_only)
    if subject.card is None and not _ends_in_scores(flat):
        # Somebody else's model left the softmax or sigmoid to its loss function.
        last = tf.nn.softmax if subject.heads[0].kind == "softmax" else tf.nn.sigmoid
        flat = _converted(subject, precision, representative, last, calibrate_only)
    return flat


def heads_in(flat: bytes, heads: Sequence[Head]) -> tuple[Head, ...]:
    """Say which output of a file belongs to each head.

    The converter puts outputs in an order of its own, and ends their names in their number:
    ``StatefulPartitionedCall:1``, ``Identity_1``; the first may end in none.

    Args:
        flat: What ``to_flatbuffer`` made.
        heads: In the order of the network's outputs.

    Raises:
        ModelError: If the outputs cannot be told apart.
    """
    if len(heads) == 1:
        return tuple(replace(head, output_index=0) for head in heads)
    names = [tensor.name for tensor in flatbuffer.parse(flat).outputs]
    numbers = [int(found[1]) if (found := re.search(r"[:_](\d+)$", name)) else 0 for name in names]
    if sorted(numbers) != list(range(len(heads))):
        raise ModelError(
            f"The converter gave the outputs {', '.join(names)}; the network has {len(heads)} heads.",
            fix="Install the TensorFlow that edgecnn pins.",
        )
    return tuple(replace(head, output_index=numbers.index(place)) for place, head in enumerate(heads))


def float_operators(flat: bytes) -> tuple[str, ...]:
    """Name the operators that compute in float in a file that should be integer, one name each time.

    Example: AlexNet's LRN has no integer kernel.
    """
    model = flatbuffer.parse(flat)
    return tuple(
        operator.op
        for operator in model.operators
        if operator.op not in ("QUANTIZE", "DEQUANTIZE")
        and any(model.tensors[i].dtype == "float32" for i in operator.outputs)
    )


def _ends_in_scores(flat: bytes) -> bool:
    model = flatbuffer.parse(flat)
    return all(activation_of(model, output) is not None for output in model.outputs)


def _as_it_is(output: Any) -> Any:
    return output


def _converted(
    subject: Subject,
    precision: Precision,
    representative: NDArray[np.uint8] | None,
    last: Callable[[Any], Any],
    calibrate_only: bool,
) -> bytes:
    bytes_are_codes = precision == "int8" and _bytes_are_codes(subject)
    network = _network(subject, last, eats_bytes=not bytes_are_codes)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([network], _trackable(subject.model))
    if precision == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    elif precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if not is_aware(subject.model):
            mean, std = _mean_std_outside(subject) if bytes_are_codes else (0.0, 1.0)
            converter.representative_dataset = lambda: _normalised(representative, mean, std)
            converter.target_spec.supported_ops = _operations(precision)
        if precision == "int8":
            converter.inference_input_type = tf.uint8
            converter.inference_output_type = tf.uint8
    # No public switch stops here; TensorFlow's own debugger of quantization uses this one.
    converter._experimental_calibrate_only = calibrate_only
    flat = _run(converter, subject.name)
    if bytes_are_codes and subject.mean_std and not calibrate_only:
        _expect_raw_bytes(open_interpreter(flat, threads=1), subject.mean_std)
    return flat


def _operations(precision: Precision) -> list[Any]:
    """Allow integer kernels first; an operation that has none, such as LRN, stays float."""
    sets = tf.lite.OpsSet
    integer = (
        sets.TFLITE_BUILTINS_INT8
        if precision == "int8"
        else sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    )
    return [integer, sets.TFLITE_BUILTINS]


def _bytes_are_codes(subject: Subject) -> bool:
    return subject.mean_std is not None and _is_exact(subject.mean_std)


def _mean_std_outside(subject: Subject) -> tuple[float, float]:
    """Give the normalisation that an int8 file needs no operation for; (0, 1) where it keeps its own."""
    return subject.mean_std if subject.mean_std and _is_exact(subject.mean_std) else (0.0, 1.0)


def _is_exact(mean_std: tuple[float, float]) -> bool:
    """Whether a byte can be its own code: the zero point is a whole number only if the mean is."""
    mean, _ = mean_std
    return abs(mean - round(mean)) < 1e-6 and 0 <= round(mean) <= 255


def _network(subject: Subject, last: Callable[[Any], Any], eats_bytes: bool) -> Any:
    """Make the function that is converted: from raw bytes, or from normalised numbers, to scores."""
    model, mean_std = subject.model, subject.mean_std
    if isinstance(getattr(model, "signatures", None), dict) or not hasattr(model, "layers"):
        signature = signature_of(model, subject.name)
        (name,) = signature.structured_input_signature[1]

        def run(x: Any) -> Any:
            return next(iter(signature(**{name: x}).values()))
    elif subject.has_normalisation and not eats_bytes:
        trunk = aware_trunk_of(model) if is_aware(model) else model_file.trunk_of(model)

        def run(x: Any) -> Any:
            return trunk(x, training=False)
    else:

        def run(x: Any) -> Any:
            return model(x, training=False)

    def network(x: Any) -> Any:
        if eats_bytes and mean_std is not None and not subject.has_normalisation:
            x = (x - mean_std[0]) / mean_std[1]
        return last(run(x))

    spec = subject.input
    shape = (1, spec.height_px, spec.width_px, spec.channels)
    return tf.function(network).get_concrete_function(tf.TensorSpec(shape, tf.float32, name="picture"))


def _trackable(model: Any) -> Any:
    """Give the converter something that holds the variables; a Keras 3 model is no tf.Module."""
    return model if isinstance(model, tf.Module) else tf.Module()


def _normalised(
    codes: NDArray[np.uint8] | None, mean: float, std: float
) -> Iterator[list[NDArray[np.float32]]]:
    for row in () if codes is None else codes:
        yield [(row[None].astype(np.float32) - np.float32(mean)) / np.float32(std)]


def _run(converter: Any, name: str) -> bytes:
    try:
        with quietly():
            flat: bytes = converter.convert()
    except Exception as error:  # the converter raises its own ConverterError, ValueError, RuntimeError ...
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(
            f"TensorFlow Lite cannot convert '{name}': {lines[0][:300]}",
            fix="Try --precision float32; if that works, one operation has no int8 form.",
        ) from error
    return flat


def _expect_raw_bytes(interpreter: Interpreter, mean_std: tuple[float, float]) -> None:
    (spec,) = interpreter.inputs
    mean, std = mean_std
    if abs(spec.scale * std - 1) > 1e-5 or spec.zero_point != round(mean):
        raise ModelError(
            f"The converted input has scale {spec.scale} and zero point {spec.zero_point}; raw bytes need "
            f"{1 / std} and {round(mean)}.",
            fix="Calibrate on pictures that hold the bytes 0 and 255.",
        )
