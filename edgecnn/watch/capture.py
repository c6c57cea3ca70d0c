"""Reads a source on a thread of its own, and keeps nothing but its newest frame."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import tenacity
from tenacity.nap import sleep_using_event

from edgecnn.core.frame import Frame
from edgecnn.errors import EdgecnnError, MissingPackageError, RuntimeFault
from edgecnn.watch.sources.live import WatchSource

LONGEST_WAIT_S: Final = 2.0
"""Between two tries to open a lost source: one that is back is noticed within this time."""

_BREATH_S: Final = 0.2


class _Silent(EdgecnnError):
    """A live source was opened and gave no frame at all."""


class Capture:
    """A source that is being read.

    Frames that come in real time replace one another until someone takes the newest; others wait for
    it, so that none is left out. A live source that is lost is opened again until it is back.

    Args:
        source: Where the frames come from.
    """

    def __init__(self, source: WatchSource) -> None:
        self.source = source
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._frame: Frame | None = None
        self._skipped_count = 0
        self._next_index = 0
        self._has_ended = False
        self._fault: EdgecnnError | None = None
        self._failure: BaseException | None = None
        self._tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(EdgecnnError)
            & tenacity.retry_if_not_exception_type(MissingPackageError),
            wait=tenacity.wait_exponential(multiplier=0.1, max=LONGEST_WAIT_S - 0.2)
            + tenacity.wait_random(0, 0.2),
            stop=tenacity.stop_when_event_set(self._stop),
            sleep=sleep_using_event(self._stop),
            reraise=True,
        )
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def take(self, timeout_s: float) -> Frame | None:
        """Wait for a frame that nobody has taken yet.

        Returns:
            The newest; None if there was none in time, or if there will be none.

        Raises:
            EdgecnnError: If the source cannot be read, and trying again would not help.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._has_ended, timeout_s)
            frame, self._frame = self._frame, None
            self._changed.notify_all()
            if frame is None and self._failure is not None:
                raise self._failure
            return frame

    @property
    def skipped_count(self) -> int:
        """Frames that a newer one has replaced."""
        return self._skipped_count

    @property
    def has_ended(self) -> bool:
        """Whether the source has ended and every frame was taken; what went wrong is raised first."""
        with self._changed:
            return self._has_ended and self._frame is None and self._failure is None

    @property
    def fault(self) -> EdgecnnError | None:
        """Why the source gives nothing now; None while it does."""
        return self._fault

    def close(self, timeout_s: float = 0.5) -> None:
        """Let go of the source; one that hangs is left to its thread. May be called twice."""
        self._stop.set()
        self.source.close()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            if self.source.is_live:
                while not self._stop.is_set():
                    self._tries(self._play_live)
                    self._stop.wait(_BREATH_S)
            else:
                self._play()
        except BaseException as error:  # handed to whoever takes frames: a thread of its own has no caller
            if not self._stop.is_set():
                self._failure = error
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _play_live(self) -> None:
        """Read a live source until it is lost; raise only if it gave nothing, so that the waits grow."""
        first_index = self._next_index
        try:
            self._play()
            error: EdgecnnError = RuntimeFault(
                f"'{self.source.name}' has ended.", fix="Look at the camera and the network."
            )
        except MissingPackageError:
            raise
        except EdgecnnError as caught:
            error = caught
        except OSError as caught:
            error = RuntimeFault(f"'{self.source.name}' cannot be read: {caught}.", fix="Look at the camera.")
        self._fault = error
        if self._next_index == first_index:
            raise error

    def _play(self) -> None:
        start = self._next_index
        with _iterated(self.source) as frames:
            for frame in frames:
                # A source that was opened again counts from 0 again.
                self._put(frame if start == 0 else replace(frame, index=start + frame.index))
                self._next_index = start + frame.index + 1
                if self._stop.is_set():
                    return

    def _put(self, frame: Frame) -> None:
        with self._changed:
            if not self.source.is_realtime:
                self._changed.wait_for(lambda: self._frame is None or self._stop.is_set())
            elif self._frame is not None:
                self._skipped_count += 1
            self._frame = frame
            self._fault = None
            self._changed.notify_all()


@contextmanager
def _iterated(source: WatchSource) -> Iterator[Iterator[Frame]]:
    """Iterate, and let the source clean up at once when the iteration is left."""
    frames = iter(source)
    try:
        yield frames
    finally:
        close = getattr(frames, "close", None)
        if close is not None:
            close()
