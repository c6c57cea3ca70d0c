"""What a browser is shown of a frame: a JPEG, boxes around what is hot, a clip in parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.alarm import Box
from edgecnn.core.frame import Pixels
from edgecnn.core.zones import Window
from edgecnn.errors import RuntimeFault

WIDTH_PX: Final = 640
"""A phone's screen is no wider, and a JPEG of 640 x 480 takes 1 ms to make."""

_WHOLE: Final = Window()


def encode(pixels_rgb: Pixels, width_px: int) -> bytes:
    """Make a JPEG that is no wider than asked for."""
    height, width = pixels_rgb.shape[:2]
    if width > width_px:
        size = (width_px, max(1, round(height * width_px / width)))
        pixels_rgb = np.asarray(cv2.resize(pixels_rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    pixels_bgr = cv2.cvtColor(pixels_rgb, cv2.COLOR_RGB2BGR)
    done, jpeg = cv2.imencode(".jpg", pixels_bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not done:
        raise RuntimeFault("A picture could not be encoded.", fix="Install opencv-python-headless again.")
    return jpeg.tobytes()


def boxes(heat: NDArray[np.float32], threshold: float, window: Window = _WHOLE) -> list[Box]:
    """Draw a box around each group of cells that touch and reach the threshold.

    Args:
        heat: Shape (rows, columns), in [0, 1].
        threshold: From which a cell counts.
        window: Where the picture lies in the heatmap.

    Returns:
        Left, top, right and bottom of each, in [0, 1] of the picture; none for a group beside it.

    Example:
        >>> boxes(np.float32([[0, 0.9], [0, 0.8]]), 0.5)
        [(0.5, 0.0, 1.0, 1.0)]
    """
    rows, columns = heat.shape
    _, _, found, _ = cv2.connectedComponentsWithStats((heat >= threshold).astype(np.uint8))
    # The first group is the background.
    placed = [
        window.in_picture((left / columns, top / rows, (left + width) / columns, (top + height) / rows))
        for left, top, width, height, _ in found[1:].tolist()
    ]
    return [box for box in placed if box[0] < box[2] and box[1] < box[3]]


def parts(clip: Path) -> Iterator[bytes]:
    """Decode a clip into the parts of a multipart answer, as fast as it was recorded."""
    capture = cv2.VideoCapture(str(clip))
    try:
        every_s = 1 / min(max(capture.get(cv2.CAP_PROP_FPS) or 10.0, 1.0), 60.0)
        due_s = time.monotonic()
        while True:
            is_read, pixels_bgr = capture.read()
            if not is_read:
                return
            jpeg = encode(np.asarray(pixels_bgr[..., ::-1], np.uint8), WIDTH_PX)
            size = str(len(jpeg)).encode()
            # The boundary comes after the picture too: a browser shows a part when the next begins.
            yield b"--frame\r\ncontent-type: image/jpeg\r\ncontent-length: " + size + b"\r\n\r\n"
            yield jpeg + b"\r\n"
            due_s += every_s
            time.sleep(max(0.0, due_s - time.monotonic()))
    finally:
        capture.release()
