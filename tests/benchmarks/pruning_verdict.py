"""Read a report of ``edgecnn bench`` and say whether pruning kept its promise; exit 3 if not.

The first model of the report is the pruned one; the parent is named.

Example:
    python tests/benchmarks/pruning_verdict.py out/prune-scenes/report.json unpruned --faster 1.8 --drop 1.0
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from edgecnn.bundle.file import read
from edgecnn.bundle.flatbuffer import parse
from edgecnn.bundle.layers import layers


def row(model: dict[str, Any], parent: dict[str, Any], folder: Path) -> str:
    """Give one line of the table."""
    rows = layers(parse(read(folder / model["file"]).model))
    weights, macs = sum(x.parameters for x in rows), sum(x.macs or 0 for x in rows)
    (accuracy,) = model["accuracy"].values()
    return (
        f"| {model['name']} | {100 * accuracy['top1']:.2f} % | {model['latency']['p50_ms']:.3f} ms "
        f"| {parent['latency']['p50_ms'] / model['latency']['p50_ms']:.2f}x | {model['size_bytes']:,} "
        f"| {model['gzip_size_bytes']:,} | {weights:,} | {macs / 1e6:.2f} M |"
    )


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.argument("parent")
@click.option("--faster", default=0.0, help="At least so many times the parent's speed at p50.")
@click.option("--smaller", default=0.0, help="The parent's file at least so many times the gzipped file.")
@click.option("--drop", default=100.0, help="At most so many percentage points less accurate.")
def main(report: Path, parent: str, faster: float, smaller: float, drop: float) -> None:
    """Print the table and the verdict."""
    found = json.loads(report.read_text(encoding="utf-8"))
    models = {model["name"]: model for model in found["models"]}
    best, base = found["models"][0], models[parent]
    print("| model | accuracy | p50 | speed-up | bytes | gzip | weights | MACs |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for model in found["models"]:
        print(row(model, base, report.parent))
    against = next(c for c in found["comparison"] if c["against"] == parent)
    ratio = base["size_bytes"] / best["gzip_size_bytes"]
    kept = {
        f"{against['speedup_p50']:.2f}x faster at p50 (wanted {faster}x)": against["speedup_p50"] >= faster,
        f"{ratio:.1f}x smaller as stored (wanted {smaller}x)": ratio >= smaller,
        f"{against['accuracy_drop_pp']:+.2f} pp less accurate (allowed {drop})": against["accuracy_drop_pp"]
        <= drop,
    }
    for sentence, holds in kept.items():
        print(f"{'kept' if holds else 'MISSED'}: {sentence}")
    sys.exit(0 if all(kept.values()) else 3)


if __name__ == "__main__":
    main()
