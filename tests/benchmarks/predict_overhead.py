"""Compare our predict of one frame with a bare loop of the same resize and invoke; target: at most 1.02x.

Exits with 3 where it takes longer.

Example:
    python tests/benchmarks/predict_overhead.py mobilenet_v2_1.0_224_quant.tflite
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from time import perf_counter

import click
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from edgecnn.core.frame import resize
from edgecnn.measure.latency import frame_of, noise_frames, order_of, speedup
from edgecnn.runtime import predictor

TARGET = 1.02


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--calls", default=4000, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--normalization", type=(float, float))
def main(model: Path, calls: int, threads: int, normalization: tuple[float, float] | None) -> None:
    """Time both by turns on the same frames, print the ratio beside the target, and exit with 3 above it."""
    ours = predictor.load(model, None, threads, None, normalization)
    spec, write = ours.input, ours._write
    # What anyone would write without edgecnn: the interpreter's own calls and nothing around them.
    bare_model = Interpreter(str(model), num_threads=threads)
    bare_model.allocate_tensors()
    entry, outputs = bare_model.get_input_details()[0]["index"], bare_model.get_output_details()
    frames = noise_frames(480, 640)
    times = np.empty((2, calls))

    def bare(pixels: np.ndarray) -> None:
        codes = resize(pixels, spec)
        if write is None:
            bare_model.set_tensor(entry, codes[None])
        else:
            write(bare_model.tensor(entry)()[0], codes)
        bare_model.invoke()
        for output in outputs:
            bare_model.get_tensor(output["index"])

    def time_one(which: int, index: int) -> float:
        frame = frames[frame_of(index, 2, len(frames))]
        began = perf_counter()
        if which == 0:
            ours.predict(frame)
        else:
            bare(frame.pixels_rgb)
        return (perf_counter() - began) * 1e3

    gc.disable()
    for index in range(-50, calls):
        for which in order_of(index, 2):
            took = time_one(which, index)
            if index >= 0:
                times[which, index] = took
    found = speedup(times[1], times[0])
    print(f"edgecnn predict   p50 {np.median(times[0]):.4f} ms")
    print(f"bare loop         p50 {np.median(times[1]):.4f} ms")
    print(
        f"median of pairs   {found.pairwise:.4f} (target <= {TARGET}), "
        f"95 % interval {found.low:.4f} to {found.high:.4f}; ratio of medians {found.of_p50:.4f}; "
        f"{calls} calls each, {threads} thread(s)"
    )
    if found.pairwise > TARGET:
        sys.exit(3)


if __name__ == "__main__":
    main()
