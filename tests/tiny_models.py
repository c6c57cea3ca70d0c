"""Small model files, made by the real converter, for tests that need a file and no accuracy."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.bundle import file
from edgecnn.bundle.manifest import Manifest, Provenance
from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.runtime.interpreter import open_interpreter

LABELS = ("red", "green", "blue")
SIDE = 16


@functools.cache
def _network(neurons: int, activation: str) -> Any:
    from edgecnn.workstation.backend import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((SIDE, SIDE, 3)),
            layers.Rescaling(1 / 128, offset=-1.0),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(neurons, activation=activation),
        ]
    )


@functools.cache
def flat(precision: str = "int8", neurons: int = 3, activation: str = "softmax") -> bytes:
    """Convert a network of random weights: ``int8`` (uint8 in and out), ``signed`` or ``float32``."""
    from edgecnn.workstation.backend import tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_keras_model(_network(neurons, activation))
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = _calibration
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            kind = tf.int8 if precision == "signed" else tf.uint8
            converter.inference_input_type = converter.inference_output_type = kind
        return bytes(converter.convert())


def _calibration() -> Any:
    for _ in range(8):
        yield [pictures(1).astype(np.float32)]


def pictures(count: int, height_px: int = SIDE, width_px: int = SIDE) -> np.ndarray:
    """Noise, from 0 to 255, shape (count, height_px, width_px, 3)."""
    noise = np.random.default_rng(3).integers(0, 256, (count, height_px, width_px, 3), np.uint8)
    noise[:, 0, 0, 0], noise[:, 0, 0, 1] = 0, 255
    return noise


def manifest(labels: tuple[str, ...] = LABELS, kind: Any = "softmax", **changes: Any) -> Manifest:
    """Say of a tiny network what ``edgecnn convert`` says of a real one."""
    said: dict[str, Any] = {
        "name": "tiny",
        "precision": "int8",
        "input": InputSpec(SIDE, SIDE),
        "heads": (Head("colour", kind, labels),),
        "provenance": Provenance(parent_sha256="ab" * 32, tools={"tensorflow": "2.21.0"}),
        "description": "Tells colours apart.",
        "licence": "Apache-2.0",
    }
    return Manifest(**(said | changes))


def golden(model: bytes, count: int = 2) -> file.Golden:
    """Record what a model gives for noise."""
    interpreter = open_interpreter(model, threads=1)
    inputs = pictures(count, *interpreter.inputs[0].shape[1:3])
    dtype = interpreter.inputs[0].dtype
    rows = [interpreter.invoke(picture[None].astype(dtype)) for picture in inputs]
    return file.Golden(inputs, tuple(np.concatenate(column) for column in zip(*rows, strict=True)))


def write(path: Path, model: bytes | None = None, **changes: Any) -> file.Bundle:
    """Write a whole model file."""
    model = flat() if model is None else model
    return file.write(path, model, manifest(**changes), golden(model))
