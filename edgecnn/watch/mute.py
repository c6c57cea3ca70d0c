"""Silence for the siren, for a while; an alarm goes on being told everywhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Mute:
    """What the page sets and the siren asks; it ends by itself, so that no alarm is muted for good."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._until_s = float("-inf")
        self._lock = threading.Lock()

    def mute(self, seconds: float) -> None:
        """Be silent from now on for so many seconds; 0 ends it."""
        with self._lock:
            self._until_s = self._now_s() + seconds

    def remaining_s(self) -> float:
        """Tell how long it lasts; 0 where the siren may sound.

        Example:
            >>> mute = Mute(now_s=lambda: 100.0)
            >>> mute.mute(60)
            >>> mute.remaining_s()
            60.0
        """
        with self._lock:
            return max(0.0, self._until_s - self._now_s())

    def __bool__(self) -> bool:
        """Tell whether the siren has to be silent."""
        return self.remaining_s() > 0
