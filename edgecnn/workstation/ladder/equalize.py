"""Cross-layer equalization: channels of one layer get like ranges, and the next layer takes that back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgecnn.bundle.flatbuffer import Model, Operator
from edgecnn.workstation.ladder.activations import Observed
from edgecnn.workstation.ladder.network import Floats, Layer, Network, layers, values, with_values

DEAD = 1e-4
"""Below this share of the strongest, a channel that the next layer hardly reads counts as that strong: it
may be scaled away far, but its weights stay numbers."""

_PASS_CHANNELS = ("MAX_POOL_2D", "AVERAGE_POOL_2D", "RELU")
_HOMOGENEOUS = ("NONE", "RELU")
_RELU6 = 6.0


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer that reads another one's channels.

    Attributes:
        layer: Which one.
        first: The number, among its input channels, of the first of them.
        count: How many input channels it has, before they were flattened.
    """

    layer: Layer
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A layer, and all that read it."""

    layer: Layer
    readers: tuple[Reader, ...]


def equalize(network: Network, seen: Mapping[int, Observed]) -> Network:
    """Scale the channels between layers so that each uses its range well; the float answers stay.

    A channel's scale divides the weights that make it and multiplies those that read it. Nagel et al.
    balance the ranges of the weights on both sides. Here each output channel of the weights has a scale
    of its own, and what shares one is the activation: so it takes the place of the first layer's weights.
    Where only depthwise convolutions read, nothing is lost by giving all channels the same range.

    A channel that relu6 clips on a calibration picture stays as it is: only below 6 is relu6 homogeneous.

    Args:
        network: The float network.
        seen: Its activations.

    Returns:
        The network with other weights; its ranges are no longer right.

    Source:
        M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
        2019, equations 9 to 11.
    """
    made: dict[int, Floats] = {}
    for pair in pairs(network.model):
        for tensor in _tensors(pair):
            made.setdefault(tensor, values(network, tensor))
        scale = _scale(pair, seen[pair.layer.given], made)
        _apply(pair, scale, made)
    return with_values(network, made)


def pairs(model: Model) -> tuple[Pair, ...]:
    """Find the layers whose channels are read by layers alone, perhaps through pools and concatenations."""
    by_operator = {layer.operator.index: layer for layer in layers(model)}
    found = []
    for layer in by_operator.values():
        if layer.operator.options.get("activation", "NONE") not in (*_HOMOGENEOUS, "RELU6"):
            continue
        readers = _readers(model, by_operator, layer.given, 0, model.tensors[layer.given].shape[-1])
        if readers:
            found.append(Pair(layer, readers))
    return tuple(found)


def _readers(
    model: Model, by_operator: Mapping[int, Layer], tensor: int, first: int, count: int
) -> tuple[Reader, ...] | None:
    """Follow channels to the layers that read them; None where something else does."""
    if any(tensor == output.index for output in model.outputs):
        return None
    users = [operator for operator in model.operators if tensor in operator.inputs]
    found: list[Reader] = []
    for operator in users:
        layer = by_operator.get(operator.index)
        if layer is not None and layer.fed == tensor:
            if not _reads_each(model, layer):
                return None
            found.append(Reader(layer, first, count))
            continue
        place = _passed_on(model, operator, tensor, first, count)
        further = place and _readers(model, by_operator, operator.outputs[0], *place)
        if not further:
            return None
        found.extend(further)
    return tuple(found) or None


def _reads_each(model: Model, layer: Layer) -> bool:
    """Whether each input channel has weights of its own; those in groups share them."""
    channels, weights = model.tensors[layer.fed].shape[-1], model.tensors[layer.weights].shape
    return layer.operator.op == "FULLY_CONNECTED" or weights[-1] == channels


def _passed_on(
    model: Model, operator: Operator, tensor: int, first: int, count: int
) -> tuple[int, int] | None:
    """Say where the channels are behind an operator that only moves them; None if it does more."""
    if operator.options.get("activation", "NONE") not in _HOMOGENEOUS:
        return None
    shape, given = model.tensors[tensor].shape, model.tensors[operator.outputs[0]].shape
    if operator.op in ("MEAN", "SUM"):
        axes = model.values(model.tensors[operator.inputs[1]])
        last = (-1, len(shape) - 1)
        return None if axes is None or np.isin(axes, last).any() else (first, count)
    if operator.op in _PASS_CHANNELS:
        return first, count
    if operator.op == "PAD":
        widths = model.values(model.tensors[operator.inputs[1]])
        return None if widths is None or widths[-1].any() else (first, count)
    if operator.op == "RESHAPE":
        # Flattened, the channels are still the fastest index.
        return (first, count) if given and given[-1] % count == 0 and len(shape) > 1 else None
    if operator.op == "CONCATENATION" and operator.options.get("axis") in (len(shape) - 1, -1):
        before = operator.inputs[: operator.inputs.index(tensor)]
        return first + sum(model.tensors[index].shape[-1] for index in before), given[-1]
    return None


def _tensors(pair: Pair) -> tuple[int, ...]:
    own = (pair.layer.weights, pair.layer.bias)
    return tuple(index for index in (*own, *(r.layer.weights for r in pair.readers)) if index is not None)


def _scale(pair: Pair, seen: Observed, made: Mapping[int, Floats]) -> Floats:
    """Choose what each channel is divided by."""
    peak = _floored(seen.channel_peak)
    read = [_read_peak(reader, made, len(peak)) for reader in pair.readers if not _is_depthwise(reader)]
    weight = _floored(np.max(read, axis=0)) if read else np.float32(1) / peak
    scale = np.sqrt(peak * weight) / weight
    if pair.layer.operator.options.get("activation") == "RELU6":
        # Channels that are clipped stay, so the others must keep the range of the widest.
        scale = scale * (peak / scale).max() / peak.max()
        free = seen.channel_high < _RELU6
        scale = np.where(free, np.maximum(scale, seen.channel_high / (0.999 * _RELU6)), 1)
    return np.asarray(scale, np.float32)


def _floored(values: Floats) -> Floats:
    top = float(values.max())
    return np.maximum(values, top * DEAD if top > 0 else 1.0).astype(np.float32)


def _is_depthwise(reader: Reader) -> bool:
    return reader.layer.operator.op == "DEPTHWISE_CONV_2D"


def _view(reader: Reader, weights: Floats, width: int) -> Floats:
    """View the weights that read the channels, the last axis being the channel."""
    split = weights.reshape(*weights.shape[:-1], -1, reader.count) if weights.ndim == 2 else weights
    return split[..., reader.first : reader.first + width]


def _read_peak(reader: Reader, made: Mapping[int, Floats], width: int) -> Floats:
    """Give the greatest weight that reads each channel, as a share of its output channel's greatest."""
    weights = made[reader.layer.weights]
    own = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    shares = np.abs(weights) / np.maximum(own, 1e-30).reshape(-1, *[1] * (weights.ndim - 1))
    view = _view(reader, shares, width)
    return np.asarray(view.reshape(-1, width).max(axis=0), np.float32)


def _apply(pair: Pair, scale: Floats, made: dict[int, Floats]) -> None:
    layer, weights = pair.layer, made[pair.layer.weights]
    shape = [1] * weights.ndim
    shape[layer.out_axis] = len(scale)
    weights /= scale.reshape(shape)
    if layer.bias is not None:
        made[layer.bias] /= scale
    for reader in pair.readers:
        view = _view(reader, made[reader.layer.weights], len(scale))
        view *= scale
