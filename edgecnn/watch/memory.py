"""Keeps the memory of a program with many threads small."""

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
