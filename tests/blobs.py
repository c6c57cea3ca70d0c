"""A small network that learns something real in a second: blobs of three colours on noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

RECIPE = """
name = "blobs"
head = "colour"
calibration_count = 30

[input]
height_px = 16
width_px = 16

[model]
topology = "layers"

[[model.layers]]
kind = "conv"
filters = 8

[[model.layers]]
kind = "batch_norm"
activation = "relu6"

[[model.layers]]
kind = "max_pool"
kernel = 2

[[model.layers]]
kind = "conv"
filters = 16
activation = "relu"

[[model.layers]]
kind = "flatten"

[[model.layers]]
kind = "dropout"
rate = 0.3

[train]
epochs = 8
batch_size = 16
learning_rate = 5e-3

[augment]
flip = true
shift = 0.1
noise = 8
"""


def write_blobs(folder: Path, labels: Sequence[str] = ("blue", "green", "red"), per_class: int = 60) -> Path:
    """Write <split>/<label>/N.png."""
    rng = np.random.default_rng(3)
    for split, count in (("train", per_class), ("val", per_class // 3), ("test", per_class // 3)):
        for column, label in enumerate(labels):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(60, 180, (20, 20, 3), dtype=np.uint8)
                centre = tuple(int(x) for x in rng.integers(5, 15, 2))
                colour = [60, 60, 60]
                colour[column % 3] = int(rng.integers(150, 256))
                cv2.circle(pixels, centre, int(rng.integers(3, 6)), colour, -1)
                cv2.imwrite(str(folder / split / label / f"{number}.png"), pixels)
    return folder
