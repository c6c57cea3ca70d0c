"""Measure what each head of a network costs: the file as it is against the same file without that head.

The file without a head is cut out of the file itself, so kernels, weights and scales are the same ones. As a
control the whole is held against its own copy, which shows how finely this machine can tell.
Exits with 3 where a heatmap costs more than 3 %.

Example:
    python tests/benchmarks/head_cost.py out/sentinel/int8.tflite
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from edgecnn.bundle import file
from edgecnn.bundle.excerpt import excerpt
from edgecnn.bundle.file import Bundle
from edgecnn.bundle.flatbuffer import parse
from edgecnn.bundle.layers import layers
from edgecnn.core.prediction import Head
from edgecnn.measure.latency import interleave, ms, noise_frames, speedup
from edgecnn.measure.pairing import upstream
from edgecnn.runtime import predictor

TARGET = 0.03


def with_heads(bundle: Bundle, heads: Sequence[Head], path: Path) -> Bundle:
    """Write what a file needs for some of its heads as a file of its own."""
    assert bundle.manifest is not None
    model = parse(bundle.model)
    entry = model.inputs[0].index
    outputs = [model.outputs[head.output_index].index for head in heads]
    operators, _ = upstream(model, outputs, [entry])
    kept = tuple(replace(head, output_index=place) for place, head in enumerate(heads))
    manifest = replace(bundle.manifest, heads=kept)
    return file.write(path, excerpt(bundle.model, operators, [entry], outputs), manifest, None)


def macs_of(bundle: Bundle) -> int:
    """Count multiply-accumulates of one invocation."""
    return sum(layer.macs or 0 for layer in layers(parse(bundle.model)))


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--calls", default=4000, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(model: Path, calls: int, threads: int) -> None:
    """Time the file and what is left of it without each head by turns, on the same frames of 640 x 480."""
    bundle = file.read(model)
    if bundle.manifest is None or len(bundle.manifest.heads) < 2:
        raise click.UsageError("Give a file of edgecnn with two heads or more.")
    heads = bundle.manifest.heads
    with tempfile.TemporaryDirectory() as folder:
        parts = [with_heads(bundle, heads, Path(folder, "copy.tflite"))]
        for number, head in enumerate(heads):
            rest = [other for other in heads if other is not head]
            parts.append(with_heads(bundle, rest, Path(folder, f"without-{number}.tflite")))
        models = [predictor.load(path, None, threads) for path in (model, *(part.path for part in parts))]
    times = interleave(models, noise_frames(480, 640), calls, 50).sum(axis=2)
    whole_macs = macs_of(bundle)
    print(f"{model.name}: p50 {ms(float(np.median(times[0])))}, {whole_macs:,} multiply-accumulates")
    is_dear = False
    for row, part, name in zip(times[1:], parts, ["control", *(head.name for head in heads)], strict=True):
        found = speedup(row, times[0])
        own = 1 - macs_of(part) / whole_macs
        print(
            f"{name:12} costs {100 * (found.pairwise - 1):6.2f} % of the time of the rest "
            f"(95 % interval {100 * (found.low - 1):.2f} to {100 * (found.high - 1):.2f}), "
            f"{100 * own:.2f} % of the multiply-accumulates are its own"
        )
        is_heatmap = any(head.name == name and head.kind == "heatmap" for head in heads)
        is_dear |= is_heatmap and found.pairwise > 1 + TARGET
    runtime = models[0].interpreter.runtime
    print(f"median of neighbouring calls, {calls} calls each, {threads} thread(s), {runtime}")
    if is_dear:
        sys.exit(3)


if __name__ == "__main__":
    main()
