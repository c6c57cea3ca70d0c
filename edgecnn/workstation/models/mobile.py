"""MobileNets of any width; layers are named as in Keras's own, so that its weights fit by name."""

from __future__ import annotations

from edgecnn.workstation.backend import keras
from edgecnn.workstation.models import blocks
from edgecnn.workstation.models.blocks import Tensor, Trunk

V1_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1),
    (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
"""Channels and stride of each depthwise-separable block; table 1 of arXiv 1704.04861."""

V2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, repeats and stride of the first; table 2 of arXiv 1801.04381."""


def mobilenet_v1(x: Tensor, width: float, dropout: float) -> Trunk:
    """Build MobileNetV1: 13 blocks of a depthwise and a 1 x 1 convolution.

    Source:
        A. G. Howard et al., arXiv 1704.04861.
    """
    x = blocks.conv(x, blocks.scaled(32, width), 3, "conv1", stride=2, use_bias=False)
    x = _norm_relu6(x, "conv1_bn", "conv1_relu")
    before_halving: list[Tensor] = []
    for number, (filters, stride) in enumerate(V1_BLOCKS, 1):
        before_halving += [x] if stride == 2 else []
        x = blocks.depthwise(x, 3, f"conv_dw_{number}", stride=stride, use_bias=False)
        x = _norm_relu6(x, f"conv_dw_{number}_bn", f"conv_dw_{number}_relu")
        x = blocks.conv(x, blocks.scaled(filters, width), 1, f"conv_pw_{number}", use_bias=False)
        x = _norm_relu6(x, f"conv_pw_{number}_bn", f"conv_pw_{number}_relu")
    return Trunk(blocks.dropout(blocks.average(x), dropout), before_halving[-1], (*before_halving[-3:], x))


def mobilenet_v2(x: Tensor, width: float, dropout: float) -> Trunk:
    """Build MobileNetV2: 17 inverted residuals with linear bottlenecks.

    The last convolution keeps its 1280 channels at widths below 1, as in the original.

    Source:
        M. Sandler et al., arXiv 1801.04381.
    """
    x = blocks.conv(x, blocks.divisible(32 * width), 3, "Conv1", stride=2, use_bias=False)
    x = _norm_relu6(x, "bn_Conv1", "Conv1_relu")
    number = 0
    bottlenecks: list[Tensor] = []
    before_halving: list[Tensor] = []
    for expansion, channels, repeats, first_stride in V2_STAGES:
        for repeat in range(repeats):
            prefix = f"block_{number}_" if number else "expanded_conv_"
            stride = 1 if repeat else first_stride
            bottlenecks += [x] if stride == 2 else []
            x, expanded = _inverted_residual(x, expansion, blocks.divisible(channels * width), stride, prefix)
            before_halving += [expanded] if stride == 2 else []
            number += 1
    x = blocks.conv(x, blocks.divisible(1280 * max(1.0, width)), 1, "Conv_1", use_bias=False)
    x = _norm_relu6(x, "Conv_1_bn", "out_relu")
    # Of the finest, the bottleneck: to expand it takes six times the channels.
    pyramid = (bottlenecks[-3], *before_halving[-2:], x)
    return Trunk(blocks.dropout(blocks.average(x), dropout), before_halving[-1], pyramid)


def _inverted_residual(
    x: Tensor, expansion: int, filters: int, stride: int, prefix: str
) -> tuple[Tensor, Tensor]:
    """Add a block; give its output, and what its first convolution expands the input to."""
    channels = x.shape[-1]
    y = x
    if expansion != 1:
        y = blocks.conv(y, expansion * channels, 1, f"{prefix}expand", use_bias=False)
        y = _norm_relu6(y, f"{prefix}expand_BN", f"{prefix}expand_relu")
    expanded = y
    y = blocks.depthwise(y, 3, f"{prefix}depthwise", stride=stride, use_bias=False)
    y = _norm_relu6(y, f"{prefix}depthwise_BN", f"{prefix}depthwise_relu")
    y = blocks.conv(y, filters, 1, f"{prefix}project", use_bias=False)
    y = blocks.norm(y, f"{prefix}project_BN")
    if stride == 1 and channels == filters:
        y = keras.layers.Add(name=f"{prefix}add")([x, y])
    return y, expanded


def _norm_relu6(x: Tensor, norm_name: str, relu_name: str) -> Tensor:
    # ReLU6, not ReLU: the range 0..6 is known before quantization.
    return blocks.relu(blocks.norm(x, norm_name), relu_name, limit=6.0)
