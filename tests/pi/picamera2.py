"""Stands in for picamera2 on a machine without a ribbon cable: its names, its formats, a clip's pictures.

As on a Pi: "RGB888" is B, G, R in memory, rows are padded, a job gives a request, and time stamps are
of the clock since boot. Before the lens runs the clip that EDGECNN_TEST_CLIP names, again and again.

After EDGECNN_TEST_HANGS_AFTER_S seconds no request is completed any more, as with a cable that is loose.

Source: The Picamera2 Library, chapters 4 (camera configurations) and 6 (capturing images and requests).
"""

from __future__ import annotations

import os
import time
from concurrent.futures import Future
from typing import Any

import cv2
import numpy as np

_LOADED_S = time.monotonic()
_ROW_BYTES = 64  # libcamera pads rows to a multiple of this on a Pi 4


class Request:
    def __init__(self, buffer: np.ndarray, main: dict[str, Any], stamp_ns: int) -> None:
        self.config = {"main": main}
        self._buffer, self._stamp_ns = buffer, stamp_ns

    def make_buffer(self, name: str) -> np.ndarray:
        assert name == "main"
        return self._buffer

    def get_metadata(self) -> dict[str, Any]:
        return {"SensorTimestamp": self._stamp_ns, "ExposureTime": 9000}

    def release(self) -> None:
        self._buffer = np.zeros(0, np.uint8)


class Job:
    def __init__(self, request: Request | None) -> None:
        self._future: Future[Request] = Future()
        if request is not None:
            self._future.set_result(request)

    def get_result(self, timeout: float | None = None) -> Request:
        return self._future.result(timeout)


class Picamera2:
    def __init__(self, camera_num: int = 0) -> None:
        if camera_num != 0:
            raise IndexError("list index out of range")
        self._scene = Scene(os.environ["EDGECNN_TEST_CLIP"])
        self._due_s = time.monotonic()

    def create_video_configuration(
        self, main: dict[str, Any] | None = None, controls: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {
            "main": {"size": (1280, 720), "format": "XBGR8888"} | (main or {}),
            "controls": controls or {},
        }

    def configure(self, config: dict[str, Any]) -> None:
        main = dict(config["main"])
        assert main["format"] == "RGB888", "this stand-in plays the default only"
        main["stride"] = -(-main["size"][0] * 3 // _ROW_BYTES) * _ROW_BYTES
        self._main = main
        self._period_s = 1 / config["controls"].get("FrameRate", 30.0)

    def start(self) -> None:
        self._began_s = self._due_s = time.monotonic()

    def capture_request(self, wait: bool = True) -> Any:
        if time.monotonic() - _LOADED_S > float(os.environ.get("EDGECNN_TEST_HANGS_AFTER_S", "inf")):
            return Job(None)
        self._due_s = max(self._due_s + self._period_s, time.monotonic() - self._period_s)
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        width, height = self._main["size"]
        pixels_bgr = cv2.resize(self._scene.at(time.monotonic() - self._began_s), (width, height))
        rows = np.full((height, self._main["stride"]), 255, np.uint8)
        rows[:, : width * 3] = pixels_bgr.reshape(height, -1)
        request = Request(rows.ravel(), self._main, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        return request if wait else Job(request)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


class Scene:
    """A clip that is played again and again, one picture in memory: what the box itself takes is measured."""

    def __init__(self, path: str) -> None:
        self._path, self._capture = path, cv2.VideoCapture(path)
        self._frames_per_second = self._capture.get(cv2.CAP_PROP_FPS)
        self._count = 0

    def at(self, seconds: float) -> np.ndarray:
        while self._count <= seconds * self._frames_per_second:
            known, pixels_bgr = self._capture.read()
            if not known:
                self._capture.open(self._path)
                continue
            self._pixels_bgr = pixels_bgr
            self._count += 1
        return self._pixels_bgr
