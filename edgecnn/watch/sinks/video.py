"""Writes an MP4 that can be played up to its last whole second, even if the program is killed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Protocol

import cv2

from edgecnn.core.frame import Pixels
from edgecnn.errors import RuntimeFault

_MILLISECONDS: Final = Fraction(1, 1000)


class VideoWriter(Protocol):
    """Takes pictures with their moments."""

    def write(self, pixels_rgb: Pixels, at_s: float) -> None:
        """Append one picture; ``at_s`` counts from the start of the clip and rises."""

    def close(self) -> None:
        """Finish the file."""


def open_video(path: Path, frames_per_second: float) -> VideoWriter:
    """Open a writer: H.264 where PyAV is installed, which every browser plays, else MPEG-4 part 2.

    Args:
        path: Of the file; its ending does not matter.
        frames_per_second: About how many pictures come.

    Raises:
        OSError: If the file cannot be written.
    """
    av = load()
    if av is None:
        return _OpenCvWriter(path, frames_per_second)
    return _H264Writer(av, path, frames_per_second)


def load() -> Any:
    """Import PyAV, which takes a while; None where it is not installed.

    32-bit Pi OS has no wheel of it; there apt's ``python3-av`` comes with picamera2.
    """
    try:
        import av
    except ImportError:
        return None
    return av


class _H264Writer:
    """Fragments of a second each, so that what was written stays playable.

    Source:
        FFmpeg, "mov, mp4, ismv": ``movflags`` ``frag_keyframe+empty_moov+default_base_moof``.
    """

    def __init__(self, av: Any, path: Path, frames_per_second: float) -> None:
        self._av, self._path = av, path
        self._rate = max(1, round(frames_per_second))
        flags = "frag_keyframe+empty_moov+default_base_moof"
        self._file: Any = av.open(
            str(path), "w", format="mp4", options={"movflags": flags, "flush_packets": "1"}
        )
        self._stream: Any = None
        self._last = -1

    def write(self, pixels_rgb: Pixels, at_s: float) -> None:
        stream = self._stream or self._start(pixels_rgb)
        even = pixels_rgb[: stream.height, : stream.width]  # 4:2:0 has half the colour resolution
        # Half the bytes of RGB, and no scaler: an encoder at work takes 2 to 4 MB less.
        planes = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420)
        picture = self._av.VideoFrame.from_ndarray(planes, format="yuv420p")
        self._last = picture.pts = max(self._last + 1, round(at_s * 1000))
        picture.time_base = _MILLISECONDS
        self._file.mux(stream.encode(picture))

    def close(self) -> None:
        # Let go of both: the encoder's 10 MB live as long as anyone knows the stream or its file.
        stream, file, self._stream, self._file = self._stream, self._file, None, None
        if file is None:
            return
        try:
            if stream is not None:
                file.mux(stream.encode(None))
        finally:
            file.close()

    def _start(self, pixels_rgb: Pixels) -> Any:
        height, width = pixels_rgb.shape[:2]
        # zerolatency: no picture waits inside the encoder, where a killed program would lose it.
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": "26"}
        stream = self._file.add_stream("libx264", rate=self._rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width - width % 2, height - height % 2, "yuv420p"
        stream.codec_context.time_base = stream.time_base = _MILLISECONDS
        stream.codec_context.gop_size = self._rate
        stream.codec_context.thread_count = 1  # the other cores look for fire
        self._stream = stream
        return stream


class _OpenCvWriter:
    """For programs that play MPEG-4 part 2, VLC for instance."""

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self._path, self._rate = path, frames_per_second
        self._named = path.with_name(f"{path.name}.mp4")  # OpenCV chooses the format by the ending
        self._writer: cv2.VideoWriter | None = None
        self._count = 0
        self._last: cv2.typing.MatLike | None = None

    def write(self, pixels_rgb: Pixels, at_s: float) -> None:
        if self._writer is None:
            size = pixels_rgb.shape[1], pixels_rgb.shape[0]
            four = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._named), cv2.CAP_FFMPEG, four, self._rate, size)
            if not self._writer.isOpened():
                raise RuntimeFault(
                    f"'{self._path}' cannot be written.",
                    fix="Check the free space, and that OpenCV has FFmpeg.",
                )
        picture = cv2.cvtColor(pixels_rgb, cv2.COLOR_RGB2BGR)
        # Its frames have no times of their own: the picture before is shown until this one's moment.
        for _ in range(self._count, round(at_s * self._rate)):
            self._writer.write(picture if self._last is None else self._last)
            self._count += 1
        self._writer.write(picture)
        self._count, self._last = self._count + 1, picture

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._named.replace(self._path)
