"""Chooses what opens a source, by how it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecnn.errors import RuntimeFault
from edgecnn.watch.config import SourceConfig
from edgecnn.watch.sources.address import is_stream, with_password

if TYPE_CHECKING:
    from edgecnn.watch.sources.live import WatchSource

_CAMERA: Final = re.compile(r"^(\d+|/dev/.+)$")
_PI_CAMERA: Final = re.compile(r"^picamera(?::(\d+))?$")


def open_source(config: SourceConfig, folder: Path = Path()) -> WatchSource:
    """Make a source ready; the device or file itself is opened when frames are asked for.

    Args:
        config: Where the frames come from.
        folder: From where the path of a clip or folder counts.

    Raises:
        RuntimeFault: If there is no such clip or folder.
        RecipeError: If the password of a stream is not where the configuration says.
    """
    # Imported here: a camera box needs no picamera2 for a USB camera, nor OpenCV's video for a folder.
    if found := _PI_CAMERA.match(config.uri):
        from edgecnn.watch.sources.picamera import PiCameraSource

        return PiCameraSource(config, int(found[1] or 0))
    from edgecnn.watch.sources import opencv

    if is_stream(config.uri):
        return opencv.StreamSource(config, with_password(config))
    if _CAMERA.match(config.uri):
        return opencv.CameraSource(config)
    path = folder / Path(config.uri.removeprefix("replay:")).expanduser()
    if path.is_dir():
        from edgecnn.watch.sources.folder import FolderSource

        return FolderSource(config, path)
    if not path.is_file():
        raise RuntimeFault(
            f"There is no clip, folder or camera '{config.uri}'.",
            fix="Write picamera, /dev/video0, 0, the path of a clip or folder, or rtsp://... or http://...",
        )
    return opencv.ClipSource(config, path)
