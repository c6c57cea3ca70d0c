"""Every int8 model at hand on this machine and on an emulated Pi: a table of what differs.

Ends with 3 if an integer of a file of ours differs for the same bytes, by more than a softmax may be off.

Example:
    python tests/emulated_parity.py MODEL... --data data/scenes --count 50
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import click

from edgecnn.bundle import file
from edgecnn.cli.provision import flips, is_close
from edgecnn.deploy.emulator import CPUS, prepare
from edgecnn.deploy.rehearsal import difference, rehearse
from edgecnn.errors import EdgecnnError
from edgecnn.workstation.data.catalog import list_pictures

HEAD = (
    "| model | bytes | processor | recorded | by at most | same bytes: differ | by at most | flips "
    "| resize differs | end to end: differ | by at most | flips | seconds |"
)


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--count", default=50, show_default=True)
@click.option("--cpu", "cpus", multiple=True, type=click.Choice(CPUS), default=("cortex-a72",))
def main(models: tuple[Path, ...], data: Path, count: int, cpus: tuple[str, ...]) -> None:
    """Print the table."""
    listed = list_pictures(data).pictures
    pictures = [picture.read() for picture in listed[:: max(1, len(listed) // count)][:count]]
    click.echo(f"{len(pictures)} pictures of {data.name}; {platform.machine()} against ...\n\n{HEAD}")
    click.echo("|" + "---|" * (HEAD.count("|") - 1))
    is_equal = True
    for model in models:
        for cpu in cpus:
            began = time.perf_counter()
            try:
                here, there = rehearse(prepare(click.echo, cpu), model, pictures)
            except EdgecnnError as error:
                click.echo(f"| {model.parent.name}/{model.name} | not run: {error.message} |")
                continue
            recorded, same, own = (
                difference(getattr(here, name), getattr(there, name))
                for name in ("recorded", "same", "outputs")
            )
            resized = difference((here.resized,), (there.resized,))
            cells = (
                f"{model.parent.name}/{model.name}", f"{file.read(model).size_bytes:,}", cpu,
                f"{recorded.differing_count} of {recorded.count}" if recorded.count else "none",
                f"{recorded.largest:g}",
                f"{same.differing_count} of {same.count}", f"{same.largest:g}",
                flips(model, here.same, there.same),
                f"{resized.differing_count} of {resized.count}, by {resized.largest:g}",
                f"{own.differing_count} of {own.count}", f"{own.largest:g}",
                flips(model, here.outputs, there.outputs), f"{time.perf_counter() - began:.0f}",
            )  # fmt: skip
            click.echo(f"| {' | '.join(map(str, cells))} |")
            # Of others' files nothing is promised: the table tells how it is.
            if recorded.count:
                is_equal &= is_close(model, here.recorded, there.recorded)
                is_equal &= is_close(model, here.same, there.same)
    raise SystemExit(0 if is_equal else 3)


if __name__ == "__main__":
    main()
