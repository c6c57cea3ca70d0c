"""Keeps the memory of a program with many threads small.

The C library keeps what was freed, in pools where small things that last lie between large ones that do not.
"""

from __future__ import annotations

import ctypes

ARENAS = 2
"""One for the loop, one for the rest: with one for each thread the hour ends some 15 MB higher."""

_M_ARENA_MAX = -8  # malloc.h of the GNU C library


def share_arenas(count: int = ARENAS) -> bool:
    """Let the threads of this process share a few pools of the C library's allocator.

    By default each thread gets a pool of its own, and what one frees another cannot use.

    Returns:
        Whether the C library took it; another than GNU's has no such pools.

    Source:
        mallopt(3), M_ARENA_MAX.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, count) == 1


def give_back() -> bool:
    """Give the freed parts of all pools back to the system.

    For the end of something large, such as a clip: left with the process, they were 5 to 8 MB after four
    alarms and grew. Pictures that come and go at each frame are not for it: they would fetch their pages
    anew each time, as they do under a fixed ``M_MMAP_THRESHOLD``, which took half as much processor again.

    Returns:
        Whether there was anything to give back.

    Source:
        malloc_trim(3).
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return malloc_trim is not None and malloc_trim(0) == 1
