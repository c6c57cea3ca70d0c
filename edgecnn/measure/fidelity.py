"""Where accuracy goes: each layer of a quantized file held against its float twin.

A layer is judged by what it does alone. The values that the float twin gives are rounded to the codes
of the layer's inputs; the quantized layer and the float layer compute from these same values, and what
they differ by is the layer's own noise. Added to the float twin, with everything else left as it is,
this noise reaches the scores, and that is what the layer costs. Both run on the kernels of the
interpreter itself, on excerpts of the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle import flatbuffer
from edgecnn.bundle.excerpt import excerpt
from edgecnn.bundle.file import spec_of
from edgecnn.bundle.flatbuffer import Model, Tensor
from edgecnn.core.tensor import dequantize, quantize
from edgecnn.errors import DataError
from edgecnn.measure.pairing import (
    Landmark,
    downstream,
    landmarks,
    pair,
    scores_before_squashing,
    upstream,
)
from edgecnn.runtime.interpreter import open_interpreter

Values = NDArray[Any]
Rung = Literal["", "ranges", "equalize", "bias", "adaround", "qat", "int16x8"]
"""A rung of the quantization ladder; empty where a layer needs none."""

NOISELESS_DB: Final = 200.0
"""Stands for no noise at all, which has no finite ratio; float32 itself ends near 150 dB."""

BULK: Final = (0.001, 0.999)
"""The middle of a tensor's values; what lies beyond is what a percentile of 99.9 would clip."""

CHEAP_DB: Final = 30.0
"""From here on a layer alone moves the scores by 3 % at most: nothing is advised."""

MOST: Final = 0.5
"""A cause that makes at least this share of the noise is the one to remove."""

FEW_CODES: Final = 1 / 8
"""Where nearly all values share so few codes, the rest of the range is given away: 3 of 8 bits."""

WIDE: Final = 16.0
"""A channel of so much smaller a range has 4 bits left of the 8 that all share."""

WEIGHTS_TELL: Final = 4.0
"""Noise of so many times the rounding of the result comes from elsewhere: from the weights."""

_WEIGHT_AXES: Final = {"CONV_2D": 0, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3}
"""The dimension of the output channels in the weights, which are always the second input.

Source: TensorFlow Lite 8-bit quantization specification, "per-axis"; TRANSPOSE_CONV likewise.
"""

_POOLS: Final = ("AVERAGE_POOL_2D", "MAX_POOL_2D")
"""Operators whose result must have the scale of what they read.

Source: TensorFlow Lite 8-bit quantization specification, "Input and outputs must all have same scale".
"""


@dataclass(frozen=True, slots=True)
class LayerFidelity:
    """What quantization does to one layer; None stands for "not measured".

    Attributes:
        index: Number of its operator in the quantized file.
        against_index: Number of its operator in the float file.
        op: ``CONV_2D`` ...
        name: Of the tensor that it gives.
        shape: Of that tensor.
        dtype: Of that tensor.
        sqnr_db: Signal to quantization noise of what it gives, with all that came before quantized too.
        own_sqnr_db: The same with the layer alone quantized.
        output_sqnr_db: The same at the scores, with the layer alone quantized: what it costs.
        cosine: Between what both files give, everything quantized.
        range_used: Share of the codes that lie between the lowest and the highest that occur.
        bulk_used: Share of the codes that the middle 99.8 % of the values take.
        clipped: Share of the values that lie beyond the codes by more than half a step.
        clip_noise: Share of the own noise that clipping makes.
        bias_noise: Share of the own noise that is a constant shift of channels.
        step_noise: Own noise over that of rounding the result, which is a twelfth of the step squared.
        scale: Real units per code; None where it is not quantized.
        shares_scale: With what it must use one scale: ``branches`` of a concatenation that it enters, or
            the ``input`` that it pools.
        channel_spread: Largest range of a channel over that of the lower quarter.
        weight_spread: Largest range of an output channel's weights over the smallest.
        weight_sqnr_db: Signal to quantization noise of the weights.
        rung: Of the ladder, which would help.
        reason: Why, in words.
    """

    index: int
    against_index: int
    op: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    sqnr_db: float
    own_sqnr_db: float | None
    output_sqnr_db: float | None
    cosine: float
    range_used: float | None
    bulk_used: float | None
    clipped: float | None
    clip_noise: float | None
    bias_noise: float | None
    step_noise: float | None
    scale: float | None
    shares_scale: Literal["", "branches", "input"]
    channel_spread: float | None
    weight_spread: float | None
    weight_sqnr_db: float | None
    rung: Rung = ""
    reason: str = ""

    @property
    def label(self) -> str:
        """The name as people use it."""
        return short_name(self.name)


@dataclass(frozen=True, slots=True)
class Unpaired:
    """A layer that the other file has no counterpart of.

    Attributes:
        file: ``model`` or ``against``: whose layer.
        index: Number of its operator.
        op: Its operator.
        name: Of the tensor that it gives.
    """

    file: Literal["model", "against"]
    index: int
    op: str
    name: str


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A quantized file held against its float twin, layer by layer.

    Attributes:
        picture_count: How many pictures both have seen.
        output_sqnr_db: Of the scores, everything quantized; None where the last layers are no pair.
        layers: In the order of execution.
        unpaired: Layers that only one of the files has.
    """

    picture_count: int
    output_sqnr_db: float | None
    layers: tuple[LayerFidelity, ...]
    unpaired: tuple[Unpaired, ...]

    @property
    def worst_first(self) -> tuple[LayerFidelity, ...]:
        """The layers by what they cost alone, those of which that is not known last."""
        return tuple(sorted(self.layers, key=_cost))


def short_name(name: str) -> str:
    """Find the layer's own name in what the converter made of it.

    Example:
        >>> short_name("net/stem/Relu;net/stem/BiasAdd;net/stem/Conv2D1"), short_name("Identity")
        ('stem', 'Identity')
    """
    parts = name.split(";")[-1].split("/")
    return "/".join(part for part in parts[1:-1] if part not in ("BiasAdd", "ReadVariableOp")) or parts[-1]


def _cost(layer: LayerFidelity) -> tuple[float, float, int]:
    costs = [math.inf if db is None else db for db in (layer.output_sqnr_db, layer.own_sqnr_db)]
    return costs[0], costs[1], layer.index


@dataclass(frozen=True, slots=True)
class _Run:
    """A file with the values of some of its tensors, as stored: shape (picture_count, ...) each."""

    flat: bytes
    model: Model
    values: Mapping[int, Values]

    def real(self, index: int) -> Values:
        return dequantize(self.values[index], spec_of(self.model.tensors[index]))

    def compute(self, targets: Sequence[int], known: Mapping[int, Values]) -> tuple[Values, ...]:
        """Compute tensors from known ones, which stay as they are, on the interpreter's own kernels."""
        operators, boundary = upstream(self.model, targets, known)
        part = open_interpreter(excerpt(self.flat, operators, boundary, targets), threads=1)
        rows = [part.invoke(*row) for row in zip(*(known[index] for index in boundary), strict=True)]
        return tuple(np.stack(column) for column in zip(*rows, strict=True))


def compare(
    model: bytes, against: bytes, model_inputs: Sequence[Values], against_inputs: Sequence[Values]
) -> Fidelity:
    """Hold a quantized file against its float twin.

    Args:
        model: Flatbuffer of the quantized file.
        against: Flatbuffer of the float file.
        model_inputs: For each input of ``model``, what it is fed: shape (picture_count, 1, ...), in the
            input's own type.
        against_inputs: The same pictures for ``against``.

    Returns:
        What each layer that both have makes of them.

    Raises:
        BundleError: If a file is damaged, or the pictures do not fit it.
        DataError: If the files have no layer in common.

    Source:
        Signal to quantization noise by layer: M. Nagel et al., "A White Paper on Neural Network
        Quantization", arXiv:2106.08295, whose debugging chart quantizes layers one by one.
    """
    parsed, twin = flatbuffer.parse(model), flatbuffer.parse(against)
    marks, twin_marks = landmarks(parsed), landmarks(twin)
    if quantized_mark := next((m for m in twin_marks if twin.tensors[m.tensor].dtype != "float32"), None):
        raise DataError(
            f"The twin is quantized itself: its {quantized_mark.op} number {quantized_mark.operator} gives "
            f"{twin.tensors[quantized_mark.tensor].dtype}.",
            fix="Give the float32 file of the same network as the one to hold the other against.",
        )
    pairs = pair(marks, twin_marks)
    if not pairs:
        raise DataError(
            "The two files have no layer in common: no operator of one has the kind and shape of one "
            "of the other.",
            fix="Give the float file that was converted from the same network.",
        )
    quantized = _recorded(model, parsed, [one.tensor for one, _ in pairs], model_inputs)
    scores = scores_before_squashing(twin)
    real = _recorded(against, twin, [*(other.tensor for _, other in pairs), *scores], against_inputs)
    partner = dict(zip(parsed.subgraphs[0].inputs, twin.subgraphs[0].inputs, strict=False))
    partner |= {one.tensor: other.tensor for one, other in pairs}
    back = {theirs: ours for ours, theirs in partner.items()}
    whole = [(quantized.real(back[index]), real.real(index)) for index in scores if index in back]
    return Fidelity(
        len(model_inputs[0]),
        min((_db(theirs, ours - theirs) for ours, theirs in whole), default=None),
        tuple(_layer(one, other, quantized, real, partner, scores) for one, other in pairs),
        (
            *_unpaired("model", marks, {one.tensor for one, _ in pairs}),
            *_unpaired("against", twin_marks, {other.tensor for _, other in pairs}),
        ),
    )


def _recorded(flat: bytes, model: Model, tensors: Sequence[int], inputs: Sequence[Values]) -> _Run:
    known = dict(zip(model.subgraphs[0].inputs, inputs, strict=True))
    targets = list(dict.fromkeys(tensors))
    values = _Run(flat, model, {}).compute(targets, known)
    return _Run(flat, model, known | dict(zip(targets, values, strict=True)))


def _unpaired(
    file: Literal["model", "against"], marks: Sequence[Landmark], paired: set[int]
) -> tuple[Unpaired, ...]:
    return tuple(
        Unpaired(file, mark.operator, mark.op, mark.name) for mark in marks if mark.tensor not in paired
    )


def _layer(
    one: Landmark,
    other: Landmark,
    quantized: _Run,
    real: _Run,
    partner: Mapping[int, int],
    scores: Sequence[int],
) -> LayerFidelity:
    tensor = quantized.model.tensors[one.tensor]
    given, wanted = quantized.real(one.tensor), real.real(other.tensor)
    alone = _alone(one, other, quantized, real, partner)
    noise = None if alone is None else alone[0] - alone[1]
    beyond, weights = _beyond(tensor, wanted), _weights(one, other, quantized.model, real.model)
    measured = LayerFidelity(
        index=one.operator,
        against_index=other.operator,
        op=one.op,
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        sqnr_db=_db(wanted, given - wanted),
        own_sqnr_db=None if alone is None else _db(alone[1], alone[0] - alone[1]),
        output_sqnr_db=None if noise is None else _at_the_scores(noise, other.tensor, real, scores),
        cosine=_cosine(given, wanted),
        range_used=_range_used(tensor, quantized.values[one.tensor]),
        bulk_used=_bulk_used(tensor, wanted),
        clipped=None if beyond is None else float(beyond.mean()),
        clip_noise=None if alone is None else _clip_noise(tensor, *alone),
        bias_noise=None if noise is None else _bias_noise(noise),
        step_noise=None if noise is None else _step_noise(noise, tensor),
        scale=spec_of(tensor).scale or None,
        shares_scale=_shares_scale(quantized.model, tensor),
        channel_spread=_channel_spread(wanted),
        weight_spread=None if weights is None else _weight_spread(weights[1]),
        weight_sqnr_db=None if weights is None else _db(weights[1], weights[0] - weights[1]),
    )
    rung, reason = advice(measured)
    return replace(measured, rung=rung, reason=reason)


def _alone(
    one: Landmark, other: Landmark, quantized: _Run, real: _Run, partner: Mapping[int, int]
) -> tuple[Values, Values] | None:
    """Compute a layer quantized and in float from the same values: the codes nearest to the twin's.

    Returns:
        What both give; None where they do not read the same tensors, or the inputs are no pictures.
    """
    _, fed = upstream(quantized.model, [one.tensor], partner)
    twin_known = set(partner.values())
    _, twin_fed = upstream(real.model, [other.tensor], twin_known)
    if {partner[index] for index in fed} != set(twin_fed):
        return None
    pictures = set(quantized.model.subgraphs[0].inputs)
    codes, values = {}, {}
    for index in fed:
        if index in pictures:  # bytes for one, normalised numbers for the other: each as it was fed
            codes[index], values[partner[index]] = quantized.values[index], real.values[partner[index]]
            continue
        spec = spec_of(quantized.model.tensors[index])
        codes[index] = quantize(real.values[partner[index]], spec)
        values[partner[index]] = dequantize(codes[index], spec)
    (given,) = quantized.compute([one.tensor], codes)
    (wanted,) = real.compute([other.tensor], values)
    return dequantize(given, spec_of(quantized.model.tensors[one.tensor])), wanted


def _at_the_scores(noise: Values, tensor: int, real: _Run, scores: Sequence[int]) -> float | None:
    """Add noise to one tensor of the float twin; give the signal to noise of the scores that follow."""
    if tensor in scores:
        return _db(real.real(tensor), noise)
    moved = downstream(real.model, tensor)
    reached = [index for index in scores if index in moved]
    if not reached:
        return None
    known = {index: values for index, values in real.values.items() if index not in moved}
    known[tensor] = (real.values[tensor] + noise).astype(real.values[tensor].dtype)
    found = real.compute(reached, known)
    return min(_db(real.real(i), row - real.real(i)) for i, row in zip(reached, found, strict=True))


def _db(signal: Values, noise: Values) -> float:
    """Give the ratio of the powers of signal and noise in decibel.

    Example:
        >>> _db(np.array([3.0, 4.0]), np.array([0.0, 0.5]))
        20.0
    """
    powers = [float(np.square(values, dtype=np.float64).sum()) for values in (signal, noise)]
    if not powers[1]:
        return NOISELESS_DB
    if not math.isfinite(powers[1]):
        return -NOISELESS_DB
    return max(-NOISELESS_DB, min(NOISELESS_DB, 10 * math.log10(powers[0] / powers[1]))) if powers[0] else 0.0


def _cosine(first: Values, second: Values) -> float:
    one, other = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else float(not (one.any() or other.any()))


def _code_count(tensor: Tensor) -> int:
    limits = np.iinfo(tensor.dtype)
    return int(limits.max) - int(limits.min) + 1


def _range_used(tensor: Tensor, codes: Values) -> float | None:
    if not spec_of(tensor).is_quantized:
        return None
    return (int(codes.max()) - int(codes.min()) + 1) / _code_count(tensor)


def _bulk_used(tensor: Tensor, wanted: Values) -> float | None:
    spec = spec_of(tensor)
    if not spec.is_quantized:
        return None
    low, high = np.quantile(wanted, BULK)
    return min(1.0, (float(high - low) / spec.scale + 1) / _code_count(tensor))


def _beyond(tensor: Tensor, wanted: Values) -> NDArray[np.bool_] | None:
    """Say which values no code stands for, not even after rounding."""
    spec = spec_of(tensor)
    if not spec.is_quantized:
        return None
    limits = np.iinfo(spec.dtype)
    exact = wanted / spec.scale + spec.zero_point
    return np.asarray((exact < limits.min - 0.5) | (exact > limits.max + 0.5))


def _clip_noise(tensor: Tensor, given: Values, wanted: Values) -> float | None:
    beyond = _beyond(tensor, wanted)
    powers = np.square(given - wanted, dtype=np.float64)
    total = float(powers.sum())
    return None if beyond is None else float(powers[beyond].sum()) / total if total else 0.0


def _bias_noise(noise: Values) -> float:
    """Say which share of the noise is the mean of each channel: what a bias could take away."""
    rows = noise.reshape(-1, noise.shape[-1]).astype(np.float64)
    total = float(np.square(rows).sum())
    return float(len(rows) * np.square(rows.mean(axis=0)).sum()) / total if total else 0.0


def _step_noise(noise: Values, tensor: Tensor) -> float | None:
    """Hold the noise against that of rounding alone.

    Source: a rounding error that is uniform over a step has the variance step squared over 12; B. Widrow,
        IRE Trans. Circuit Theory 3 (1956) 266-276.
    """
    spec = spec_of(tensor)
    if not spec.is_quantized:
        return None
    return float(np.square(noise, dtype=np.float64).mean()) / (spec.scale**2 / 12)


def _shares_scale(model: Model, tensor: Tensor) -> Literal["", "branches", "input"]:
    for operator in model.operators if tensor.quantization.scales else ():
        given = [model.tensors[index].quantization for index in operator.outputs]
        if (
            operator.op == "CONCATENATION"
            and tensor.index in operator.inputs
            and tensor.quantization in given
        ):
            return "branches"
        if operator.op in _POOLS and tensor.index in operator.outputs:
            return "input"
    return ""


def _channel_spread(values: Values) -> float | None:
    """Hold the largest range of a channel against that of the lower quarter of the live ones."""
    if values.ndim < 3 or values.shape[-1] < 2:  # the first two are picture and batch
        return None
    ranges = np.abs(values.reshape(-1, values.shape[-1])).max(axis=0)
    live = ranges[ranges > 0]
    return float(live.max() / np.quantile(live, 0.25, method="lower")) if len(live) else None


def _weights(one: Landmark, other: Landmark, model: Model, twin: Model) -> tuple[Values, Values] | None:
    """Read the weights of a layer in both files, output channels last; None where it has none to compare."""
    if one.op not in _WEIGHT_AXES or other.op != one.op:
        return None
    found = []
    for graph, mark in ((model, one), (twin, other)):
        tensor = graph.tensors[graph.operators[mark.operator].inputs[1]]
        stored = graph.values(tensor)
        if stored is None or stored.dtype.kind not in "fiu" or not stored.size:
            return None
        real = _real_weights(stored, tensor)
        found.append(np.moveaxis(real, _WEIGHT_AXES[one.op], -1))
    return None if found[0].shape != found[1].shape else (found[0], found[1])


def _real_weights(stored: Values, tensor: Tensor) -> Values:
    known = tensor.quantization
    if not known.scales:
        return stored.astype(np.float32)
    shape = [1] * stored.ndim
    shape[known.axis if len(known.scales) > 1 else 0] = len(known.scales)
    scales, zeros = (
        np.reshape(np.array(known.scales, np.float32), shape),
        np.reshape(known.zero_points, shape),
    )
    return np.asarray((stored.astype(np.int32) - zeros) * scales, np.float32)


def _weight_spread(weights: Values) -> float | None:
    ranges = np.abs(weights.reshape(-1, weights.shape[-1])).max(axis=0)
    # What a training has driven to nothing, 1e-30 for instance, is no channel any more.
    live = ranges[ranges > ranges.max() * np.finfo(np.float32).eps]
    return float(live.max() / live.min()) if len(live) else None


def advice(layer: LayerFidelity) -> tuple[Rung, str]:
    """Choose the rung of the quantization ladder that removes the cause of a layer's noise.

    Args:
        layer: As it was measured.

    Returns:
        The rung and the reason, which names the figure that decided.

    Source:
        Which remedy belongs to which cause: M. Nagel et al., "A White Paper on Neural Network Quantization",
        arXiv:2106.08295, section 3 (range setting, equalization, bias correction, AdaRound) and 4 (QAT).
    """
    cost = layer.output_sqnr_db
    if cost is None or cost >= CHEAP_DB:
        return "", "not known" if cost is None else "costs little"
    if (layer.clip_noise or 0) >= MOST:
        return "ranges", f"{100 * (layer.clipped or 0):.2g} % of the values are clipped"
    if layer.bulk_used is not None and layer.bulk_used < FEW_CODES:
        if layer.shares_scale == "branches":
            return (
                "equalize",
                f"takes {100 * layer.bulk_used:.2g} % of the codes that it shares in a concatenation",
            )
        if layer.shares_scale == "input":
            return "int16x8", f"keeps its input's scale and takes {100 * layer.bulk_used:.2g} % of the codes"
        return "ranges", f"outliers: 99.8 % of the values share {100 * layer.bulk_used:.2g} % of the codes"
    if (layer.channel_spread or 0) >= WIDE:
        return "equalize", f"channel ranges differ {layer.channel_spread:.0f}-fold under one scale"
    if (layer.bias_noise or 0) >= MOST:
        return "bias", f"{100 * (layer.bias_noise or 0):.0f} % of its noise is a constant shift"
    if layer.weight_sqnr_db is not None and (layer.step_noise or 0) >= WEIGHTS_TELL:
        return (
            "adaround",
            f"rounded weights make {layer.step_noise:.0f} times the noise of its output's codes",
        )
    if layer.weight_sqnr_db is not None:
        return "qat", "every code is used and no single cause stands out"
    return "int16x8", "it has no weights to train: only more bits help"
