"""``bench --zoo``: every model that ships in one table, float against int8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgecnn.errors import DataError

if TYPE_CHECKING:
    from edgecnn.measure.bench import Pictures, Settings
    from edgecnn.measure.report import Report
    from edgecnn.runtime.predictor import TflitePredictor

_PARENTS: Final = "out/*/float32.tflite"
"""Where ``make zoo`` leaves the float models."""

_TITLES: Final = (
    "model", "on", "answer", "float32", "int8", "drop", "p50 float32", "p50 int8", "speed-up", "size",
)  # fmt: skip


def bench_zoo(data: Sequence[Path], split: str, threads: int, settings: Settings, out: Path) -> None:
    """Bench each model on each set of pictures whose labels it knows; print and write the table.

    Args:
        data: Sets of pictures; without any, only the latency is measured.
        split: Of each.
        threads: Of the interpreter.
        settings: Of the bench.
        out: Gets ``zoo.md``, and the whole report of each model on each set in folders below.
    """
    from edgecnn.cli.bench_pictures import progress_bars
    from edgecnn.measure import bench as room
    from edgecnn.measure import report as reports
    from edgecnn.runtime import host, predictor
    from edgecnn.workstation.data.catalog import list_pictures
    from edgecnn.zoo import shelf

    for path in data:
        list_pictures(path)  # a set that cannot be opened is an error, one that a model does not know is not
    parents, facts, unrest = _parents(), host.host_facts(), ""
    rows: list[tuple[str, ...]] = []
    for resident in shelf.models():
        parent = parents.get(resident.manifest.provenance.parent_sha256)
        models = [predictor.load(path, threads=threads) for path in (resident.path, parent) if path]
        for model in models:
            predictor.verify_golden(model)
        for name, pictures in _sets(models, data, split):
            with progress_bars() as progress:
                report, thumbnails = room.run(models, facts, pictures, settings, progress=progress)
            reports.write(report, out / resident.name / name, thumbnails)
            rows += _rows(resident.name, report)
            unrest = unrest or reports.unrest(report.models)
    host_in_words = f"{threads} threads, {facts.cpu}, {facts.runtime}; {settings.calls} calls of each model"
    text = _markdown([_TITLES, *rows], f"{host_in_words}. {unrest}".rstrip())
    path = reports.write_files({"zoo.md": text.encode()}, out)
    click.echo(f"{text}Table: {path}")


def _parents() -> Mapping[str, Path]:
    """Find float models by the digest of the weights that they were made from."""
    from edgecnn.bundle import file

    found = {}
    for path in sorted(Path().glob(_PARENTS)):
        if manifest := file.read(path).manifest:
            found[manifest.provenance.parent_sha256] = path
    return found


def _sets(
    models: Sequence[TflitePredictor], data: Sequence[Path], split: str
) -> list[tuple[str, Pictures | None]]:
    """Give each set that the models know, with a name for its report; noise where they know none."""
    opened = [(path.name.split(".")[0], _pictures(models, path, split)) for path in data]
    return [(name, pictures) for name, pictures in opened if pictures] or [("noise", None)]


def _pictures(models: Sequence[TflitePredictor], path: Path, split: str) -> Pictures | None:
    from edgecnn.cli.bench_pictures import pictures_for
    from edgecnn.measure.evaluate import heads_that_fit

    try:
        pictures = pictures_for(models, (path,), split)
        heads_that_fit(models[0], pictures)
    except DataError as error:
        click.echo(f"{models[0].name}: not on {path.name}: {error.message}", err=True)
        return None
    return pictures


def _rows(name: str, report: Report) -> Iterator[tuple[str, ...]]:
    from edgecnn.measure.latency import NOT_MEASURED, ms
    from edgecnn.measure.report import percent, signed, size, times

    model, parent = report.models[0], report.models[1] if len(report.models) > 1 else None
    took, parent_took = model.latency, parent.latency if parent else None
    where = (
        f"{report.data.count:,} of {report.data.name}, {report.data.split}" if report.data else NOT_MEASURED
    )
    compared = {row.head: row for row in report.comparison}
    for head in model.accuracy or (None,):
        found = model.accuracy[head] if head else None
        before = parent.accuracy.get(head) if head and parent else None
        row = compared.get(head)
        drop = row.accuracy_drop_pp if row else None
        yield (
            name,
            where,
            head or NOT_MEASURED,
            percent(before.top1, 2) if before else NOT_MEASURED,
            f"{percent(found.top1, 2)} ({percent(found.low, 2)} to {percent(found.high, 2)})"
            if found
            else NOT_MEASURED,
            f"{signed(drop)} pp ({signed(row.drop_low_pp)} to {signed(row.drop_high_pp)})"
            if row and drop is not None and row.drop_low_pp is not None and row.drop_high_pp is not None
            else NOT_MEASURED,
            ms(parent_took.p50_ms if parent_took else None),
            ms(took.p50_ms if took else None),
            times(row.speedup_pairwise) if row and row.speedup_pairwise else NOT_MEASURED,
            size(model.size_bytes),
        )


def _markdown(rows: Sequence[Sequence[str]], note: str) -> str:
    r"""Write a table whose columns line up in a terminal too.

    Example:
        >>> print(_markdown([("a", "bcd"), ("efg", "h")], "Note."))
        | a   | bcd |
        | --- | --- |
        | efg | h   |
        <BLANKLINE>
        Note.
        <BLANKLINE>
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    ]
    rule = f"| {' | '.join('-' * width for width in widths)} |"
    return "\n".join([lines[0], rule, *lines[1:], "", note, ""])
