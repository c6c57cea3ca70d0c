"""Which channels of a network stand and fall together, found by following each one through its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.workstation.backend import keras
from edgecnn.workstation.models.blocks import LocalResponseNormalization

Units = NDArray[np.int64]
"""The unit that each channel of a tensor belongs to, shape (channels,), or (features,) after flattening."""

Keep = NDArray[np.bool_]
"""Whether each unit stays, shape (unit_count,)."""

_LAYERS = keras.layers

CHANNELWISE = (
    _LAYERS.ReLU, _LAYERS.LeakyReLU, _LAYERS.ELU, _LAYERS.Activation, _LAYERS.Dropout,
    _LAYERS.SpatialDropout2D, _LAYERS.MaxPooling2D, _LAYERS.AveragePooling2D, _LAYERS.ZeroPadding2D,
    _LAYERS.GlobalAveragePooling2D, _LAYERS.GlobalMaxPooling2D, _LAYERS.Cropping2D, _LAYERS.UpSampling2D,
    # It reads neighbours: where a channel goes, the sums of the four around it change a little.
    LocalResponseNormalization,
)  # fmt: skip
"""Layers without weights that leave every channel in its place."""

ELEMENTWISE = (
    _LAYERS.Add,
    _LAYERS.Subtract,
    _LAYERS.Multiply,
    _LAYERS.Average,
    _LAYERS.Maximum,
    _LAYERS.Minimum,
)
"""Layers that tie channels of the same position together."""


@dataclass(frozen=True, slots=True)
class Coupling:
    """How a layer with weights hangs on units.

    Attributes:
        reads: The unit of each input channel.
        writes: The unit of each output channel.
        positions: Where in a feature map its kernel is applied, times the kernel's window: the
            multiplications for one input and one output channel.
        window: The weights for one input and one output channel.
        is_dense: Whether every output sees every input; a depthwise convolution or a batch
            normalization sees one each.
    """

    reads: Units
    writes: Units
    positions: int
    window: int
    is_dense: bool


@dataclass(frozen=True, slots=True)
class ChannelGraph:
    """The units of a network: sets of channels of which none can go without the others.

    Attributes:
        couplings: By name, every layer whose weights have channels that can go.
        family: Of each unit: those of one convolution, or of all that a residual addition ties, are one.
        is_fixed: Units that must stay: of the input, of the answers, and of layers not understood.
    """

    couplings: Mapping[str, Coupling]
    family: NDArray[np.int64]
    is_fixed: NDArray[np.bool_]

    @property
    def unit_count(self) -> int:
        """How many there are."""
        return len(self.family)

    def families(self) -> Iterator[NDArray[np.int64]]:
        """Give the units of each family that can lose some."""
        free = np.flatnonzero(~self.is_fixed)
        for family in np.unique(self.family[free]):
            yield free[self.family[free] == family]


class _Sets:
    """Disjoint sets of numbers.

    Source:
        R. E. Tarjan, J. van Leeuwen, J. ACM 31 (1984) 245-281: path halving.
    """

    def __init__(self) -> None:
        self.parent: list[int] = []

    def fresh(self, count: int) -> list[int]:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return list(range(start, start + count))

    def root(self, item: int) -> int:
        parent = self.parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, first: int, second: int) -> None:
        self.parent[self.root(second)] = self.root(first)


class _Analysis:
    """One walk over a network; units are numbered as they are met and joined where they are tied."""

    def __init__(self) -> None:
        self.units, self.families = _Sets(), _Sets()
        self.family_of: list[int] = []
        self.fixed: list[int] = []
        self.couplings: dict[str, Coupling] = {}

    def fresh(self, count: int) -> Units:
        (family,) = self.families.fresh(1)
        self.family_of.extend([family] * count)
        return np.array(self.units.fresh(count), np.int64)

    def fix(self, units: Units) -> Units:
        self.fixed.extend(units.tolist())
        return units

    def tie(self, first: Units, second: Units) -> None:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            self.units.join(a, b)
            self.families.join(self.family_of[a], self.family_of[b])

    def step(
        self, layer: Any, inputs: Sequence[Units], in_shape: Any, out_shapes: Sequence[Any]
    ) -> list[Units]:
        """Follow the channels through one layer.

        Returns:
            The units of each output.
        """
        if _is_weighted(layer):
            return [self._weighted(layer, inputs[0], out_shapes[0])]
        if isinstance(layer, _LAYERS.BatchNormalization) and _last_axis(layer, in_shape):
            self._couple(layer, inputs[0], inputs[0], 0, 4, False)
            return [inputs[0]]
        if _is_channelwise(layer):
            return [inputs[0]]
        if isinstance(layer, _LAYERS.Flatten):
            # Channels are last: one block of channels for each place in the map, row by row.
            return [np.tile(inputs[0], prod(in_shape[1:-1]))]
        if isinstance(layer, _LAYERS.Concatenate) and layer.axis in (-1, len(out_shapes[0]) - 1):
            return [np.concatenate(inputs)]
        if isinstance(layer, ELEMENTWISE) and len({len(units) for units in inputs}) == 1:
            for other in inputs[1:]:
                self.tie(inputs[0], other)
            return [inputs[0]]
        for units in inputs:
            self.fix(units)
        return [self.fix(self.fresh(shape[-1] or 1)) for shape in out_shapes]

    def _weighted(self, layer: Any, reads: Units, out_shape: Any) -> Units:
        places = prod(out_shape[1:-1])
        if isinstance(layer, _LAYERS.DepthwiseConv2D):
            window = prod(layer.kernel_size)
            # Output channels of one input channel lie side by side.
            writes = np.repeat(reads, layer.depth_multiplier)
            return self._couple(layer, reads, writes, places * window, window, False)
        window = prod(getattr(layer, "kernel_size", (1,)))
        known = self.couplings.get(layer.name)
        writes = known.writes if known else self.fresh(out_shape[-1])
        return self._couple(layer, reads, writes, places * window, window, True)

    def _couple(
        self, layer: Any, reads: Units, writes: Units, positions: int, window: int, is_dense: bool
    ) -> Units:
        known = self.couplings.get(layer.name)
        if known:  # a layer used twice: what it reads the second time goes with what it read the first
            self.tie(known.reads, reads)
            self.tie(known.writes, writes)
            positions += known.positions
        self.couplings[layer.name] = Coupling(reads, writes, positions, window, is_dense)
        return writes

    def finish(self) -> ChannelGraph:
        """Number the sets from 0."""
        roots = np.array([self.units.root(unit) for unit in range(len(self.units.parent))], np.int64)
        kept, number = np.unique(roots, return_inverse=True)
        family = np.array([self.families.root(self.family_of[unit]) for unit in kept], np.int64)
        is_fixed = np.zeros(len(kept), np.bool_)
        is_fixed[number[self.fixed]] = True
        couplings = {
            name: Coupling(number[c.reads], number[c.writes], c.positions, c.window, c.is_dense)
            for name, c in self.couplings.items()
        }
        return ChannelGraph(couplings, family, is_fixed)


def analyse(model: Any) -> ChannelGraph:
    """Follow every channel of a functional model from where it is made to where it is read.

    A convolution or dense layer makes new units. Batch normalization, activation, pooling and depthwise
    convolution hand them on; flattening repeats them, concatenation puts them side by side, and addition
    ties those of the same position. A layer that is not understood (a softmax, a nested model, a grouped
    convolution) pins what it reads and what it writes, so that a cut is never wrong, only smaller.

    Args:
        model: A functional or sequential ``tf_keras`` model, channels last.

    Returns:
        Its units.
    """
    walk = _Analysis()
    at: dict[int, Units] = {}
    for tensor in model.inputs:
        at[id(tensor)] = walk.fix(walk.fresh(tensor.shape[-1] or 1))
    # Keras numbers the calls of layers by their distance from the outputs.
    nodes = [
        node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]
    ]
    for node in nodes:
        if isinstance(node.layer, _LAYERS.InputLayer):
            continue
        outputs = _flat(node.outputs)
        inputs = [at[id(tensor)] for tensor in node.keras_inputs]
        found = walk.step(
            node.layer, inputs, node.keras_inputs[0].shape, [tensor.shape for tensor in outputs]
        )
        at.update((id(tensor), units) for tensor, units in zip(outputs, found, strict=True))
    for tensor in model.outputs:
        walk.fix(at[id(tensor)])
    return walk.finish()


def _flat(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]


def _is_weighted(layer: Any) -> bool:
    if isinstance(layer, _LAYERS.DepthwiseConv2D):
        return True
    if type(layer) is _LAYERS.Conv2D:
        return bool(layer.groups == 1 and layer.data_format == "channels_last")
    return type(layer) is _LAYERS.Dense


def _is_channelwise(layer: Any) -> bool:
    if isinstance(layer, _LAYERS.Activation):
        return bool(keras.activations.serialize(layer.activation) not in ("softmax", "log_softmax"))
    if isinstance(layer, _LAYERS.Rescaling):
        return np.size(layer.scale) == 1 and np.size(layer.offset) == 1
    return isinstance(layer, CHANNELWISE)


def _last_axis(layer: Any, shape: Any) -> bool:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return [axis % len(shape) for axis in axes] == [len(shape) - 1]
