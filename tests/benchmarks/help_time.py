"""Compare ``edgecnn --help`` with ``python -c "import click, numpy"``, side by side; target: at most 2x.

Exits with 3 where it takes longer.

Example:
    python tests/benchmarks/help_time.py
"""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter

import numpy as np

from edgecnn.measure.latency import order_of, speedup

TARGET = 2.0
ROUNDS = 20
COMMANDS = (
    [sys.executable, "-m", "edgecnn", "--help"],
    [sys.executable, "-c", "import click, numpy"],
)


def main() -> None:
    """Run both by turns, print the ratio beside the target, and exit with 3 above it."""
    seconds = np.empty((2, ROUNDS))
    for index in range(-2, ROUNDS):
        for which in order_of(index, 2):
            began = perf_counter()
            subprocess.run(COMMANDS[which], check=True, capture_output=True)
            if index >= 0:
                seconds[which, index] = perf_counter() - began
    found = speedup(seconds[1], seconds[0])
    print(f"edgecnn --help        p50 {1e3 * np.median(seconds[0]):.0f} ms")
    print(f"import click, numpy   p50 {1e3 * np.median(seconds[1]):.0f} ms")
    print(
        f"median of pairs       {found.pairwise:.3f} (target <= {TARGET}), "
        f"95 % interval {found.low:.3f} to {found.high:.3f}; ratio of medians {found.of_p50:.3f}; "
        f"{ROUNDS} runs each"
    )
    if found.pairwise > TARGET:
        sys.exit(3)


if __name__ == "__main__":
    main()
