"""A model that knows one thing, orange means fire, and a clip of a fire that it knows."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import tiny_models

from edgecnn.bundle.file import Bundle


def write_model(path: Path) -> Bundle:
    """Write an int8 model of which the score rises with red minus blue."""
    from edgecnn.workstation.backend import keras, tf

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

    def pictures():  # type: ignore[no-untyped-def]
        for red in np.linspace(0, 255, 16):
            yield [np.broadcast_to(np.float32([red, 128, 255 - red]), (1, side, side, 3)).copy()]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_keras_model(network)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = pictures
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
        model = bytes(converter.convert())
    return tiny_models.write(path, model, labels=("no_fire", "fire"), kind="sigmoid", name="orange")


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
