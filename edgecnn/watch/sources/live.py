"""What every source of a watch says about itself."""

from __future__ import annotations

from typing import Protocol

from edgecnn.core.ports import Source


class WatchSource(Source, Protocol):
    """A source that the loop can treat rightly; iterating it again opens it anew."""

    @property
    def name(self) -> str:
        """What to call it before people; holds no password."""

    @property
    def is_live(self) -> bool:
        """Whether it goes on for ever: its end is a fault, and it is opened again."""

    @property
    def is_realtime(self) -> bool:
        """Whether frames come when they happen; else each waits until it has been looked at."""
