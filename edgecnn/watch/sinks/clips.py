"""Keeps a picture and a clip of every alarm, with the seconds before it."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from edgecnn.core.alarm import Event
from edgecnn.core.frame import Frame, Pixels
from edgecnn.core.prediction import Prediction
from edgecnn.errors import EdgecnnError
from edgecnn.watch.config import ClipConfig
from edgecnn.watch.memory import give_back
from edgecnn.watch.sinks.video import VideoWriter, load, open_video
from edgecnn.watch.status import Fault

FRAMES_PER_SECOND: Final = 10.0
"""Of a clip: flames are told from lamps, and it costs a third of the camera's rate."""

_LONGEST_SIDE_PX: Final = 1280
_QUALITY: Final = 85
_PART: Final = ".part"
_NEAR_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Shot:
    at_s: float
    jpeg: bytes


@dataclass(slots=True)
class _Recording:
    incident_id: str
    starts_at_s: float
    ends_at_s: float
    part: Path
    writer: VideoWriter
    last_at_s: float = field(default=float("-inf"))


class Ring:
    """The last seconds, as JPEGs, in memory of a fixed size.

    Args:
        seconds: How far back.
        limit_bytes: What they may take; the oldest go first.

    Example:
        >>> ring = Ring(seconds=2, limit_bytes=1000)
        >>> for second in range(5):
        ...     ring.append(float(second), bytes(300))
        >>> [at_s for at_s, _ in ring.since(0)]
        [2.0, 3.0, 4.0]
    """

    def __init__(self, seconds: float, limit_bytes: float) -> None:
        self._seconds, self._limit_bytes = seconds, limit_bytes
        self._shots: deque[_Shot] = deque()
        self.size_bytes = 0

    def append(self, at_s: float, jpeg: bytes) -> None:
        """Take a picture, and forget what is too old or too much."""
        if self._shots and at_s < self._shots[-1].at_s:  # a clip that starts again
            self._shots.clear()
            self.size_bytes = 0
        self._shots.append(_Shot(at_s, jpeg))
        self.size_bytes += len(jpeg)
        while self._shots and (
            self.size_bytes > self._limit_bytes or at_s - self._shots[0].at_s > self._seconds
        ):
            self.size_bytes -= len(self._shots.popleft().jpeg)

    def since(self, at_s: float) -> list[tuple[float, bytes]]:
        """Give the pictures from ``at_s`` on, oldest first."""
        return [(shot.at_s, shot.jpeg) for shot in self._shots if shot.at_s >= at_s]

    def nearest(self, at_s: float) -> tuple[float, bytes] | None:
        """Give the picture closest to a moment."""
        shot = min(self._shots, key=lambda shot: abs(shot.at_s - at_s), default=None)
        return None if shot is None else (shot.at_s, shot.jpeg)


class ClipSink:
    """Writes ``<incident>.jpg`` when an alarm starts and ``<incident>.mp4`` some seconds later.

    A thread of its own encodes: the loop only hands over a frame, and not every one.

    Args:
        config: How long, how much.
        folder: Where they lie; made if it is not there.
        order: Tells how old an incident is; the lowest goes first when the quota is reached.
    """

    def __init__(self, config: ClipConfig, folder: Path, order: Callable[[str], int]) -> None:
        self._config, self._folder, self._order = config, folder, order
        # A second more, because the alarm is told after the frame that raised it.
        self._ring = Ring(config.pre_roll_s + _NEAR_S + 1, config.ring_mb * 1e6)
        self._recordings: dict[str, _Recording] = {}
        self._lock = threading.RLock()
        self._queue: queue.Queue[Frame | None] = queue.Queue(2)
        self._taken_at_s = float("-inf")
        self._fault: Fault | None = None
        self._is_closed = False
        self._attempt(folder.mkdir, parents=True, exist_ok=True)
        self._attempt(self._keep_what_was_interrupted)
        self._thread = threading.Thread(target=self._run, name="clips", daemon=True)
        self._thread.start()

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Take a frame now and then."""
        at_s = frame.captured_at_s
        # Half a period of the camera early is closer than half a period late: 30 per second give 10.
        if self._taken_at_s <= at_s < self._taken_at_s + 1 / FRAMES_PER_SECOND - 0.005:
            return
        with contextlib.suppress(queue.Full):  # an encoder that is behind leaves frames out
            self._queue.put_nowait(frame)
            self._taken_at_s = at_s

    def on_event(self, event: Event) -> None:
        """Write the picture of an alarm that starts, and begin with its clip."""
        if event.kind != "started":
            return
        with self._lock:
            if event.incident_id in self._recordings or self.clip(event.incident_id) is not None:
                return
            nearest = self._ring.nearest(event.at_s)
            # After a restart the clock of the frames is another one; then there is nothing to show.
            if nearest is None or abs(nearest[0] - event.at_s) > _NEAR_S:
                return
            self._attempt(self._write_picture, event.incident_id, nearest[1])
            self._attempt(self._begin, event)

    def fault(self) -> Fault | None:
        """Say why nothing is kept; None when it is."""
        return self._fault

    def snapshot(self, incident_id: str) -> Path | None:
        """Find the picture of an incident."""
        return self._found(f"{incident_id}.jpg")

    def clip(self, incident_id: str) -> Path | None:
        """Find the clip of an incident; None before it is whole."""
        return self._found(f"{incident_id}.mp4")

    def close(self) -> None:
        """Finish the clips as far as they go; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=0.5)
        self._thread.join(1.0)
        with self._lock:
            for recording in list(self._recordings.values()):
                self._attempt(self._finish, recording)

    def _run(self) -> None:
        load()  # now, and not when the first alarm waits for it
        while (frame := self._queue.get()) is not None:
            jpeg = encode(frame.pixels_rgb)
            with self._lock:
                self._ring.append(frame.captured_at_s, jpeg)
                for recording in list(self._recordings.values()):
                    self._attempt(self._go_on, recording, frame.captured_at_s, jpeg)

    def _begin(self, event: Event) -> None:
        starts_at_s = event.at_s - self._config.pre_roll_s
        part = self._folder / f"{event.incident_id}{_PART}"
        recording = _Recording(
            event.incident_id,
            starts_at_s,
            event.at_s + self._config.post_roll_s,
            part,
            open_video(part, FRAMES_PER_SECOND),
        )
        self._recordings[event.incident_id] = recording
        for at_s, jpeg in self._ring.since(starts_at_s):
            self._go_on(recording, at_s, jpeg)

    def _go_on(self, recording: _Recording, at_s: float, jpeg: bytes) -> None:
        started_again = at_s < recording.last_at_s
        try:
            if at_s <= recording.ends_at_s and not started_again:
                if recording.last_at_s == float("-inf"):
                    recording.starts_at_s = at_s
                recording.writer.write(decode(jpeg), at_s - recording.starts_at_s)
                recording.last_at_s = at_s
                return
        except Exception:
            self._give_up(recording)
            raise
        self._finish(recording)

    def _finish(self, recording: _Recording) -> None:
        self._recordings.pop(recording.incident_id, None)
        try:
            recording.writer.close()
            recording.part.replace(self._folder / f"{recording.incident_id}.mp4")
        except Exception:
            self._give_up(recording)
            raise
        give_back()  # what the encoder held
        self._keep_quota()

    def _give_up(self, recording: _Recording) -> None:
        self._recordings.pop(recording.incident_id, None)
        with contextlib.suppress(Exception):
            recording.writer.close()
        with contextlib.suppress(OSError):
            recording.part.unlink(missing_ok=True)

    def _write_picture(self, incident_id: str, jpeg: bytes) -> None:
        part = self._folder / f"{incident_id}.jpg{_PART}"
        try:
            part.write_bytes(jpeg)
            part.replace(self._folder / f"{incident_id}.jpg")
        except OSError:
            part.unlink(missing_ok=True)
            raise
        self._keep_quota()

    def _attempt(self, act: Callable[..., None], *arguments: object, **options: object) -> None:
        """Keep what can be kept: an alarm must not wait for a disk that is full."""
        try:
            act(*arguments, **options)
        except Exception as error:
            said = error.message if isinstance(error, EdgecnnError) else str(error)
            since_utc_s = self._fault.since_utc_s if self._fault else time.time()
            detail = f"Pictures and clips cannot be kept ({said}). Free some space on their disk."
            self._fault = Fault("clips", since_utc_s, detail)
        else:
            self._fault = None

    def _keep_quota(self) -> None:
        # What is being written has a second dot in its name.
        kept = (f for f in self._folder.iterdir() if f.suffix in (".jpg", ".mp4") and "." not in f.stem)
        files = [(f, f.stat().st_size) for f in kept]
        excess = sum(size for _, size in files) - self._config.quota_mb * 1e6
        if excess <= 0:
            return
        for path, size in sorted(files, key=lambda pair: (self._order(pair[0].stem), pair[0].name)):
            path.unlink(missing_ok=True)
            excess -= size
            if excess <= 0:
                return

    def _keep_what_was_interrupted(self) -> None:
        """Give a clip that a killed program left behind its name: it plays as far as it goes."""
        for unplayable in self._folder.glob(f"*{_PART}.mp4"):
            unplayable.unlink()
        for part in self._folder.glob(f"*{_PART}"):
            if part.stem.endswith(".jpg") or not plays(part):
                part.unlink(missing_ok=True)
            else:
                part.replace(part.with_suffix(".mp4"))

    def _found(self, name: str) -> Path | None:
        path = self._folder / name
        return path if os.path.basename(name) == name and path.is_file() else None  # noqa: PTH119  a name from outside


def encode(pixels_rgb: Pixels) -> bytes:
    """Make the JPEG of a frame, at most 1280 pixels on its longer side."""
    height, width = pixels_rgb.shape[:2]
    share = _LONGEST_SIDE_PX / max(height, width)
    if share < 1:
        size = max(1, round(width * share)), max(1, round(height * share))
        pixels_rgb = np.asarray(cv2.resize(pixels_rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(pixels_rgb, cv2.COLOR_RGB2BGR), options)[1].tobytes())


def decode(jpeg: bytes) -> Pixels:
    """Undo ``encode``, but for what JPEG loses."""
    pixels = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def plays(path: Path) -> bool:
    """Say whether a file holds at least one picture."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return bool(capture.isOpened() and capture.read()[0])
    finally:
        capture.release()
