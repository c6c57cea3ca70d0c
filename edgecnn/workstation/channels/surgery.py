"""The cut: a network rebuilt with fewer channels, each weight that stays in its place."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgecnn.workstation.backend import keras
from edgecnn.workstation.channels.graph import ChannelGraph, Coupling, Keep


def cut(model: Any, graph: ChannelGraph, keep: Keep) -> Any:
    """Build a network without the units that go.

    What the network computes stays the same as if nothing had ever read those units.

    Args:
        model: A functional ``tf_keras`` model; it is left as it is.
        graph: Its units.
        keep: Which of them stay.

    Returns:
        An ordinary model of the same layers and names, not compiled, whose batch normalization learns
        again: its statistics are those of a wider network.
    """

    def rebuild(layer: Any) -> Any:
        config = layer.get_config()
        coupling = graph.couplings.get(layer.name)
        if coupling is not None:
            count = int(keep[coupling.writes].sum())
            config.update({key: count for key in ("filters", "units") if config.get(key)})
        if isinstance(layer, keras.layers.BatchNormalization):
            config["trainable"] = True
        return type(layer).from_config(config)

    smaller = keras.models.clone_model(model, clone_function=rebuild)
    for layer in model.layers:
        weights = layer.get_weights()
        coupling = graph.couplings.get(layer.name)
        if coupling is not None:
            weights = [_slice(layer, x, keep, coupling) for x in weights]
        smaller.get_layer(layer.name).set_weights(weights)
    return smaller


def _slice(layer: Any, weight: Any, keep: Keep, coupling: Coupling) -> Any:
    inputs, outputs = keep[coupling.reads], keep[coupling.writes]
    if weight.ndim == 1:  # bias, or a row of batch normalization
        return weight[outputs]
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return weight[:, :, inputs]
    return np.compress(outputs, np.compress(inputs, weight, axis=-2), axis=-1)
