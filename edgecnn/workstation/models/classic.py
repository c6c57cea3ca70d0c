"""The classics: LeNet-5, AlexNet, VGG-16, and the ResNet-8 of MLPerf Tiny."""

from __future__ import annotations

from typing import Literal

from edgecnn.workstation.backend import keras
from edgecnn.workstation.models import blocks
from edgecnn.workstation.models.blocks import Tensor, Trunk


def lenet(x: Tensor, width: float = 1.0) -> Trunk:
    """Build LeNet-5 as it is taught today.

    Against the paper: max pooling instead of trainable subsampling, ReLU instead of a scaled tanh,
    the second convolution sees all six maps instead of a hand-made table, batch normalization (which
    conversion folds away), a plain last layer instead of radial basis functions, and 28 x 28 digits
    padded by the first convolution instead of 32 x 32 ones. 61,706 weights after folding; the paper
    counts 60,000 trainable ones.

    Source:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Proc. IEEE 86 (1998) 2278-2324, section II.B.
    """
    x = _conv_norm_relu(x, blocks.scaled(6, width), 5, "conv1")
    x = blocks.pool(x, "max", 2, 2, "pool1")
    x = _conv_norm_relu(x, blocks.scaled(16, width), 5, "conv2", padding="valid")
    feature_map = x = blocks.pool(x, "max", 2, 2, "pool2")
    x = blocks.flatten(x)
    x = _dense_relu(x, blocks.scaled(120, width), "fc1")
    return Trunk(_dense_relu(x, blocks.scaled(84, width), "fc2"), feature_map)


def resnet8(x: Tensor, width: float = 1.0) -> Trunk:
    """Build the image classifier of MLPerf Tiny v1: three stacks of two convolutions, 16 to 64 channels.

    The shortcuts of the second and third stack are convolutions of 1 x 1 without batch normalization.
    Where batch normalization follows, the benchmark's Keras code gives convolutions a bias too, which
    changes nothing; here they have none, so that Keras counts 78,426 parameters and not 78,666.

    Source:
        C. Banbury et al., "MLPerf Tiny Benchmark", arXiv 2106.07597; ``resnet_v1_eembc`` in its code.
    """
    x = _conv_norm_relu(x, blocks.scaled(16, width), 3, "conv1")
    x = _residual(x, blocks.scaled(16, width), 1, "stack1")
    x = _residual(x, blocks.scaled(32, width), 2, "stack2")
    x = _residual(x, blocks.scaled(64, width), 2, "stack3")
    return Trunk(blocks.average(x), x)


def alexnet(
    x: Tensor,
    normalization: Literal["lrn", "batch_norm"],
    dense_units: int,
    dropout: float,
    width: float = 1.0,
) -> Trunk:
    """Build AlexNet: five convolutions, overlapping max pooling, three dense layers (the last is the head).

    62,378,344 parameters at 227 x 227 and 1000 labels with ``lrn``. The paper says 60 million: it splits
    the second, fourth and fifth convolution in two groups, one per graphics card, which leaves 60,965,224.
    They are whole here: the split was made for the cards' 3 GB, and channels can be cut out of
    whole convolutions one by one. ``batch_norm`` stands between every convolution and its ReLU, where
    conversion folds it away; ``lrn`` follows the first two ReLUs, as in the paper.

    Source:
        A. Krizhevsky, I. Sutskever, G. Hinton, NIPS 2012, section 3.5. The paper's 224 x 224 input does
        not give its 55 x 55 maps without padding; 227 x 227 does.
    """
    use_norm = normalization == "batch_norm"
    x = _conv_norm_relu(
        x, blocks.scaled(96, width), 11, "conv1", stride=4, padding="valid", use_norm=use_norm
    )
    x = x if use_norm else blocks.LocalResponseNormalization(name="lrn1")(x)
    x = blocks.pool(x, "max", 3, 2, "pool1")
    x = _conv_norm_relu(x, blocks.scaled(256, width), 5, "conv2", use_norm=use_norm)
    x = x if use_norm else blocks.LocalResponseNormalization(name="lrn2")(x)
    x = blocks.pool(x, "max", 3, 2, "pool2")
    for number, filters in ((3, 384), (4, 384), (5, 256)):
        x = _conv_norm_relu(x, blocks.scaled(filters, width), 3, f"conv{number}", use_norm=use_norm)
    feature_map = x = blocks.pool(x, "max", 3, 2, "pool5")
    return Trunk(_two_dense(blocks.flatten(x), dense_units, dropout), feature_map)


def vgg16(
    x: Tensor,
    use_norm: bool,
    dense_units: int,
    dropout: float,
    width: float = 1.0,
) -> Trunk:
    """Build VGG-16: 13 convolutions of 3 x 3 in five blocks, three dense layers (the last is the head).

    138,357,544 parameters at 224 x 224 and 1000 labels, as in the paper; layers are named as in Keras's own
    VGG16 then, so that its weights fit by name. With ``use_norm``, batch normalization stands between every
    convolution and its ReLU: a network so deep, started from random weights, learns much faster with it.

    Source:
        K. Simonyan, A. Zisserman, arXiv 1409.1556, table 1, configuration D.
    """
    for number, (filters, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for layer in range(1, depth + 1):
            name = f"block{number}_conv{layer}"
            x = _conv_norm_relu(x, blocks.scaled(filters, width), 3, name, use_norm=use_norm)
        x = blocks.pool(x, "max", 2, 2, f"block{number}_pool")
    return Trunk(_two_dense(blocks.flatten(x), dense_units, dropout), x)


def _conv_norm_relu(
    x: Tensor,
    filters: int,
    kernel: int,
    name: str,
    *,
    stride: int = 1,
    padding: blocks.Padding = "same",
    use_norm: bool = True,
) -> Tensor:
    x = blocks.conv(x, filters, kernel, name, stride=stride, padding=padding, use_bias=not use_norm)
    x = blocks.norm(x, f"{name}_bn") if use_norm else x
    return blocks.relu(x, f"{name}_relu")


def _residual(x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    y = _conv_norm_relu(x, filters, 3, f"{name}_conv1", stride=stride)
    y = blocks.conv(y, filters, 3, f"{name}_conv2", use_bias=False)
    y = blocks.norm(y, f"{name}_conv2_bn")
    if stride != 1:
        x = blocks.conv(x, filters, 1, f"{name}_shortcut", stride=stride)
    x = keras.layers.Add(name=f"{name}_add")([x, y])
    return blocks.relu(x, f"{name}_relu")


def _two_dense(x: Tensor, units: int, rate: float) -> Tensor:
    for name in ("fc1", "fc2"):
        x = blocks.dropout(_dense_relu(x, units, name), rate, f"{name}_dropout")
    return x


def _dense_relu(x: Tensor, units: int, name: str) -> Tensor:
    return blocks.relu(blocks.dense(x, units, name), f"{name}_relu")
