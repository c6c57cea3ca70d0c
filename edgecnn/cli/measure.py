"""The command that measures models: bench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from edgecnn.measure.latency import ModelFile
    from edgecnn.measure.report import ModelReport, Report
    from edgecnn.measure.watched import ClipsReport

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("file", required=False, type=FILE)
@click.option("--zoo", is_flag=True, help="Instead of FILE: each model that ships, by itself.")
@click.option("--against", multiple=True, type=FILE, help="Model to hold FILE against; may be repeated.")
@click.option(
    "--data", multiple=True, type=FILE,
    help="Folder, .tar[.gz|.xz], .zip or .npz with <split>/<class>/* or <class>/*. May be repeated: several "
    "are one set; with --zoo, each by itself.",
)  # fmt: skip
@click.option("--split", default="test", show_default=True, help="Pictures of the data to measure on.")
@click.option(
    "--only",
    multiple=True,
    metavar="GLOB",
    help="File names to measure on, not the whole split; may be repeated.",
)
@click.option(
    "--clips", is_flag=True, help="Watch the split's clips too, as videos.json of the data lists them."
)
@click.option("--labels", type=FILE, help="Labels of a file that brings none, one a line.")
@click.option(
    "--normalization",
    type=(float, float),
    metavar="MEAN STD",
    help="What a float file without a manifest eats: (byte - MEAN) / STD.",
)
@click.option(
    "--threads", type=click.IntRange(1, 64), default=2, show_default=True, help="Of the interpreter."
)
@click.option(
    "--calls", type=click.IntRange(10), default=500, show_default=True, help="Timed, of each model."
)
@click.option("--warmup", type=click.IntRange(0), default=50, show_default=True, help="Calls that go before.")
@click.option("--out", type=FILE, default="report", show_default=True, help="Folder for the report.")
def bench(
    file: Path | None,
    zoo: bool,
    against: tuple[Path, ...],
    data: tuple[Path, ...],
    split: str,
    only: tuple[str, ...],
    clips: bool,
    labels: Path | None,
    normalization: tuple[float, float] | None,
    threads: int,
    calls: int,
    warmup: int,
    out: Path,
) -> None:
    """Measure accuracy and latency of FILE, side by side with others, and write a report.

    With --zoo, measure each model that ships on the --data whose labels it knows, beside the float model that
    it was made from where that is at hand, as out/*/float32.tflite.

    \b
    Example:
        edgecnn bench fire.int8.tflite --against fire.float32.tflite --data data/fire --out report/
    """
    if (file is None) != zoo:
        raise click.UsageError("Give a FILE, or --zoo.")
    if zoo and (against or labels or normalization):
        raise click.UsageError("The models of the zoo bring labels, and are held against their parents.")
    if only and (zoo or not data):
        raise click.UsageError("--only needs a FILE, and the --data that it chooses from.")
    if clips and (zoo or not data):
        raise click.UsageError("--clips needs a FILE, and the --data that lists them.")
    from edgecnn.cli.bench_pictures import pictures_for, progress_bars
    from edgecnn.measure import bench as room
    from edgecnn.measure import report as reports
    from edgecnn.runtime import host, predictor

    if file is None:
        from edgecnn.cli.zoo_bench import bench_zoo

        bench_zoo(data, split, threads, room.Settings(calls, warmup), out)
        return
    files = _files((file, *against), threads, labels, normalization)
    models = [predictor.load(f.path, f.labels, f.threads, None, f.normalization) for f in files]
    for model in models:
        predictor.verify_golden(model)
    pictures = pictures_for(models, data, split, clips, only) if data else None
    if pictures is None:
        click.echo("No --data: the latency is measured on random noise, and the accuracy is not.", err=True)
    with progress_bars() as progress:
        memories = room.memories(files, progress)
        settings = room.Settings(calls, warmup)
        report, thumbnails = room.run(models, host.host_facts(), pictures, settings, memories, progress)
    path = reports.write(report, out, thumbnails)
    print_report(report, path)


def _files(
    paths: Sequence[Path], threads: int, labels: Path | None, normalization: tuple[float, float] | None
) -> list[ModelFile]:
    """Give labels and normalisation to the files that bring none; if all do, to all, who refuse them."""
    from edgecnn.bundle import file
    from edgecnn.measure.latency import ModelFile

    are_foreign = [file.read(path).manifest is None for path in paths]
    return [
        ModelFile(path, threads, labels, normalization)
        if is_foreign or not any(are_foreign)
        else ModelFile(path, threads)
        for path, is_foreign in zip(paths, are_foreign, strict=True)
    ]


def print_report(report: Report, path: Path) -> None:
    """Print the table, the verdict and where the report lies."""
    from rich.console import Console

    from edgecnn.measure.report import unrest

    console = Console()
    # A pipe has no width; folding at 80 columns would only make the table harder to read there.
    wide = console if console.is_terminal else Console(width=200)
    wide.print(_table(report))
    if report.clips:
        wide.print(_clip_table(report.clips))
    click.echo(report.verdict)
    if warning := unrest(report.models):
        click.echo(warning)
    click.echo(f"Report: {path}")


def _table(report: Report) -> Table:
    """Put the models side by side, a figure a row, so that two fit a terminal of 80 columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    table.add_column("")
    for model in report.models:
        table.add_column(escape(model.name), justify="right", overflow="fold")
    columns = [_figures(model, report) for model in report.models]
    for label in columns[0]:
        table.add_row(escape(label), *(column[label] for column in columns))
    return table


def _clip_table(clips: ClipsReport) -> Table:
    """Tell clip by clip what each model made of it."""
    from rich.markup import escape
    from rich.table import Table

    from edgecnn.measure.report import place_in_words
    from edgecnn.measure.watched import alarm_in_words

    table = Table("clip", "model", "for", "alarm", "peak in a box")
    for clip in clips.clips:
        for seen in clip.watched:
            cells = (clip.clip, seen.model, seen.label, alarm_in_words(seen), place_in_words(seen.place))
            table.add_row(*map(escape, cells))
    return table


def _figures(model: ModelReport, report: Report) -> dict[str, str]:
    from edgecnn.measure.latency import NOT_MEASURED, ms
    from edgecnn.measure.report import percent, place_in_words, place_rows, places_of, size

    heads = list(dict.fromkeys(head for each in report.models for head in each.accuracy))
    found = {head: model.accuracy.get(head) for head in heads}
    took = model.latency
    return {
        "precision": model.precision,
        **{
            "accuracy" if len(heads) == 1 else f"accuracy of {head}": (
                f"{percent(a.top1)} ({percent(a.low)} to {percent(a.high)})" if a else NOT_MEASURED
            )
            for head, a in found.items()
        },
        **{
            f"{head}: {label} in a box": place_in_words(places_of([model], head, label)[0])
            for head, label in place_rows(report.models)
        },
        "p50": ms(took.p50_ms if took else None),
        "p90": ms(took.p90_ms if took else None),
        "p99": ms(took.p99_ms if took else None),
        "file": size(model.size_bytes),
        "file after gzip": size(model.gzip_size_bytes),
        "peak memory": size(model.peak_memory_bytes),
    }
