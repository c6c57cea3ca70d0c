"""Silence for native libraries that talk on standard error past every log level."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator

# Descriptor 2 and Python's warning filters belong to the whole process. Threads that each kept "what was
# there before" would put back each other's silence; so the first one in keeps it and the last one out
# puts it back.
_lock = threading.Lock()
_inside_count = 0
_undo = contextlib.ExitStack()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Drop what native code writes to standard error, and Python's warnings, for a moment.

    LiteRT and TensorFlow announce delegates, oneDNN and missing GPUs there; what goes wrong in them comes
    as an exception. Uses may nest and overlap on several threads: it is quiet until the last one ends.
    """
    global _inside_count
    with _lock:
        if _inside_count == 0:
            _silence()
        _inside_count += 1
    try:
        yield
    finally:
        with _lock:
            _inside_count -= 1
            if _inside_count == 0:
                _undo.close()


def _silence() -> None:
    with contextlib.ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # deprecations inside these libraries are not ours to mend
        # Python has no standard error where it was closed at the start ("2>&-"). Whatever bears the
        # number 2 since then is some other file, and nobody's to silence.
        if sys.__stderr__ is not None:
            with contextlib.suppress(OSError):  # closed since
                kept = os.dup(2)
                undo.callback(_restore, kept)
                _flush()
                nowhere = os.open(os.devnull, os.O_WRONLY)
                undo.callback(os.close, nowhere)
                os.dup2(nowhere, 2)
        _undo.push(undo.pop_all())


def _restore(kept: int) -> None:
    _flush()
    os.dup2(kept, 2)
    os.close(kept)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):  # whoever replaced it may have closed it
        if sys.stderr is not None:
            sys.stderr.flush()
