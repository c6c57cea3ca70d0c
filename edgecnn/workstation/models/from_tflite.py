"""A network that starts from a ``.tflite``: weights paired by kind and shape, batch norm unfolded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.models.fitting import (
    InitReport,
    Plan,
    adapt,
    apply,
    border_note,
    is_grey_of,
    is_head,
    kind,
    norm_after,
    norms,
    weighted,
)
from edgecnn.workstation.models.folded import Floats, FoldedLayer, Normalisation, describe, read


def from_tflite(
    model: Any, path: Path, sample_codes: NDArray[np.uint8], given: Normalisation | None
) -> InitReport:
    """Fill a network from a file of the same topology, as ``weights.initialise`` describes.

    Args:
        model: What is filled.
        path: The file.
        sample_codes: Pictures that give the batch-norm statistics.
        given: What the file makes of bytes, where it does not say.

    Returns:
        What was filled, and what was left.

    Raises:
        ModelError: If the file cannot be read or does not fit; the model is then as it was.
    """
    file = read(path)
    made_for = given or file.normalisation
    if made_for is None:
        raise ModelError(
            f"'{path.name}' is a float file that does not say what it makes of a byte.",
            fix="Take its quantized sibling, whose input says it, or a file that edgecnn converted.",
        )
    pairs, left, notes = _pair(model, file.layers, path.name)
    _refuse_lone_norms(model, path.name)
    _refuse_bad_sample(model, sample_codes)
    first = pairs[0][0]
    plan: Plan = []
    for layer, folded in pairs:
        kernel, bias = folded.kernel, folded.bias
        if layer is first:
            kernel, shift = adapt(layer, kernel, made_for)
            bias = bias + shift
            notes += border_note(layer, made_for)
        plan += _unfolded_as_identity(layer, kernel.reshape(layer.weights[0].shape), bias)
    apply(plan)
    _unfold(model, sample_codes)
    filled = tuple(layer.name for layer, _ in plan)
    return InitReport(path.name, filled, left, notes)


def _pair(
    model: Any, layers: Sequence[FoldedLayer], source: str
) -> tuple[list[tuple[Any, FoldedLayer]], tuple[str, ...], tuple[str, ...]]:
    """Find the file's layer for each of ours: the next one of the same kind, shape and stride.

    Parallel branches come in another order in a file than in Keras, but differ in shape; those of answers do
    not, and take what the trunk leaves.
    """
    unused = dict(enumerate(layers))
    pairs, left, last = [], [], -1
    for layer in sorted(weighted(model), key=is_head):
        found = next((i for i, folded in unused.items() if _fits(layer, folded)), None)
        if found is not None:
            pairs.append((layer, unused.pop(found)))
            last = last if is_head(layer) else max(last, found)
        elif is_head(layer):
            left.append(layer.name)
        else:
            raise _misfit(model, layer, unused, source)
    if not pairs:
        raise ModelError(f"'{source}' holds no layer of {model.name}.", fix="Give a file of that topology.")
    between = [folded for i, folded in unused.items() if i < last]
    if between:
        raise ModelError(
            f"'{source}' has a layer that {model.name} has not: {describe(between[0])}.",
            fix="Choose the topology and width in [model] that the file has.",
        )
    notes = (f"Layers of the file that are not used: {len(unused)}.",) if unused else ()
    return pairs, tuple(left), notes


def _misfit(model: Any, layer: Any, unused: Mapping[int, FoldedLayer], source: str) -> ModelError:
    shape = " x ".join(str(side) for side in layer.weights[0].shape)
    stride = f", stride {_stride(layer)[0]}" if _stride(layer)[0] != 1 else ""
    found = describe(next(iter(unused.values()))) if unused else "no further layer"
    return ModelError(
        f"'{source}' does not fit {model.name}: layer '{layer.name}' needs a {kind(layer)} {shape}{stride}; "
        f"the file has {found}.",
        fix="Choose the topology and width in [model] that the file has (and, where a dense layer "
        "reads the whole feature map, its input size), or another file.",
    )


def _stride(layer: Any) -> tuple[int, int]:
    return (1, 1) if kind(layer) == "dense" else tuple(layer.strides)


def _fits(layer: Any, folded: FoldedLayer) -> bool:
    ours, theirs = tuple(layer.weights[0].shape), folded.kernel.shape
    if kind(layer) == "dense" and folded.kind == "conv":
        # Google's MobileNets end in a 1 x 1 convolution over a map of 1 x 1: a dense layer.
        return theirs == (1, 1, *ours)
    if kind(layer) != folded.kind or _stride(layer) != folded.stride:
        return False
    return ours == theirs or is_grey_of(layer, theirs)


def _refuse_lone_norms(model: Any, source: str) -> None:
    folded = {norm.name for norm in map(norm_after, weighted(model)) if norm is not None}
    for layer in norms(model):
        if layer.name not in folded:
            raise ModelError(
                f"'{layer.name}' does not directly follow a convolution or dense layer; '{source}' does not "
                "hold it in a form that could be told apart.",
                fix="Start from the .h5 that the file was converted from, or move the batch_norm before "
                "the activation.",
            )


def _refuse_bad_sample(model: Any, sample_codes: NDArray[np.uint8]) -> None:
    if not norms(model):
        return
    if sample_codes.shape[1:] != tuple(model.input_shape[1:]) or len(sample_codes) < 2:
        raise ModelError(
            f"Unfolding batch norm needs two pictures or more of shape {tuple(model.input_shape[1:])}; "
            f"found an array of shape {sample_codes.shape}.",
            fix="Give pictures that were resized to the model's input.",
        )


def _unfolded_as_identity(layer: Any, kernel: Floats, bias: Floats) -> Plan:
    """Set a layer to exactly what the file computes; its batch norm does nothing yet but add the bias."""
    norm = norm_after(layer)
    if norm is None:
        return [(layer, [kernel, bias])]
    one, zero = np.ones_like(bias), np.zeros_like(bias)
    own = [kernel, zero] if layer.use_bias else [kernel]
    return [(layer, own), (norm, [np.sqrt(one + np.float32(norm.epsilon)), bias, zero, one])]


def _unfold(model: Any, sample_codes: NDArray[np.uint8]) -> None:
    """Give every batch norm real statistics, and the scale and shift that undo them.

    ``gamma = sqrt(variance + epsilon)`` and ``beta = bias + mean``: inference stays what it was, and
    in training the statistics of a batch are close to those that the scale undoes.
    """
    to_unfold = norms(model)
    if not to_unfold:
        return
    statistics = _moments(keras.Model(model.input, [norm.input for norm in to_unfold]), sample_codes)
    plan: Plan = []
    for norm, (mean, variance) in zip(to_unfold, statistics, strict=True):
        bias = norm.beta.numpy()
        plan.append((norm, [np.sqrt(variance + np.float32(norm.epsilon)), bias + mean, mean, variance]))
    apply(plan)


def _moments(model: Any, codes: NDArray[np.uint8], batch: int = 16) -> list[tuple[Floats, Floats]]:
    """Mean and variance per channel of each output, over all pictures and pixels."""

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow comes without types
    def step(pictures: Any) -> Any:
        outputs = model(pictures, training=False)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return [tf.nn.moments(o, axes=list(range(len(o.shape) - 1))) for o in outputs]

    means: list[NDArray[np.float64]] = []
    squares: list[NDArray[np.float64]] = []
    for start in range(0, len(codes), batch):
        part = codes[start : start + batch]
        share = len(part) / len(codes)
        found = [
            (m.numpy().astype(np.float64), v.numpy().astype(np.float64))
            for m, v in step(part.astype(np.float32))
        ]
        if not means:
            means, squares = ([np.zeros_like(m) for m, _ in found] for _ in range(2))
        for index, (mean, variance) in enumerate(found):
            means[index] += share * mean
            squares[index] += share * (variance + mean**2)
    return [
        (mean.astype(np.float32), np.maximum(square - mean**2, 0).astype(np.float32))
        for mean, square in zip(means, squares, strict=True)
    ]
