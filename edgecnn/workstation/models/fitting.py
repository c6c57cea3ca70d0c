"""What it takes to put weights of others into a network: who is who, and the first layer rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras
from edgecnn.workstation.models.blocks import TOP_DOWN
from edgecnn.workstation.models.folded import Floats, Kind, Normalisation
from edgecnn.workstation.models.zoo import LOGITS, NORMALISE

Plan = list[tuple[Any, list[Floats]]]
"""Layers, each with the weights that it is to get."""


@dataclass(frozen=True, slots=True)
class InitReport:
    """What became of the weights.

    Attributes:
        source: Where they came from.
        filled: Names of the layers that have them.
        left: Names of the layers with weights of their own that stay as they were, the head mostly.
        notes: What differs from the source, in sentences.
    """

    source: str
    filled: tuple[str, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in one line.

        Example:
            >>> str(InitReport("a.tflite", ("conv1", "fc1"), ("label_logits",)))
            '2 layers start from a.tflite; left as they were: label_logits.'
        """
        left = f"left as they were: {', '.join(self.left)}" if self.left else "none was left out"
        return " ".join((f"{len(self.filled)} layers start from {self.source}; {left}.", *self.notes))


def weighted(model: Any) -> list[Any]:
    """Give the convolutions and dense layers in their order, heads included."""
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def is_head(layer: Any) -> bool:
    """Tell whether the layer belongs to an answer, and not to the trunk: another file need not have it."""
    return bool(layer.name.endswith(LOGITS) or layer.name.startswith(TOP_DOWN))


def kind(layer: Any) -> Kind:
    """Name what a convolution or dense layer does."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return "depthwise"
    return "dense" if isinstance(layer, keras.layers.Dense) else "conv"


def kind_or_none(layer: Any) -> Kind | None:
    """Name what a layer does; None for one that is no convolution and not dense."""
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    return kind(layer) if isinstance(layer, kinds) else None


def is_grey_of(layer: Any, shape: Sequence[int]) -> bool:
    """Whether the layer reads a grey picture where the source reads a colour one."""
    ours = tuple(layer.weights[0].shape)
    return (
        kind(layer) == "conv"
        and reads_picture(layer)
        and len(shape) == 4
        and (ours[2], shape[2]) == (1, 3)
        and (*ours[:2], ours[3]) == (*shape[:2], shape[3])
    )


def reads_picture(layer: Any) -> bool:
    """Tell whether the layer reads the normalised picture directly."""
    return bool(layer.input.node.layer.name == NORMALISE)


def norms(model: Any) -> list[Any]:
    """Give the batch norms in their order."""
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def norm_after(layer: Any) -> Any | None:
    """The batch norm that reads this layer's output directly, if there is one."""
    followers = [node.outbound_layer for node in layer.outbound_nodes]
    norms = [f for f in followers if isinstance(f, keras.layers.BatchNormalization)]
    return norms[0] if norms else None


def adapt(layer: Any, kernel: Floats, made_for: Normalisation) -> tuple[Floats, Floats]:
    """Rewrite the first kernel for what our networks make of a byte.

    The source computes ``kernel * (scale * byte + offset)``; with ``byte = 128 * ours + 128`` that is
    ``(128 * scale * kernel) * ours`` and a constant.

    Returns:
        The kernel, its colours summed for a grey picture, and what is to be added to the output.

    Raises:
        ModelError: If the source normalises otherwise and the first layer is no convolution.
    """
    scale, offset = 128 * made_for.scale, 128 * made_for.scale + made_for.offset
    is_same = np.allclose(scale, 1, atol=1e-6) and np.allclose(offset, 0, atol=1e-6)
    shift = np.zeros(kernel.shape[-1], np.float32)
    if not is_same:
        if kind(layer) != "conv" or not reads_picture(layer):
            raise ModelError(
                f"The source makes other numbers of a byte than edgecnn, and '{layer.name}' is no "
                "convolution over the picture that could make up for it.",
                fix="Start from a file that edgecnn converted.",
            )
        shift = np.einsum("hwio,i->o", kernel, np.broadcast_to(offset, kernel.shape[2])).astype(np.float32)
        kernel = (kernel * scale.reshape(1, 1, -1, 1)).astype(np.float32)
    elif kind(layer) == "depthwise":
        shift = np.zeros(kernel.shape[2] * kernel.shape[3], np.float32)
    if is_grey_of(layer, kernel.shape):
        kernel = kernel.sum(axis=2, keepdims=True)
    return kernel, shift


def border_note(layer: Any, made_for: Normalisation) -> tuple[str, ...]:
    """Say so if padding means another colour to the source than to the network."""
    offset = 128 * made_for.scale + made_for.offset
    # A tenth of a byte step is nothing that a border could be seen by.
    if getattr(layer, "padding", "valid") == "valid" or np.abs(offset / (128 * made_for.scale)).max() < 0.1:
        return ()
    return ("The source pads pictures with another colour than middle grey: borders differ a little.",)


def apply(plan: Plan) -> None:
    """Set the weights; what could go wrong has gone wrong before."""
    for layer, values in plan:
        layer.set_weights(values)
