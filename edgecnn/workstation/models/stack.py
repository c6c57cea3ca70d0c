"""A network that a student writes layer by layer in his recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import zip_longest

from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras
from edgecnn.workstation.models import blocks
from edgecnn.workstation.models.blocks import Tensor, Trunk
from edgecnn.workstation.recipe import Layer

_SETTINGS = {
    "conv": {"filters", "kernel", "stride", "padding", "activation"},
    "depthwise": {"kernel", "stride", "padding", "activation"},
    "max_pool": {"kernel", "stride", "padding"},
    "average_pool": {"kernel", "stride", "padding"},
    "global_average_pool": set[str](),
    "flatten": set[str](),
    "dense": {"units", "activation"},
    "dropout": {"rate"},
    "batch_norm": {"activation"},
}
"""What each kind of layer reads; anything else that is set is a slip of the pen."""

_NEEDS_MAP = {"conv", "depthwise", "max_pool", "average_pool", "global_average_pool"}


def stack(x: Tensor, layers: Sequence[Layer]) -> Trunk:
    """Build the layers of a recipe in their order.

    A dense layer (or the head) that meets a feature map gets a flatten before it. A convolution or
    dense layer directly before a ``batch_norm`` has no bias, since the norm brings one.

    Args:
        x: The normalised picture.
        layers: At least one.

    Returns:
        The trunk; its feature map is the last one before anything was flattened.

    Raises:
        ModelError: Names the layer that has an impossible value or stands at an impossible place.
    """
    feature_map = x
    for number, (layer, following) in enumerate(zip_longest(layers, layers[1:]), 1):
        name = f"{layer.kind}_{number}"
        _refuse_slips(layer, name)
        _refuse_misplaced(layer, x, name)
        has_bias = following is None or following.kind != "batch_norm" or layer.activation != "linear"
        x = _activate(_add(x, layer, name, has_bias), layer, name)
        feature_map = x if _is_map(x) else feature_map
    return Trunk(blocks.flatten(x, "flatten") if _is_map(x) else x, feature_map)


def _add(x: Tensor, layer: Layer, name: str, use_bias: bool) -> Tensor:
    stride, padding = layer.stride or 1, layer.padding
    match layer.kind:
        case "conv":
            return blocks.conv(
                x, layer.filters, layer.kernel, name, stride=stride, padding=padding, use_bias=use_bias
            )
        case "depthwise":
            return blocks.depthwise(x, layer.kernel, name, stride=stride, padding=padding, use_bias=use_bias)
        case "max_pool":
            return blocks.pool(x, "max", layer.kernel, layer.stride or layer.kernel, name, padding)
        case "average_pool":
            return blocks.pool(x, "average", layer.kernel, layer.stride or layer.kernel, name, padding)
        case "global_average_pool":
            return blocks.average(x, name)
        case "flatten":
            return blocks.flatten(x, name)
        case "dense":
            x = blocks.flatten(x, f"{name}_flatten") if _is_map(x) else x
            return blocks.dense(x, layer.units, name, use_bias=use_bias)
        case "dropout":
            return blocks.dropout(x, layer.rate, name)
        case "batch_norm":
            return blocks.norm(x, name)


def _activate(x: Tensor, layer: Layer, name: str) -> Tensor:
    if layer.activation == "linear":
        return x
    name = f"{name}_{layer.activation}"
    if layer.activation in ("relu", "relu6"):
        return blocks.relu(x, name, limit=6.0 if layer.activation == "relu6" else None)
    return keras.layers.Activation(layer.activation, name=name)(x)


def _is_map(x: Tensor) -> bool:
    return len(x.shape) == 4


def _refuse_slips(layer: Layer, name: str) -> None:
    reads = _SETTINGS[layer.kind]
    for setting in dataclasses.fields(layer):
        if setting.name in reads | {"kind"} or getattr(layer, setting.name) == setting.default:
            continue
        raise ModelError(
            f"Layer '{name}' sets {setting.name} = {getattr(layer, setting.name)}, which a {layer.kind} "
            "does not have.",
            fix=f"Remove it; a {layer.kind} takes {', '.join(sorted(reads)) or 'no settings'}.",
        )
    smallest = {"filters": 1, "units": 1, "kernel": 1, "stride": 0}
    for setting_name in sorted(reads & smallest.keys()):
        value = getattr(layer, setting_name)
        if value < smallest[setting_name]:
            raise ModelError(
                f"Layer '{name}' has {setting_name} = {value}; it must be at least {smallest[setting_name]}.",
                fix=f"Set {setting_name} of '{name}' in [[model.layers]].",
            )
    if not 0 <= layer.rate < 1:
        raise ModelError(
            f"Layer '{name}' drops a share of {layer.rate}; it must be at least 0 and below 1.",
            fix=f"Set rate of '{name}' to 0.2, for instance.",
        )


def _refuse_misplaced(layer: Layer, x: Tensor, name: str) -> None:
    if layer.kind in _NEEDS_MAP and not _is_map(x):
        raise ModelError(
            f"Layer '{name}' needs rows and columns, but the layers before it have flattened them away.",
            fix=f"Move '{name}' before the first flatten, dense or global_average_pool.",
        )
