"""``check``: what a target can run of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from rich.table import Table

    from edgecnn.targets.graph import Check, OpVerdict

_TABLE_WIDTH: Final = 112


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--target", type=click.Choice(["edgetpu", "cpu", "micro"]), required=True, help="What is to run it."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(file: Path, target: str, as_json: bool) -> None:
    """Say which operators of a model FILE a target runs, and why not the rest.

    Ends with status 3 if one cannot run there.

    \b
    Example:
        edgecnn check fire.int8.tflite --target edgetpu
    """
    from edgecnn.errors import CheckFailed

    result = _check(file, target)
    if as_json:
        click.echo(json.dumps(_facts(file, result), indent=1, ensure_ascii=False))
    else:
        print_check(result)
    if not result.passed:
        blocking = result.first_blocking_op
        raise CheckFailed(
            f"'{file.name}' does not run on '{target}' as a whole: {_count(result)}.",
            fix=(blocking.fix if blocking else None) or "See the reasons above.",
        )


def _check(file: Path, target: str) -> Check:
    from edgecnn.bundle import file as files
    from edgecnn.bundle import flatbuffer
    from edgecnn.targets import cpu, edgetpu, micro

    bundle = files.read(file)
    model = flatbuffer.parse(bundle.model)
    if target == "edgetpu":
        return edgetpu.check(model, bundle.model)
    return cpu.check(model) if target == "cpu" else micro.check(model, bundle.model)


def _count(result: Check) -> str:
    from edgecnn.targets.graph import operators

    left = [op for op in result.ops if not op.mapped]
    return f"it leaves out {len(left)} of {operators(len(result.ops))}"


def _facts(file: Path, result: Check) -> dict[str, Any]:
    import msgspec

    return {"file": str(file), **msgspec.to_builtins(result), "passed": result.passed}


def print_check(result: Check) -> None:
    """Print what a target does with a model, operator by operator."""
    from rich.console import Console

    # A row that is cut cannot be read, one that a narrow terminal wraps can.
    width = max(Console().width, _TABLE_WIDTH)
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    console.print(_table(result))
    for line in _lines(result):
        click.echo(line)


def _table(result: Check) -> Table:
    """List the operators; neighbours of one fate share a row."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    table.add_column("", justify="right", no_wrap=True)
    for title in ("operators", result.target, "why", "what to do"):
        table.add_column(title)
    for group in _groups(result.ops):
        first, last = group[0], group[-1]
        number = str(first.index) if first is last else f"{first.index}-{last.index}"
        cells = (_names(group), "yes" if first.mapped else "no", first.reason or "", first.fix or "")
        table.add_row(number, *(Text(cell) for cell in cells))
    return table


def _groups(ops: tuple[OpVerdict, ...]) -> Iterator[list[OpVerdict]]:
    """Put neighbours together that share the verdict, the reason and the fix."""
    for _, group in groupby(ops, key=lambda op: (op.mapped, op.reason, op.fix)):
        yield list(group)


def _names(group: list[OpVerdict]) -> str:
    counts: dict[str, int] = {}
    for op in group:
        counts[op.op] = counts.get(op.op, 0) + 1
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())


def _lines(result: Check) -> Iterator[str]:
    share = result.mapped_macs_share
    yield result.verdict
    yield f"Multiply-accumulates there: {'unknown' if share is None else f'{100 * share:.1f} %'}"
    room = f" of {result.on_chip_bytes:,} on the chip" if result.on_chip_bytes else ""
    yield f"Parameters there: {result.parameter_bytes:,} bytes{room}"
    yield from result.notes
    by_compiler = "what the Edge TPU compiler did"
    yield f"Basis: {by_compiler if result.basis == 'compiler' else 'prediction, from the file alone'}"
