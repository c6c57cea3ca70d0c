"""Pictures of a folder, in the order of their names."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from edgecnn.core.frame import Frame
from edgecnn.errors import RuntimeFault
from edgecnn.watch.config import SourceConfig

_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_FALLBACK_RATE: Final = 10.0


class FolderSource:
    """Plays the pictures of a folder as if they were a clip.

    Attributes:
        name: The path.
        is_live: No.
        is_realtime: As configured.
    """

    is_live = False

    def __init__(self, config: SourceConfig, path: Path) -> None:
        self.name = str(path)
        self.is_realtime = config.realtime
        self._path = path
        self._period_s = 1 / (config.frames_per_second or _FALLBACK_RATE)
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        """Read the pictures.

        Raises:
            RuntimeFault: If there is none, or if one cannot be read.
        """
        self._closed.clear()
        files = sorted(p for p in self._path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        if not files:
            raise RuntimeFault(
                f"The folder '{self._path}' holds no picture.",
                fix=f"Give files that end in one of {' '.join(_SUFFIXES)}.",
            )
        began_s = time.monotonic()
        for index, file in enumerate(files):
            pixels = (
                cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) if file.stat().st_size else None
            )
            if pixels is None:
                raise RuntimeFault(f"The picture '{file}' cannot be read.", fix="Remove or replace it.")
            at_s = index * self._period_s
            if self.is_realtime:
                at_s += began_s
                if self._closed.wait(max(0.0, at_s - time.monotonic())):
                    return
            elif self._closed.is_set():
                return
            yield Frame(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8), at_s, index, str(file))

    def close(self) -> None:
        """Stop before the next picture."""
        self._closed.set()
