"""Time int8 networks of 8 k, 8 k + 3 and 8 k + 4 channels by turns: which counts are worth keeping to?

Example:
    python tests/benchmarks/channel_multiples.py --threads 1
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

import click
import numpy as np

from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.measure.latency import order_of
from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.workstation.models.zoo import build
from edgecnn.workstation.recipe import Layer, ModelSpec
from edgecnn.workstation.subject import Subject
from edgecnn.workstation.tflite import to_flatbuffer

SIDE = 32
HEAD = Head("label", "softmax", ("a", "b"))
BLOCKS = {
    "1 x 1": (Layer("conv", kernel=1, activation="relu"),),
    "3 x 3": (Layer("conv", kernel=3, activation="relu"),),
    "depthwise + 1 x 1": (Layer("depthwise", activation="relu"), Layer("conv", kernel=1, activation="relu")),
}


def network(block: tuple[Layer, ...], channels: int, depth: int = 6) -> bytes:
    """Give an int8 network of equal blocks with random weights."""
    body = [replace(layer, filters=channels) if layer.kind == "conv" else layer for layer in block]
    stem = Layer("conv", filters=channels, kernel=3, stride=2, activation="relu")
    spec = ModelSpec("layers", layers=(stem, *body * depth, Layer("global_average_pool")))
    pictures = np.random.default_rng(1).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    pictures[0, 0, 0], pictures[0, -1, -1] = 0, 255
    model: Any = build(spec, InputSpec(SIDE, SIDE, 3), [HEAD])
    subject = Subject(model, "block", InputSpec(SIDE, SIDE, 3), HEAD, None, None, (128.0, 128.0), True)
    return to_flatbuffer(subject, "int8", pictures)


def medians(models: list[bytes], threads: int, calls: int) -> np.ndarray:
    """Time models by turns; milliseconds, shape (models,)."""
    interpreters = [open_interpreter(model, threads=threads) for model in models]
    picture = np.random.default_rng(2).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    times = np.empty((len(models), calls))
    for call in range(-20, calls):
        for which in order_of(call, len(models)):
            began = perf_counter()
            interpreters[which].invoke(picture)
            if call >= 0:
                times[which, call] = (perf_counter() - began) * 1e3
    return np.median(times, axis=1)


@click.command()
@click.option("--calls", default=400, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(calls: int, threads: int) -> None:
    """Print one row for each kind of block and each number of channels."""
    print(
        f"int8, {SIDE // 2} x {SIDE // 2} maps, 6 blocks, p50 of {calls} calls by turns, {threads} thread(s)"
    )
    for name, block in BLOCKS.items():
        for base in (24, 32, 64, 96):
            counts = [base, base + 3, base + 4, base + 8]
            found = medians([network(block, count) for count in counts], threads, calls)
            print(f"{name:18}", "  ".join(f"{c:3}: {t:.4f} ms" for c, t in zip(counts, found, strict=True)))


if __name__ == "__main__":
    main()
