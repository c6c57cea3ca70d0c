"""The Raspberry Pi's own camera, through picamera2: the one door to it."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import Frame, Pixels
from edgecnn.errors import MissingPackageError, RuntimeFault
from edgecnn.watch.config import SourceConfig

# libcamera names formats by their little-endian word: "RGB888" is B, G, R in memory.
_TO_RGB: Final[dict[str, int | None]] = {
    "RGB888": cv2.COLOR_BGR2RGB,
    "BGR888": None,
    "XRGB8888": cv2.COLOR_BGRA2RGB,
    "XBGR8888": cv2.COLOR_RGBA2RGB,
}


class PiCameraSource:
    """A camera on the ribbon cable.

    Attributes:
        name: ``picamera:0`` for the first.
        is_live: Yes.
        is_realtime: Yes.
    """

    is_live = True
    is_realtime = True

    def __init__(self, config: SourceConfig, number: int = 0) -> None:
        self.name = f"picamera:{number}"
        self._config = config
        self._number = number
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        """Start the camera and give frames, each with the moment at which the sensor began to read it.

        Raises:
            MissingPackageError: If picamera2 is not installed, or was built for another numpy.
            RuntimeFault: If there is no such camera, if others use it, or if it stops.
        """
        self._closed.clear()
        camera = self._open()
        try:
            index = 0
            while not self._closed.is_set():
                yield self._capture(camera, index)
                index += 1
        finally:
            with suppress(Exception):  # a camera that is gone cannot be stopped either
                camera.stop()
            with suppress(Exception):
                camera.close()

    def close(self) -> None:
        """Ask the reading thread to let go; it does after the frame that it waits for."""
        self._closed.set()

    def _open(self) -> Any:
        try:
            picamera2 = importlib.import_module("picamera2")
        except ImportError as error:
            raise MissingPackageError(
                f"picamera2 cannot be imported: {error}.",
                fix="Install it with 'sudo apt install python3-picamera2', and make the virtual environment "
                "with 'python3 -m venv --system-site-packages'.",
            ) from error
        except ValueError as error:  # "numpy.dtype size changed": what apt brings was built for numpy 1
            raise MissingPackageError(
                f"picamera2 is installed and cannot be imported: {error}.",
                fix="Bring its JPEG encoder up to this numpy: "
                "'pip install --force-reinstall --no-deps simplejpeg' in the virtual environment.",
            ) from error
        config = self._config
        main: dict[str, Any] = {"format": config.format}
        if config.width_px and config.height_px:
            main["size"] = (config.width_px, config.height_px)
        controls = {"FrameRate": config.frames_per_second} if config.frames_per_second else {}
        try:
            camera = picamera2.Picamera2(self._number)
        except (RuntimeError, IndexError, OSError) as error:
            raise RuntimeFault(
                f"The camera '{self.name}' cannot be opened: {error}.",
                fix="Look at the ribbon cable; 'rpicam-hello --list-cameras' shows what is there.",
            ) from error
        try:
            camera.configure(camera.create_video_configuration(main=main, controls=controls))
            camera.start()
        except (RuntimeError, ValueError, OSError) as error:
            with suppress(Exception):
                camera.close()
            raise RuntimeFault(
                f"The camera '{self.name}' refuses {config.width_px} x {config.height_px} {config.format}: "
                f"{error}.",
                fix="Choose a size that 'rpicam-hello --list-cameras' shows; nobody else may use the camera.",
            ) from error
        return camera

    def _capture(self, camera: Any, index: int) -> Frame:
        try:
            request = camera.capture_request(wait=False).get_result(timeout=self._config.stalled_after_s)
        except (NotInTime, TimeoutError, RuntimeError) as error:
            raise RuntimeFault(
                f"The camera '{self.name}' gives no more frames{f': {error}' if str(error) else ''}.",
                fix="Look at the ribbon cable; a cable that is loose shows in 'dmesg'.",
            ) from error
        try:
            layout = request.config["main"]
            pixels = rgb(request.make_buffer("main"), layout["size"], layout["stride"], layout["format"])
            at_s = _captured_at_s(request.get_metadata())
        finally:
            request.release()
        return Frame(pixels, at_s, index, self.name)


def rgb(buffer: NDArray[np.uint8], size: tuple[int, int], stride: int, name: str) -> Pixels:
    """Turn the bytes of a camera into a picture.

    Args:
        buffer: As it came; rows may be padded.
        size: Width and height.
        stride: Bytes from one row to the next.
        name: Of the format, in libcamera's words.

    Returns:
        Shape (height, width, 3), red first.

    Raises:
        RuntimeFault: If the camera gives a format that was not asked for.

    Example:
        >>> rgb(np.uint8([1, 2, 3, 0]), (1, 1), 4, "RGB888").tolist()
        [[[3, 2, 1]]]
    """
    if name not in _TO_RGB:
        raise RuntimeFault(
            f"The camera gives '{name}' pictures.", fix=f"Set source.format to one of {', '.join(_TO_RGB)}."
        )
    width, height = size
    channels = 4 if name.startswith("X") else 3
    rows = buffer[: height * stride].reshape(height, stride)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)
    conversion = _TO_RGB[name]
    if conversion is None:
        return np.ascontiguousarray(pixels)
    return np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def _captured_at_s(metadata: dict[str, Any]) -> float:
    """Move the sensor's time stamp, of the clock since boot, to the clock of everything else."""
    now_s = time.monotonic()
    stamp_ns = metadata.get("SensorTimestamp")
    if not stamp_ns:
        return now_s
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - float(stamp_ns) / 1e9
    return now_s - min(max(0.0, age_s), 1.0)
