"""Cameras, streams and clips through OpenCV."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from edgecnn.core.frame import Frame, Pixels
from edgecnn.errors import RuntimeFault
from edgecnn.watch.config import SourceConfig
from edgecnn.watch.sources.address import without_password

_FALLBACK_RATE: Final = 10.0
"""Frames a second of a clip that does not say it."""


class _Capture:
    """One opened ``cv2.VideoCapture`` at a time, let go of where it is read."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def close(self) -> None:
        """Ask the reading thread to let go; it does after the frame that it waits for."""
        # Releasing a capture that another thread reads from crashes inside OpenCV.
        self._closed.set()

    def _frames(self, capture: cv2.VideoCapture, name: str) -> Iterator[tuple[int, Pixels]]:
        """Read until the end, until closed, or until the caller stops asking."""
        self._closed.clear()
        index = 0
        try:
            while not self._closed.is_set():
                is_read, pixels = capture.read()
                if not is_read or pixels is None:
                    return
                yield index, _rgb(pixels, name)
                index += 1
        finally:
            capture.release()


class CameraSource(_Capture):
    """A USB or other Video4Linux camera, by number or by path.

    Attributes:
        name: As the user wrote it.
        is_live: Yes.
        is_realtime: Yes.
    """

    is_live = True
    is_realtime = True

    def __init__(self, config: SourceConfig) -> None:
        super().__init__()
        self.name = config.uri
        self._config = config

    def __iter__(self) -> Iterator[Frame]:
        """Open the camera and give frames.

        Raises:
            RuntimeFault: If it cannot be opened, or gives no more frames.
        """
        # How long OpenCV waits for a frame of a camera that has stopped; read once by the library.
        wait_s = max(1, round(self._config.stalled_after_s))
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(wait_s))
        uri = self.name
        with _quiet():
            capture = cv2.VideoCapture(int(uri) if uri.isdigit() else uri, cv2.CAP_V4L2)
        if not capture.isOpened():
            raise RuntimeFault(
                f"The camera '{uri}' cannot be opened.",
                fix="Look whether it is plugged in and nobody else uses it: v4l2-ctl --list-devices.",
            )
        self._ask(capture)
        for index, pixels in self._frames(capture, uri):
            yield Frame(pixels, time.monotonic(), index, uri)
        if not self._closed.is_set():
            raise RuntimeFault(f"The camera '{uri}' gives no more frames.", fix="Look at its plug and power.")

    def _ask(self, capture: cv2.VideoCapture) -> None:
        """Ask for size and rate; a camera that cannot gives the nearest, which every model can resize."""
        # Most USB cameras reach their full rate at 640 x 480 and above only with JPEG.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, self._config.width_px),
            (cv2.CAP_PROP_FRAME_HEIGHT, self._config.height_px),
            (cv2.CAP_PROP_FPS, self._config.frames_per_second),
        ):
            if value:
                capture.set(key, value)


class StreamSource(_Capture):
    """A network camera: RTSP, HTTP MJPEG, or what else FFmpeg understands.

    Attributes:
        name: The address without user and password.
        is_live: Yes.
        is_realtime: Yes.
    """

    is_live = True
    is_realtime = True

    def __init__(self, config: SourceConfig, uri: str) -> None:
        super().__init__()
        self.name = without_password(config.uri)
        self._uri = uri
        wait_ms = round(config.stalled_after_s * 1000)
        self._settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait_ms]
        # Several threads decode several frames at once, and each of them waits for the next.
        if threads := getattr(cv2, "CAP_PROP_N_THREADS", None):  # Debian's OpenCV 4.6 has none
            self._settings += [threads, 1]

    def __iter__(self) -> Iterator[Frame]:
        """Open the stream and give frames.

        Raises:
            RuntimeFault: If it cannot be opened, or gives no more frames.
        """
        # FFmpeg's own options (OPENCV_FFMPEG_CAPTURE_OPTIONS) hold for the whole process: "nobuffer" for a
        # stream takes the first frame of every clip that is opened later. RTSP goes over TCP without them.
        with _quiet():
            capture = cv2.VideoCapture(self._uri, cv2.CAP_FFMPEG, self._settings)
        if not capture.isOpened():
            raise RuntimeFault(
                f"The stream '{self.name}' cannot be opened.",
                fix="Look at its address, user and password, and whether this machine reaches it.",
            )
        for index, pixels in self._frames(capture, self.name):
            yield Frame(pixels, time.monotonic(), index, self.name)
        if not self._closed.is_set():
            raise RuntimeFault(
                f"The stream '{self.name}' gives no more frames.", fix="Look at the camera and the network."
            )


class ClipSource(_Capture):
    """A video file, played as it was recorded, or as fast as each frame has been looked at.

    Attributes:
        name: The path.
        is_live: No.
        is_realtime: As configured.
    """

    is_live = False

    def __init__(self, config: SourceConfig, path: Path) -> None:
        super().__init__()
        self.name = str(path)
        self.is_realtime = config.realtime
        self._path = path

    def __iter__(self) -> Iterator[Frame]:
        """Open the clip and give its frames.

        Frames played in real time carry the clock that never runs backwards, others the clip's own.

        Raises:
            RuntimeFault: If no frame of it can be decoded.
        """
        with _quiet():
            capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        rate = capture.get(cv2.CAP_PROP_FPS) if capture.isOpened() else 0.0
        period_s = 1 / (rate if 0 < rate < 1000 else _FALLBACK_RATE)
        began_s = time.monotonic()
        index, clip_s = -1, -period_s
        for index, pixels in self._frames(capture, self.name):
            # Once a frame is read, this is that frame's time; some files tell none.
            told_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            clip_s = told_s if told_s > clip_s else clip_s + period_s
            at_s = clip_s
            if self.is_realtime:
                at_s += began_s
                if self._closed.wait(max(0.0, at_s - time.monotonic())):
                    return
            yield Frame(pixels, at_s, index, self.name)
        if index < 0 and not self._closed.is_set():
            raise RuntimeFault(
                f"No frame of '{self._path}' can be decoded.", fix="Check that it is a whole video file."
            )


class _quiet:  # noqa: N801  it reads as a statement
    """Keeps OpenCV from printing a warning each time that it finds nothing to open."""

    def __enter__(self) -> None:
        self._logging = getattr(cv2.utils, "logging", None)  # Debian's OpenCV 4.6 has none
        if self._logging:
            self._level = self._logging.getLogLevel()
            self._logging.setLogLevel(self._logging.LOG_LEVEL_SILENT)

    def __exit__(self, *_: object) -> None:
        if self._logging:
            self._logging.setLogLevel(self._level)


def _rgb(pixels: cv2.typing.MatLike, name: str) -> Pixels:
    if pixels.ndim == 2:  # infrared cameras give grey
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise RuntimeFault(
            f"'{name}' gives frames of shape {pixels.shape} and type {pixels.dtype}, not colour pictures.",
            fix="Choose another format in the camera's settings.",
        )
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
