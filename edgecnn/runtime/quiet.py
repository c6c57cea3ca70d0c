"""Silence for native libraries that talk on standard error past every log level."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Drop what native code writes to standard error, and Python's warnings, for a moment.

    LiteRT and TensorFlow announce delegates, oneDNN and missing GPUs there; what goes wrong in them comes
    as an exception.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside these libraries are not ours to mend
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
