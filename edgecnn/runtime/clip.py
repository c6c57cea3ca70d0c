"""Frames of a video file, with the times at which it shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edgecnn.core.frame import Frame
from edgecnn.errors import DataError


def frames(path: Path) -> Iterator[Frame]:
    """Decode a video, as fast as it is asked for.

    Args:
        path: Of whatever the FFmpeg in OpenCV decodes.

    Yields:
        Every frame; times are those of the file.

    Raises:
        DataError: If no frame of it can be decoded.
    """
    capture = cv2.VideoCapture(str(path))
    index = 0
    try:
        while True:
            is_read, pixels = capture.read()
            if not is_read:
                break
            # Once a frame is read, this is that frame's time; before, it is still the last one's.
            at_s = max(0.0, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            yield Frame(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8), at_s, index, str(path))
            index += 1
    finally:
        capture.release()
    if index == 0:
        raise DataError(f"No frame of '{path}' can be decoded.", fix="Check that it is a whole video file.")
