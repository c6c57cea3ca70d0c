"""Draw accuracy against time of every model in a report of ``edgecnn bench``, and print the table.

Bench all candidates in one run, so that their calls take turns on the same frames:

Example:
    edgecnn bench a.int8.tflite --against a.float32.tflite --against b.int8.tflite --data fire --out x
    python tests/benchmarks/tradeoff.py x/report.json --head fire --out docs/models-fire.svg
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from edgecnn.measure.latency import ms
from edgecnn.measure.report import ModelReport, Report, conditions, percent, size, unrest

COLOURS = {"int8": "#0b6bcb", "float32": "#7b8794"}  # readable on white and on black


def draw(models: Sequence[ModelReport], head: str, path: Path) -> None:
    """Draw one point a model, with the 95 % interval of its accuracy; time runs on a logarithmic scale."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    shown = set()
    for model, name in zip(models, short_names(models), strict=True):
        found, took = model.accuracy[head], model.latency
        assert took is not None
        colour = COLOURS.get(model.precision, "#b06a00")
        middle, low, high = (100 * share for share in (found.top1, found.low, found.high))
        axes.errorbar(
            took.p50_ms,
            middle,
            [[middle - low], [high - middle]],
            fmt="o",
            color=colour,
            capsize=2,
            alpha=0.9,
            label=None if model.precision in shown else model.precision,
        )
        shown.add(model.precision)
        # An int8 and a float one may lie side by side, or two of one precision.
        x, side = (6, "left") if model.precision == "int8" else (-6, "right")
        y = 3 if _is_named_above(model, models, head) else -11
        axes.annotate(name, (took.p50_ms, middle), (x, y), textcoords="offset points", ha=side, fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.2)
    axes.set(xlabel="p50 from pixels to scores, ms", ylabel=f"% of pictures decided right, {head}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def _is_named_above(model: ModelReport, models: Sequence[ModelReport], head: str) -> bool:
    """Whether the name stands above the point: the best of those nearby of its precision; alone, int8."""
    nearby = [
        other
        for other in models
        if other.precision == model.precision
        and other.latency is not None
        and model.latency is not None
        and 0.9 < other.latency.p50_ms / model.latency.p50_ms < 1.1
    ]
    if len(nearby) == 1:
        return model.precision == "int8"
    return model is max(nearby, key=lambda other: other.accuracy[head].top1)


def short_names(models: Sequence[ModelReport]) -> list[str]:
    """Leave out the precision, which the colour says, and what all names begin with: ``scenes-96`` is 96."""
    names = [model.name.removesuffix(f" {model.precision}") for model in models]
    first, dash, _ = names[0].rpartition("-")
    is_shared = all(name.startswith(first + dash) for name in names)
    return [name.removeprefix(first + dash) if is_shared else name for name in names]


def table(report: Report, models: Sequence[ModelReport], head: str) -> str:
    """Write the same as Markdown, the fastest first, with the conditions."""
    lines = [
        "| model | precision | right (95 % interval) | p50 | p99 | size |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for model in models:
        found, took = model.accuracy[head], model.latency
        assert took is not None
        lines.append(
            f"| {model.name} | {model.precision} | {percent(found.top1)} ({percent(found.low)} to "
            f"{percent(found.high)}) | {ms(took.p50_ms)} | {ms(took.p99_ms)} | {size(model.size_bytes)} |"
        )
    data = f"{report.data.count:,} pictures of {report.data.name}, {report.data.split}" if report.data else ""
    told = conditions(models[0], report.host).partition(" over ")[2]
    return "\n".join([*lines, "", f"On {data}; {told}. {unrest(report.models)}".rstrip()])


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--head", required=True, help="Which answer.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The SVG.")
def main(report: Path, head: str, out: Path) -> None:
    """Draw the chart and print the table."""
    found = msgspec.json.decode(report.read_bytes(), type=Report)
    measured = [model for model in found.models if head in model.accuracy and model.latency]
    if not measured:
        raise click.UsageError(f"No model in {report} was measured on '{head}' and timed.")
    models = sorted(measured, key=lambda model: model.latency.p50_ms if model.latency else 0)
    draw(models, head, out)
    click.echo(table(found, models, head))


if __name__ == "__main__":
    main()
