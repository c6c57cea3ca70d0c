"""``zoo``: the trained models that ship."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgecnn.errors import CheckFailed

if TYPE_CHECKING:
    from rich.table import Table

    from edgecnn.zoo.shelf import Resident


@click.group()
def zoo() -> None:
    """List the trained models that ship, and find their files.

    \b
    Example:
        edgecnn zoo list
    """


@zoo.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List the models: what each answers, its input and size, how good and how fast it is.

    \b
    Example:
        edgecnn zoo list
    """
    import msgspec

    from edgecnn.zoo import shelf

    residents = shelf.models()
    if as_json:
        rows = [_facts(resident) for resident in residents]
        click.echo(msgspec.json.format(msgspec.json.encode(rows, enc_hook=str), indent=1).decode())
        return
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=160)).print(_table(residents))


def _facts(resident: Resident) -> dict[str, object]:
    manifest = resident.manifest
    return {
        "name": resident.name,
        "description": manifest.description,
        "path": resident.path,
        "precision": manifest.precision,
        "heads": manifest.heads,
        "input": manifest.input,
        "size_bytes": resident.size_bytes,
        "figures": resident.figures,
    }


def _table(residents: tuple[Resident, ...]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from edgecnn.measure.latency import ms
    from edgecnn.measure.report import size
    from edgecnn.zoo.figures import share

    table = Table("name", "answers", "input", "size", "right (95 % interval)", "on", "p50", show_lines=True)
    for resident in residents:
        manifest, figures = resident.manifest, resident.figures
        measured = [
            (
                f"{head.head} {share(head.accuracy)}",
                f"{pictures.count:,} of {pictures.data}, {pictures.split}",
            )
            for pictures in figures.sets
            if not pictures.left_out
            for head in pictures.heads
        ]
        table.add_row(
            escape(resident.name),
            escape("\n".join(f"{head.name}: {', '.join(head.labels)}" for head in manifest.heads)),
            str(manifest.input),
            size(resident.size_bytes),
            escape("\n".join(figure for figure, _ in measured)),
            escape("\n".join(where for _, where in measured)),
            ms(figures.speed.p50_ms if figures.speed else None),
        )
    return table


@zoo.command()
@click.argument("name")
def path(name: str) -> None:
    """Print the path of the model NAME.

    \b
    Example:
        edgecnn predict $(edgecnn zoo path digits) picture.png
    """
    from edgecnn.zoo import shelf

    click.echo(shelf.path(name))


@zoo.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", help="What the zoo calls it.  [default: its name in the file]")
@click.option(
    "--data", required=True, multiple=True, type=click.Path(path_type=Path),
    help="What it was trained on. May be repeated.",
)  # fmt: skip
@click.option(
    "--calibration",
    required=True,
    type=click.Path(path_type=Path),
    help="The list that it was converted with.",
)
@click.option("--into", required=True, type=click.Path(path_type=Path), help="The shelf.")
def publish(folder: Path, name: str | None, data: tuple[Path, ...], calibration: Path, into: Path) -> None:
    """Put the int8.tflite of FOLDER on a shelf, with its figures and its card.

    FOLDER is where train, convert and bench left everything. Reports about further pictures lie in folders
    below.

    \b
    Example:
        edgecnn zoo publish out/digits --data mnist.npz --calibration digits.txt --into edgecnn/zoo
    """
    from edgecnn.bundle import file
    from edgecnn.workstation import publish as room
    from edgecnn.workstation.data.catalog import open_dataset
    from edgecnn.workstation.recipe import folders_of, parse

    manifest = file.read(folder / room.MODEL).manifest
    recipe = parse(manifest.provenance.recipe) if manifest and manifest.provenance.recipe else None
    dataset = (
        open_dataset(data, folders_of(recipe), leave_out=recipe.leave_out) if recipe else open_dataset(data)
    )
    click.echo(room.publish(name or (manifest.name if manifest else ""), folder, dataset, calibration, into))


@zoo.command("left-out")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--into", required=True, type=click.Path(path_type=Path), help="The shelf.")
def left_out(name: str, folder: Path, into: Path) -> None:
    """Put onto the card of NAME what one like it does with a source that it never saw.

    FOLDER is where bench left the report of the same recipe, trained with --leave-out, on the split left_out.

    \b
    Example:
        edgecnn zoo left-out digits out/digits-without-7s --into edgecnn/zoo
    """
    from edgecnn.workstation import publish as room

    click.echo(room.add_left_out(name, folder, into))


@zoo.command()
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
def compare(name: str, folder: Path) -> None:
    """Say whether the model in FOLDER reaches the figures on the card of NAME.

    Exits with 3 where an accuracy lies below the interval on the card.

    \b
    Example:
        edgecnn zoo compare digits out/digits
    """
    from edgecnn.workstation import publish as room
    from edgecnn.zoo import shelf

    verdicts = room.compare(shelf.resident(name).figures, room.sets_of(folder))
    for verdict in verdicts:
        promised, found = verdict.promised, verdict.found
        word = f"missed by {verdict.missed_pp:.2f} pp" if verdict.missed_pp else "reached"
        click.echo(
            f"{word}: {verdict.what}: {100 * found.value:.2f} % of {found.count:,}; the card says "
            f"{100 * promised.value:.2f} % ({100 * promised.low:.2f} to {100 * promised.high:.2f})"
        )
    if beyond := [verdict.what for verdict in verdicts if verdict.is_beyond_chance]:
        raise CheckFailed(
            f"Below the interval on the card of '{name}': {'; '.join(beyond)}.",
            fix="Look at curve.svg beside the model, and compare recipe and data with the card's.",
        )
