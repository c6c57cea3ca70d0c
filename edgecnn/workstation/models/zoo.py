"""From the name of a topology to a Keras model that eats raw bytes and answers with one output a head."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras
from edgecnn.workstation.models import blocks, classic, mobile
from edgecnn.workstation.models.blocks import Tensor, Trunk
from edgecnn.workstation.models.stack import stack
from edgecnn.workstation.recipe import ModelSpec

PICTURE = "picture"
"""Name of the input: raw bytes as float32."""

NORMALISE = "normalise"
"""Name of the layer that turns bytes into numbers around 0."""

LOGITS = "_logits"
"""A head's last layer with weights is named by the head and this."""

SMALLEST_PX = {
    "lenet": (12, "its second convolution and pooling would find nothing left"),
    "alexnet": (67, "its last max pooling, 'pool5', would find less than its 3 x 3 window"),
    "vgg16": (32, "it halves the picture five times"),
    "mobilenet_v1": (32, "it halves the picture five times"),
    "mobilenet_v2": (32, "it halves the picture five times"),
}
"""By topology: the shortest side that it takes, and why."""


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One line of a model's summary.

    Attributes:
        name: Of the layer; ``total`` in the last row.
        kind: Of the layer, as Keras calls it.
        output_shape: Without the batch.
        parameters: Weights, moving statistics included.
        macs: Multiplications with accumulation for one picture, of convolutions and dense layers.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


def build(model: ModelSpec, input: InputSpec, heads: Sequence[Head]) -> Any:
    """Build an untrained network.

    Args:
        model: Which one.
        input: The size and channels of its pictures.
        heads: Its answers, at least one.

    Returns:
        A functional ``tf_keras`` model named by its topology. Its input ``picture`` has shape
        (batch, height, width, channels), float32, and holds bytes 0..255; its one output (or list of
        outputs, in the order of the heads) is named by the head and holds scores of shape
        (batch, neuron_count), or (batch, rows, columns, labels) for a heatmap.

    Raises:
        ModelError: If the topology cannot take the input, or a layer or head is impossible; the message
            names it.
    """
    _refuse_small_input(model, input)
    _refuse_bad_heads(heads)
    if model.topology == "layers" and model.width != 1.0:
        raise ModelError(
            f'width = {model.width} does nothing with topology = "layers", which says its filters itself.',
            fix="Remove width, and change the filters in [[model.layers]].",
        )
    shape = (input.height_px, input.width_px, input.channels)
    picture = keras.Input(shape, name=PICTURE)
    # (x - 128) / 128: the int8 code of a byte is then the byte less 128, with no arithmetic on the device.
    x = keras.layers.Rescaling(1 / 128, offset=-1.0, name=NORMALISE)(picture)
    trunk = _trunk(x, model)
    feature_map = trunk.feature_map
    if model.top_down and trunk.pyramid and any(head.kind == "heatmap" for head in heads):
        feature_map = blocks.top_down(trunk.pyramid)
    answers = [_answer(trunk.flat, feature_map, head) for head in heads]
    try:
        return keras.Model(picture, answers[0] if len(answers) == 1 else answers, name=model.topology)
    except ValueError as error:  # Keras refuses two layers of one name
        raise ModelError(
            f"A head of {model.topology} has the name of one of its layers: {error}.",
            fix=f"Rename the head; {', '.join(h.name for h in heads)} is taken by a layer.",
        ) from error


def features_of(model: Any) -> Any:
    """Give the trunk: from the picture to what the heads read that are no heatmaps.

    Returns:
        A model that shares the layers of ``model``, so that what one learns the other knows.

    Raises:
        ModelError: If the model has no layer named ``<head>_logits``.
    """
    for layer in model.layers:
        if layer.name.endswith(LOGITS) and isinstance(layer, keras.layers.Dense):
            return keras.Model(model.input, layer.input, name=f"{model.name}_features")
    raise ModelError(
        f"The model '{model.name}' has no head that can be told from its trunk.",
        fix=f"Build it with edgecnn, or name its last layer with weights '<head>{LOGITS}'.",
    )


def listed(outputs: Any) -> list[Any]:
    """Give a model's outputs as a list, whether it has one or several."""
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def summary(model: Any) -> tuple[LayerRow, ...]:
    """Count what every layer holds and costs.

    Returns:
        One row per layer in their order, and a last one named ``total``.
    """
    rows = tuple(_rows(model))
    total = LayerRow("total", "", (), sum(row.parameters for row in rows), sum(row.macs for row in rows))
    return (*rows, total)


def _trunk(x: Tensor, model: ModelSpec) -> Trunk:
    width, dropout = model.width, model.dropout
    match model.topology:
        case "lenet":
            return classic.lenet(x, width)
        case "resnet8":
            return classic.resnet8(x, width)
        case "alexnet":
            return classic.alexnet(x, model.normalization or "batch_norm", model.dense_units, dropout, width)
        case "vgg16":
            return classic.vgg16(x, model.normalization == "batch_norm", model.dense_units, dropout, width)
        case "mobilenet_v1":
            return mobile.mobilenet_v1(x, width, dropout)
        case "mobilenet_v2":
            return mobile.mobilenet_v2(x, width, dropout)
        case "layers":
            return stack(x, model.layers)


def _answer(flat: Tensor, feature_map: Tensor, head: Head) -> Tensor:
    name = f"{head.name}{LOGITS}"
    if head.kind == "heatmap":
        # Its kernel starts from 0, so that an untrained heatmap pulls at no pretrained trunk; a bias of -3
        # is a score of 0.05: most cells are empty.
        start = {"kernel_initializer": "zeros", "bias_initializer": keras.initializers.Constant(-3.0)}
        logits = keras.layers.Conv2D(head.neuron_count, 1, name=name, **start)(feature_map)
    else:
        logits = keras.layers.Dense(head.neuron_count, name=name)(flat)
    kind = "softmax" if head.kind == "softmax" else "sigmoid"
    return keras.layers.Activation(kind, name=head.name)(logits)


def _rows(model: Any) -> Iterator[LayerRow]:
    for layer in model.layers:
        shape = layer.output_shape
        shape = shape[0] if isinstance(shape, list) else shape
        output_shape = tuple(int(side) for side in shape[1:])
        yield LayerRow(
            layer.name, type(layer).__name__, output_shape, layer.count_params(), _macs(layer, output_shape)
        )


def _macs(layer: Any, output_shape: tuple[int, ...]) -> int:
    layer = getattr(layer, "layer", layer)  # TFMOT wraps a layer while it prunes or quantizes
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return prod(output_shape) * int(prod(layer.kernel_size))
    if isinstance(layer, keras.layers.Conv2D):
        return prod(output_shape[:2]) * int(prod(layer.kernel.shape))
    return int(prod(layer.kernel.shape)) if isinstance(layer, keras.layers.Dense) else 0


def _refuse_small_input(model: ModelSpec, input: InputSpec) -> None:
    smallest, reason = SMALLEST_PX.get(model.topology, (1, "a picture has at least one pixel"))
    if min(input.height_px, input.width_px) < smallest:
        raise ModelError(
            f"{model.topology} cannot take pictures of {input}: {reason}.",
            fix=f"Set height_px and width_px in [input] to at least {smallest}, or choose another topology.",
        )


def _refuse_bad_heads(heads: Sequence[Head]) -> None:
    names = [head.name for head in heads]
    if not names or len(set(names)) < len(names):
        raise ModelError(
            f"A model needs one head or more, each with a name of its own; found {names}.",
            fix="Name every head differently.",
        )
    for head in heads:
        # What TensorFlow accepts as the name of an operation.
        if not re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.-]*", head.name):
            raise ModelError(
                f"A head is named '{head.name}'; letters a to z, digits, '_', '.' and '-' are possible.",
                fix='Rename it, for instance head = "label".',
            )
        if (len(head.labels) < 2 and head.kind == "softmax") or not head.labels:
            raise ModelError(
                f"Head '{head.name}' is a {head.kind} over {len(head.labels)} labels: "
                "there is nothing to tell apart.",
                fix="Give it two labels or more.",
            )
