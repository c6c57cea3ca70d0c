"""Run a model in tflite-micro and print what memory it took; its own process, since it may abort."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np


def main(file: str, arena_bytes: str, input_count: str) -> None:
    """Run a model once on zeros.

    Args:
        file: A flatbuffer.
        arena_bytes: Room for its tensors.
        input_count: How many inputs it has.
    """
    package = importlib.import_module("tflite_micro")
    # What the C++ side prints before it aborts would overtake a buffered line.
    print(f"version {package.__version__}", flush=True)
    interpreter = package.runtime.Interpreter.from_bytes(
        Path(file).read_bytes(), arena_size=int(arena_bytes)
    )  # fmt: skip
    for index in range(int(input_count)):
        details = interpreter.get_input_details(index)
        interpreter.set_input(np.zeros(details["shape"], details["dtype"]), index)
    interpreter.invoke()
    interpreter.print_allocations()


if __name__ == "__main__":
    main(*sys.argv[1:])
