"""Chooses what opens a source, by how it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecnn.errors import RuntimeFault
from edgecnn.watch.config import SourceConfig, expanded
from edgecnn.watch.sources.address import is_stream, with_password

if TYPE_CHECKING:
    from edgecnn.watch.sources.live import WatchSource

_CAMERA: Final = re.compile(r"^(\d+|/dev/.+)$")
_REPLAY: Final = "replay:"
_MOST_NAMED: Final = 20
_PI_CAMERA: Final = re.compile(r"^picamera(?::(\d+))?$")


def open_source(config: SourceConfig, incidents: Path | None = None) -> WatchSource:
    """Make a source ready; the device or file itself is opened when frames are asked for.

    Args:
        config: Where the frames come from.
        incidents: Holds the clips of incidents, for those that are named by their id.

    Raises:
        RuntimeFault: If there is no such clip, folder or incident.
        RecipeError: If the password of a stream is not where the configuration says, or a path begins
            with the home of nobody.
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
    if config.uri.startswith(_REPLAY):
        return opencv.ClipSource(config, _clip(config.uri.removeprefix(_REPLAY), incidents))
    path = expanded(config.uri)
    if path.is_dir():
        from edgecnn.watch.sources.folder import FolderSource

        return FolderSource(config, path)
    if not path.is_file():
        raise RuntimeFault(
            f"There is no clip, folder or camera '{config.uri}'.",
            fix="Write picamera, /dev/video0, 0, the path of a clip or folder, or rtsp://... or http://...",
        )
    return opencv.ClipSource(config, path)


def _clip(name: str, incidents: Path | None) -> Path:
    """Find the clip of an incident, by its path or by the incident's id."""
    path = expanded(name)
    if path.is_file():
        return path
    # A clip that is still being written has a second dot in its name.
    clips = [clip for clip in incidents.glob("*.mp4") if "." not in clip.stem] if incidents else []
    for clip in clips:
        if clip.stem == name:
            return clip
    # Later ids sort later.
    known = sorted((clip.stem for clip in clips), reverse=True)
    raise RuntimeFault(
        f"There is no clip '{name}', and no incident of that id with one.",
        fix=f"Replay one of these, newest first: {', '.join(known[:_MOST_NAMED])}."
        if known
        else f"Give the path of a clip; {f'{incidents} holds none' if incidents else 'here is no journal'}.",
    )
