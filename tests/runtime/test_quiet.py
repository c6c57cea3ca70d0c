"""Silence on standard error, and its end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from edgecnn.runtime.quiet import quietly


def test_standard_error_speaks_again_after_two_threads_were_quiet_at_overlapping_times(
    capfd: pytest.CaptureFixture[str],
) -> None:
    second_is_in, first_is_out = threading.Event(), threading.Event()
    filters = warnings.filters[:]

    def first() -> None:
        with quietly():
            second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        with quietly():
            second_is_in.set()
            first_is_out.wait(10)
            os.write(2, b"within")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    threads[1].start()
    for thread in threads:
        thread.join(20)
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
    assert warnings.filters == filters


def test_an_error_within_ends_the_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), quietly(), quietly():
        raise KeyError
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_no_descriptor_is_left_open() -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(20):
        with quietly():
            pass
    assert len(list(Path("/dev/fd").iterdir())) == before


@pytest.mark.parametrize("closing", ["2>&-", ""])
def test_without_a_standard_error_there_is_nothing_to_silence_and_no_other_file_is(closing: str) -> None:
    code = (
        "import os, sys, tempfile\n"
        "if sys.stderr: os.close(2)\n"
        "other = tempfile.TemporaryFile()  # takes the free number 2\n"
        "assert other.fileno() == 2\n"
        "if sys.stderr: other.close()\n"
        "from edgecnn.runtime.quiet import quietly\n"
        "with quietly():\n"
        "    sys.stderr or os.write(2, b'kept')\n"
        "print('fine' if sys.stderr or os.pread(2, 4, 0) == b'kept' else 'lost')\n"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1" {closing}', sys.executable, code],
        stdout=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "fine\n")
