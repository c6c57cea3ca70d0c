"""Small trained networks, each with one fault planted that plain int8 cannot bear.

Each fault leaves the float network as it was, to the last few bits: some channels are multiplied and the
next layer divides, or a channel is added that nothing reads. What int8 then loses, it loses there.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 16
LABELS = ("across", "down", "rising", "falling")
_CYCLES = ((2, 0), (0, 2), (2, 2), (2, -2))


@dataclass(frozen=True, slots=True)
class Planted:
    """A trained network with a fault.

    Attributes:
        model: A tf_keras model from bytes to scores; its first layer normalises.
        train: Pictures, shape (count, SIDE, SIDE, 3), uint8, and their labels, shape (count,): they
            calibrate and train.
        val: Likewise: they choose.
        test: Likewise: they are reported.
        layer: Name of the Keras layer with the fault; empty where there is none.
    """

    model: Any
    train: tuple[NDArray[np.uint8], NDArray[np.int64]]
    val: tuple[NDArray[np.uint8], NDArray[np.int64]]
    test: tuple[NDArray[np.uint8], NDArray[np.int64]]
    layer: str

    def save(self, path: Path) -> Path:
        """Write the model as ``.h5``; ``workstation.subject.read_subject(path, LABELS)`` reads it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # .h5 is called legacy
            self.model.save(path)
        return path


def stripes(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw faint stripes in four directions under noise, each picture with one white speck."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(LABELS), count)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    cycles = np.array(_CYCLES)[labels]
    phases = rng.uniform(0, 2 * np.pi, count)[:, None, None]
    waves = np.sin(2 * np.pi * (cycles[:, :1, None] * rows + cycles[:, 1:, None] * columns) + phases)
    tints = rng.uniform(0.5, 1, (count, 1, 1, 3))
    pictures = 110 + 24 * waves[..., None] * tints + rng.normal(0, 25, (count, SIDE, SIDE, 3))
    codes = np.clip(pictures, 0, 200).astype(np.uint8)
    codes[:, 0, 0] = 0
    specks = rng.integers(2, SIDE - 2, (2, count))
    codes[np.arange(count), specks[0], specks[1]] = 255
    return codes, labels


@functools.cache
def sound() -> Planted:
    """Plant nothing: the network that the others were."""
    return _planted(_chain(), "", lambda _model: None)


@functools.cache
def outlier_channels() -> Planted:
    """Multiply 4 of 16 channels of a convolution by 400, and divide them in the next layer."""
    return _planted(_chain(), "first", _outliers)


@functools.cache
def dead_concat() -> Planted:
    """Make one branch of a concatenation 400 times as small as the other; the next layer makes up for it."""
    return _planted(_branches(), "tiny", _tiny_branch)


@functools.cache
def saturated_output() -> Planted:
    """Let one channel, which nothing reads, answer a white speck with values that set the scale of all."""
    model = _chain()
    _silence(model)
    return _planted(model, "first", _speck)


def _planted(model: Any, layer: str, spoil: Any) -> Planted:
    splits = [stripes(count, seed) for seed, count in enumerate((1200, 400, 800))]
    pictures, labels = splits[0]
    model.fit(pictures.astype(np.float32), labels, 64, epochs=6, verbose=0)
    spoil(model)
    return Planted(model, *splits, layer)


def _chain() -> Any:
    keras, layers, picture, x = _head()
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu", name="second")(x)
    return _tail(keras, picture, x)


def _branches() -> Any:
    keras, layers, picture, x = _head()
    one = layers.Conv2D(12, 3, padding="same", activation="relu", name="tiny")(x)
    other = layers.Conv2D(4, 1, padding="same", activation="relu", name="huge")(x)
    x = layers.Concatenate(name="joined")([one, other])
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu", name="second")(x)
    return _tail(keras, picture, x)


def _head() -> tuple[Any, Any, Any, Any]:
    from edgecnn.workstation.backend import keras

    keras.utils.set_random_seed(1)
    picture = keras.Input((SIDE, SIDE, 3), name="picture")
    x = keras.layers.Rescaling(1 / 128, offset=-1.0, name="normalise")(picture)
    return keras, keras.layers, picture, x


def _tail(keras: Any, picture: Any, x: Any) -> Any:
    layers = keras.layers
    x = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu", name="third")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    scores = layers.Dense(len(LABELS), activation="softmax", name="scores")(x)
    model = keras.Model(picture, scores, name="planted")
    model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _outliers(model: Any) -> None:
    _multiply(model, "first", slice(0, 4), 400.0)
    _divide_depthwise(model, slice(0, 4), 400.0)


def _tiny_branch(model: Any) -> None:
    _multiply(model, "tiny", slice(None), 1 / 400)
    _divide_depthwise(model, slice(0, 12), 1 / 400)


def _silence(model: Any) -> None:
    """Take a channel out of the training: a ReLU that is never above 0 learns nothing."""
    first = model.get_layer("first")
    kernel, bias = first.get_weights()
    kernel[..., 0], bias[0] = 0, -1
    first.set_weights([kernel, bias])


def _speck(model: Any) -> None:
    """Only a white pixel reaches above the threshold of the channel: 255 against 200 at most."""
    first, second = model.get_layer("first"), model.get_layer("second")
    kernel, bias = first.get_weights()
    bias[0], kernel[1, 1, :, 0] = -5000.0 * 3 * 0.9, 5000.0
    first.set_weights([kernel, bias])
    kernel, bias = second.get_weights()
    kernel[:, :, 0] = 0
    second.set_weights([kernel, bias])


def _multiply(model: Any, name: str, channels: slice, factor: float) -> None:
    layer = model.get_layer(name)
    kernel, bias = layer.get_weights()
    kernel[..., channels] *= factor
    bias[channels] *= factor
    layer.set_weights([kernel, bias])


def _divide_depthwise(model: Any, channels: slice, factor: float) -> None:
    layer = model.get_layer("second")
    kernel, bias = layer.get_weights()
    kernel[:, :, channels] /= factor
    layer.set_weights([kernel, bias])
