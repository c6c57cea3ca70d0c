"""The pieces that every network is put together from: plain layers, each with a name of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgecnn.errors import ModelError
from edgecnn.workstation.backend import keras, tf

Tensor = Any
"""A symbolic tensor of Keras, batch first; a feature map is (batch, rows, columns, channels)."""

Padding = Literal["same", "valid"]

TOP_DOWN = "top_down_"
"""What the names of the layers start with that join feature maps for a heatmap."""

TOP_DOWN_CHANNELS = 16
"""24 cost 3.0 % of the time of the network in place of 1.9 %, and on val are as good, within chance."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """A network without its answers.

    Attributes:
        flat: What a classifying head reads, shape (batch, features).
        feature_map: What a heatmap head reads, shape (batch, rows, columns, channels). Of a MobileNet it is
            the last before the picture shrinks to a thirty-second: each cell of the one behind it sees
            nearly the whole picture.
        pyramid: What ``top_down`` joins for a heatmap head, the finest first, each of half the rows and
            columns of the one before it, rounded up, at least three; none of a network that it is not meant
            for.
    """

    flat: Tensor
    feature_map: Tensor
    pyramid: tuple[Tensor, ...] = ()


def scaled(filters: int, width: float) -> int:
    """Multiply a number of channels; at least one stays.

    Source:
        A. G. Howard et al., "MobileNets", arXiv 1704.04861, section 3.3; plain truncation as in its code.

    Example:
        >>> scaled(32, 0.35), scaled(1, 0.1)
        (11, 1)
    """
    return max(1, int(filters * width))


def divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, never down by more than a tenth.

    Source:
        ``make_divisible`` of the MobileNetV2 code: M. Sandler et al., arXiv 1801.04381.

    Example:
        >>> divisible(32 * 0.35), divisible(24 * 0.5), divisible(3)
        (16, 16, 8)
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def conv(
    x: Tensor,
    filters: int,
    kernel: int,
    name: str,
    *,
    stride: int = 1,
    padding: Padding = "same",
    use_bias: bool = True,
) -> Tensor:
    """Add a convolution.

    Raises:
        ModelError: If the window does not fit into the feature map.
    """
    refuse_misfit(x, kernel, padding, name)
    # He et al., arXiv 1502.01852: keeps the variance of the signal through layers of ReLU.
    layer = keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=name,
    )
    return layer(x)


def depthwise(
    x: Tensor,
    kernel: int,
    name: str,
    *,
    stride: int = 1,
    padding: Padding = "same",
    use_bias: bool = True,
) -> Tensor:
    """Add a convolution of each channel by itself.

    Raises:
        ModelError: If the window does not fit into the feature map.
    """
    refuse_misfit(x, kernel, padding, name)
    # Keras's own He initializer counts all channels as inputs of each; here a pixel has kernel**2.
    initializer = keras.initializers.RandomNormal(stddev=math.sqrt(2) / kernel)
    layer = keras.layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding=padding,
        use_bias=use_bias,
        depthwise_initializer=initializer,
        name=name,
    )
    return layer(x)


def pool(
    x: Tensor,
    kind: Literal["max", "average"],
    kernel: int,
    stride: int,
    name: str,
    padding: Padding = "valid",
) -> Tensor:
    """Add a max or average pool.

    Raises:
        ModelError: If the window does not fit into the feature map.
    """
    refuse_misfit(x, kernel, padding, name)
    layer = keras.layers.MaxPooling2D if kind == "max" else keras.layers.AveragePooling2D
    return layer(kernel, strides=stride, padding=padding, name=name)(x)


def dense(x: Tensor, units: int, name: str, *, use_bias: bool = True) -> Tensor:
    """Add a dense layer."""
    return keras.layers.Dense(units, use_bias=use_bias, kernel_initializer="he_normal", name=name)(x)


def norm(x: Tensor, name: str) -> Tensor:
    """Add batch normalization, which conversion folds into the layer before it."""
    return keras.layers.BatchNormalization(name=name)(x)


def relu(x: Tensor, name: str, limit: float | None = None) -> Tensor:
    """Add a ReLU, a layer of its own so that quantization finds the pattern conv, norm, ReLU."""
    return keras.layers.ReLU(limit, name=name)(x)


def flatten(x: Tensor, name: str = "flatten") -> Tensor:
    """Add a layer that turns a feature map into one row."""
    return keras.layers.Flatten(name=name)(x)


def average(x: Tensor, name: str = "average") -> Tensor:
    """Add the mean over rows and columns: one number per channel, at any input size."""
    return keras.layers.GlobalAveragePooling2D(name=name)(x)


def dropout(x: Tensor, rate: float, name: str = "dropout") -> Tensor:
    """Add dropout, unless nothing is to be dropped."""
    return keras.layers.Dropout(rate, name=name)(x) if rate else x


def top_down(pyramid: Sequence[Tensor]) -> Tensor:
    """Join feature maps into one as fine as the second, of ``TOP_DOWN_CHANNELS``.

    The coarse maps know what they see, the fine ones where. On the frozen trunk of ``sentinel`` the peak of a
    heatmap that reads four lies in a box in 3 to 6 of 8 training frames of an aerial video, whose flames are
    2 to 3 of the 160 pixels, by the loss; that of one that reads all but the finest, in none to 2. Without
    the coarsest it finds less smoke. Bilinear: nearest was no better, and XNNPACK leaves it to a slower
    kernel.

    Args:
        pyramid: The finest first, each of half the rows and columns of the one before it, rounded up.

    Source:
        T. Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 3; narrower, and
        ReLU6 in the place of the 3 x 3 convolution.
    """
    finest, *finer, coarsest = (
        conv(x, TOP_DOWN_CHANNELS, 1, f"{TOP_DOWN}{level}") for level, x in enumerate(pyramid, 1)
    )
    # The largest of four, not their mean: a flame far away is one of them.
    finest = keras.layers.MaxPooling2D(padding="same", name=f"{TOP_DOWN}1_largest")(finest)
    finer[0] = keras.layers.Add(name=f"{TOP_DOWN}1_add")([finest, finer[0]])
    x = coarsest
    for level, fine in reversed(list(enumerate(finer, 2))):
        x = keras.layers.UpSampling2D(interpolation="bilinear", name=f"{TOP_DOWN}{level}_larger")(x)
        surplus = [large - small for large, small in zip(x.shape[1:3], fine.shape[1:3], strict=True)]
        if any(surplus):  # a side that was odd was halved to the larger half
            x = keras.layers.Cropping2D([(0, more) for more in surplus], name=f"{TOP_DOWN}{level}_cropped")(x)
        x = keras.layers.Add(name=f"{TOP_DOWN}{level}_add")([fine, x])
        x = relu(x, f"{TOP_DOWN}{level}_relu", limit=6.0)
    return x


def refuse_misfit(x: Tensor, kernel: int, padding: Padding, name: str) -> None:
    """Raise ``ModelError`` if a window without padding is larger than the feature map."""
    height, width = x.shape[1:3]
    if padding == "valid" and kernel > min(height, width):
        raise ModelError(
            f"Layer '{name}' slides a {kernel} x {kernel} window over a feature map of only "
            f"{height} x {width}, without padding.",
            fix=f"Enlarge the input, or give '{name}' a smaller kernel or padding = \"same\", "
            "or shrink the picture less in the layers before it.",
        )


@keras.saving.register_keras_serializable(package="edgecnn")
class LocalResponseNormalization(keras.layers.Layer):  # type: ignore[misc]  # Keras comes without types
    """Divide each value by a power of the squares of its neighbours across channels.

    ``b[i] = a[i] / (k + alpha * sum(a[j] ** 2 for |j - i| <= radius)) ** beta``

    Source:
        A. Krizhevsky, I. Sutskever, G. Hinton, NIPS 2012, section 3.3: k = 2, n = 5, alpha = 1e-4,
        beta = 0.75; a radius of 2 is n = 5.
    """

    def __init__(
        self, radius: int = 2, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, **options: Any
    ) -> None:
        super().__init__(**options)
        self.radius, self.k, self.alpha, self.beta = radius, k, alpha, beta

    def call(self, inputs: Tensor) -> Tensor:
        """Normalise a feature map; the shape stays."""
        return tf.nn.local_response_normalization(
            inputs, depth_radius=self.radius, bias=self.k, alpha=self.alpha, beta=self.beta
        )

    def get_config(self) -> dict[str, Any]:
        """Give what is needed to build the layer again."""
        own = {"radius": self.radius, "k": self.k, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **own}
