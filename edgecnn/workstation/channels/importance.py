"""How much the loss would change if a unit went: first order, from gradients on training pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.prediction import Head
from edgecnn.workstation.backend import tf
from edgecnn.workstation.channels.graph import ChannelGraph
from edgecnn.workstation.losses import loss_for
from edgecnn.workstation.recipe import Recipe
from edgecnn.workstation.split import Split
from edgecnn.workstation.step import batch_loss

PICTURE_COUNT = 1024
"""Pictures that importance is judged on."""

BATCH_SIZE = 16
"""Small: over many pictures, gradients of either sign cancel, and everything looks unimportant."""


def importance(
    model: Any, graph: ChannelGraph, heads: Sequence[Head], training: Split, recipe: Recipe
) -> NDArray[np.float64]:
    """Estimate what each unit is worth.

    The weights by which layers read a unit, times their gradients, sum up to the first-order change of
    the loss when those weights become zero, which is what cutting the unit does. That holds through
    additions, batch normalization and flattening alike, and needs no gates in the network.

    Args:
        model: Not changed; runs as at inference.
        graph: Its units.
        heads: Its answers.
        training: Pictures of the train split, of which some are drawn.
        recipe: For the seed, the smoothing of the labels, the weights of the heads, and mosaics.

    Returns:
        The mean over batches of the square of that change, shape (unit_count,). Squares of channels that
        go together add up as if independent, and compare across layers without being normalised.

    Source:
        P. Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8,
        with the gate put where a unit is read.
    """
    readers = [(model.get_layer(name), c.reads) for name, c in graph.couplings.items() if c.is_dense]
    kernels = [layer.kernel for layer, _ in readers]
    losses = [loss_for(head, recipe.train.label_smoothing) for head in heads]
    loss = batch_loss(model, recipe, heads, losses, training=False)
    targets = [target.all() for target in training.targets]

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow comes without types
    def effects(pictures: Any, wanted: list[Any]) -> list[Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(kernels)
            value = loss(pictures, wanted)
        gradients = tape.gradient(value, kernels, unconnected_gradients="zero")
        # Over everything but the input channels, which stand last but one.
        return [
            tf.reduce_sum(tf.reshape(k * g, (-1, k.shape[-2], k.shape[-1])), (0, 2))
            for k, g in zip(kernels, gradients, strict=True)
        ]

    chosen = np.random.default_rng(recipe.train.seed).permutation(len(training.codes))[:PICTURE_COUNT]
    squares = np.zeros(graph.unit_count)
    starts = range(0, len(chosen), BATCH_SIZE)
    for start in starts:
        rows = np.sort(chosen[start : start + BATCH_SIZE])
        found = effects(training.codes[rows].astype(np.float32), [target[rows] for target in targets])
        change = np.zeros(graph.unit_count)
        for (_, reads), effect in zip(readers, found, strict=True):
            np.add.at(change, reads, effect.numpy())
        squares += change**2
    return squares / len(starts)
