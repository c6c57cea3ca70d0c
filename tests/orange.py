"""A model that knows one thing, orange means fire, and a clip of a fire that it knows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tiny_models

from edgecnn.bundle.file import Bundle
from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head

CELL = 8
HEAT_INPUT = InputSpec(96, 128)


def write_model(path: Path) -> Bundle:
    """Write an int8 model of which the score rises with red minus blue."""
    from edgecnn.workstation.backend import keras

    layers = keras.layers
    side = tiny_models.SIDE
    network = keras.Sequential(
        [
            layers.Input((side, side, 3)),
            layers.Rescaling(1 / 128, offset=-1.0),
            layers.Conv2D(1, 4, strides=4, use_bias=False),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    network.layers[1].set_weights([np.broadcast_to(np.float32([1, 0, -1])[:, None], (4, 4, 3, 1)) / 16])
    network.layers[3].set_weights([np.float32([[8.0]]), np.float32([-5.0])])

    model = _converted(network, side, side)
    return tiny_models.write(path, model, labels=("no_fire", "fire"), kind="sigmoid", name="orange")


def write_heat_model(path: Path, input_spec: InputSpec = HEAT_INPUT) -> Bundle:
    """Write an int8 model that says of each cell of 8 x 8 pixels how far red is above blue there."""
    from edgecnn.workstation.backend import keras

    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input((input_spec.height_px, input_spec.width_px, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(1, CELL, strides=CELL, use_bias=False),
            layers.Conv2D(1, 1, activation="sigmoid"),
        ]
    )
    kernel = np.broadcast_to(np.float32([1, 0, -1])[:, None], (CELL, CELL, 3, 1)) / CELL**2
    network.layers[1].set_weights([kernel])
    network.layers[2].set_weights([np.full((1, 1, 1, 1), 24, np.float32), np.float32([-10.0])])
    model = _converted(network, input_spec.height_px, input_spec.width_px)
    head = Head("where", "heatmap", ("fire",))
    return tiny_models.write(path, model, heads=(head,), input=input_spec, name="heat")


def _converted(network: Any, height_px: int, width_px: int) -> bytes:
    from edgecnn.workstation.backend import tf

    def pictures():  # type: ignore[no-untyped-def]
        for red in np.linspace(0, 255, 16):
            yield [np.broadcast_to(np.float32([red, 128, 255 - red]), (1, height_px, width_px, 3)).copy()]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_keras_model(network)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = pictures
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
        return bytes(converter.convert())


def write_clip(path: Path, calm_s: float = 1.0, fire_s: float = 4.0, frames_per_second: float = 15.0) -> Path:
    """Write a clip: a rendered scene with the noise of a camera, of which then two thirds are orange."""
    from edgecnn.workstation.data.procedural import render_scene

    rng = np.random.default_rng(5)
    scene = render_scene(rng, False, 240, 320)[..., ::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), frames_per_second, (320, 240))
    for index in range(round((calm_s + fire_s) * frames_per_second)):
        pixels_bgr = np.clip(scene + rng.normal(0, 6, scene.shape), 0, 255).astype(np.uint8)
        if index >= calm_s * frames_per_second:
            pixels_bgr[80:] = np.uint8([10, 120, 245]) - rng.integers(0, 10, (160, 320, 3), np.uint8)
        writer.write(pixels_bgr)
    writer.release()
    return path
