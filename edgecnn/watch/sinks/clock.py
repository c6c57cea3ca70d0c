"""Notices when someone sets the clock, so that nobody wonders about the times of events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from edgecnn.watch.status import Fault

_SAID_FOR_S: Final = 60.0
_JUMP_S: Final = 5.0
"""The network's time moves a clock by less, unless it was wrong."""


class ClockJump:
    """Compares the wall clock with the one that nobody can set.

    Example:
        >>> utc, steady = [100.0], [0.0]
        >>> clock = ClockJump(lambda: utc[0], lambda: steady[0])
        >>> clock.look()
        >>> utc[0], steady[0] = 3701.0, 1.0
        >>> clock.look()
        >>> clock.fault().detail
        'The clock was set forward by 3600 s; times of events before and after it do not compare.'
    """

    def __init__(
        self, utc_s: Callable[[], float] = time.time, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._utc_s, self._now_s = utc_s, now_s
        self._offset_s: float | None = None
        self._fault: Fault | None = None
        self._noted_at_s = 0.0

    def look(self) -> None:
        """Compare the clocks; called often, it lets slow drifts pass."""
        now_s, utc_s = self._now_s(), self._utc_s()
        offset_s = utc_s - now_s
        jump_s = 0.0 if self._offset_s is None else offset_s - self._offset_s
        self._offset_s = offset_s
        if abs(jump_s) > _JUMP_S:
            way = "forward" if jump_s > 0 else "back"
            self._noted_at_s = now_s
            self._fault = Fault(
                "clock",
                utc_s,
                f"The clock was set {way} by {abs(jump_s):.0f} s; "
                "times of events before and after it do not compare.",
            )

    def fault(self) -> Fault | None:
        """Say for a minute that the clock was set."""
        return self._fault if self._now_s() - self._noted_at_s < _SAID_FOR_S else None
