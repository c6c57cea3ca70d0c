"""Pictures, the input that a model expects, and the one resize that leads from one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Height x width x 3 bytes, red, green, blue."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture with the moment at which it was taken.

    Attributes:
        pixels_rgb: Shape (height, width, 3), uint8, red first.
        captured_at_s: Seconds on a monotonic clock, or from the start of a file.
        index: Position in the source, counted from 0, frames that were dropped included.
        source_id: Which camera or file, as the user named it.
    """

    pixels_rgb: Pixels
    captured_at_s: float
    index: int = 0
    source_id: str = ""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model eats.

    Attributes:
        height_px: Height of the input, at least 1.
        width_px: Width of the input, at least 1.
        channels: 3 for RGB, 1 for luma.
        resize: ``stretch`` fills the input and ignores the aspect ratio, so that nothing at the
            border of a wide camera picture is lost; ``letterbox`` keeps the aspect ratio and pads
            with black.
    """

    height_px: int
    width_px: int
    channels: Literal[1, 3] = 3
    resize: Literal["stretch", "letterbox"] = "stretch"

    def __str__(self) -> str:
        """Name the size as people write it.

        Example:
            >>> str(InputSpec(96, 128))
            '96 x 128 RGB'
        """
        return f"{self.height_px} x {self.width_px} {'RGB' if self.channels == 3 else 'grey'}"


def resize(pixels_rgb: Pixels, spec: InputSpec) -> Pixels:
    """Turn any picture into the bytes that the network sees.

    Training, calibration, evaluation and the device all call this function, so that a model never
    meets pixels that were made in another way than those it learned from.

    Args:
        pixels_rgb: Shape (height, width, 3), uint8, any size.
        spec: The input of the model.

    Returns:
        Shape (height_px, width_px, channels), uint8, contiguous.

    Source:
        Averaging over the source area when shrinking, else bilinear: OpenCV, ``cv2.resize``,
        "to shrink an image, it will generally look best with INTER_AREA". Luma weights: Rec. 601.

    Example:
        >>> resize(np.full((4, 6, 3), 9, np.uint8), InputSpec(2, 2, channels=1)).ravel().tolist()
        [9, 9, 9, 9]
    """
    pixels = _luma(pixels_rgb) if spec.channels == 1 else pixels_rgb
    fit = _letterbox if spec.resize == "letterbox" else _scale
    fitted = fit(pixels, spec.height_px, spec.width_px)
    return np.ascontiguousarray(fitted.reshape(spec.height_px, spec.width_px, spec.channels))


def _luma(pixels_rgb: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels_rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def _scale(pixels: Pixels, height_px: int, width_px: int) -> Pixels:
    height, width = pixels.shape[:2]
    if (height, width) == (height_px, width_px):
        return pixels
    shrinks = height_px <= height and width_px <= width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width_px, height_px), interpolation=method), np.uint8)


def _letterbox(pixels: Pixels, height_px: int, width_px: int) -> Pixels:
    height, width = pixels.shape[:2]
    ratio = min(height_px / height, width_px / width)
    inner_height = max(1, round(height * ratio))
    inner_width = max(1, round(width * ratio))
    canvas: Pixels = np.zeros((height_px, width_px, *pixels.shape[2:]), np.uint8)
    top, left = (height_px - inner_height) // 2, (width_px - inner_width) // 2
    canvas[top : top + inner_height, left : left + inner_width] = _scale(pixels, inner_height, inner_width)
    return canvas
