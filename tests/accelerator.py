"""An accelerator that can be pulled out: a delegate of our own, built from stand_ins/delegate.c."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("stand_ins") / "delegate.c"

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc")


@dataclass(frozen=True)
class Stick:
    """Where the library lies, and the file that says how the device is."""

    library: Path
    state: Path

    def computes(self, calls_count: int = 1_000_000) -> None:
        """Be there, and fail after so many calls."""
        self.state.write_text(str(calls_count))

    def aborts_after(self, calls_count: int) -> None:
        """Be there, and end the whole process after so many calls."""
        self.state.write_text(f"abort {calls_count}")

    def is_pulled(self) -> None:
        """Be gone when somebody looks for it."""
        self.state.write_text("absent")

    @property
    def runs_count(self) -> int:
        """How often this process has computed on it."""
        return int(ctypes.CDLL(str(self.library)).stand_in_runs())


def build(folder: Path) -> Stick:
    """Compile the library; every folder has one of its own, so that counts begin at 0."""
    library = folder / "libstandin.so.1"
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", str(SOURCE)]
    subprocess.run([*command, "-o", str(library)], check=True)
    stick = Stick(library, folder / "device")
    stick.computes()
    return stick
