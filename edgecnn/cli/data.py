"""``edgecnn data``: list, fetch, check and render data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgecnn.workstation.data.check import Findings, Pair

_SHOWN_AT_MOST = 20


@click.group()
def data() -> None:
    """List, fetch, check and render data sets.

    \b
    Example:
        edgecnn data check my_pictures/
    """


@data.command("list")
def list_() -> None:
    """List the public sets that ``fetch`` gets: content, size, licence, origin.

    \b
    Example:
        edgecnn data list
    """
    from edgecnn.workstation.data.fetch import PUBLIC_SETS

    for public in PUBLIC_SETS.values():
        click.echo(f"{public.name}")
        click.echo(f"  content   {public.content}")
        click.echo(f"  size      {public.size}")
        click.echo(f"  licence   {public.licence}")
        click.echo(f"  fetched   by {public.how}")


@data.command()
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Folder to put it in.",
)
def fetch(name: str, out: Path) -> None:
    """Get the public set NAME: digits, cifar10, scenes or fire.

    \b
    Example:
        edgecnn data fetch digits --out data/
    """
    from edgecnn.workstation.data import fetch as room

    click.echo(f"Fetching {name} ...", err=True)
    click.echo(room.fetch(name, out))


@data.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything that was found as JSON.")
def check(paths: tuple[Path, ...], as_json: bool) -> None:
    """Look PATH over: counts, sizes, broken files, duplicates, leaks between splits.

    Several are looked at as one set, as training takes them. Exits with 3 where near-duplicates cross
    splits, a picture is broken, a class is empty or lacks in val or test, or there is one class only.

    \b
    Example:
        edgecnn data check data/scenes.tar.xz --json
    """
    import msgspec

    from edgecnn.errors import CheckFailed
    from edgecnn.workstation.data.check import check_data

    findings = check_data(*paths)
    if as_json:
        judged = {"unmeasured": findings.unmeasured, "is_sound": findings.is_sound}
        report = msgspec.to_builtins(findings) | judged
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=1).decode())
    else:
        _print(findings)
    if not findings.is_sound:
        raise CheckFailed(
            f"'{findings.data}' is not sound: {', '.join(_faults(findings))}.",
            fix="Remove or move the pictures that are named, or add such as lack; '--json' lists all.",
        )


@data.command()
@click.argument("name", type=click.Choice(["stress"]), expose_value=False)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="New folder to put it in.",
)
@click.option("--count", type=click.IntRange(1), default=600, show_default=True, help="Look-alikes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is painted.")
def render(out: Path, count: int, seed: int) -> None:
    """Paint the stress set: suns, lamps, red cloth, fog and more that only looks like fire.

    Training renders other pictures and fewer kinds, so that a model's false alarms here are honest. Fires
    and smoke come with it, a sixth as many of each.

    \b
    Example:
        edgecnn data render stress --out data/stress
        edgecnn bench fire.int8.tflite --data data/stress --out report/
    """
    from edgecnn.workstation.data.lookalikes import write_stress_set

    click.echo(f"Painting {count:,} look-alikes ...", err=True)
    write_stress_set(out, count, seed)
    click.echo(out)


def _faults(findings: Findings) -> list[str]:
    counted = {
        "duplicates cross splits": len(findings.crossing),
        "pictures are broken": len(findings.broken),
        "class folders are empty": len(findings.empty),
    }
    faults = [f"{count:,} {what}" for what, count in counted.items() if count]
    faults += [f"{split} has no {' and no '.join(names)}" for split, names in findings.unmeasured.items()]
    return faults or ["there is one class only"]


def _print(findings: Findings) -> None:
    if findings.drawn_from:
        what = (
            "val is drawn from train" if findings.drawn_from == "train" else "train, val and test are drawn"
        )
        click.echo(f"{what}, as training does")
    for split, by_class in findings.counts.items():
        total = sum(by_class.values())
        balance = findings.imbalance[split]
        click.echo(f"{split}: {total:,} pictures, largest class {balance:.2f} times the smallest")
        for name, count in by_class.items():
            click.echo(f"  {name:<24}{count:>9,}{count / total:>8.1%}")
    if sizes := findings.sizes:
        for side in ("width", "height"):
            low, middle, high = (getattr(sizes, f"{side}_{what}_px") for what in ("min", "median", "max"))
            click.echo(f"{side}: {low} to {high} px, median {middle}")
    _print_some("broken", list(findings.broken.values()))
    _print_some("empty class folders", list(findings.empty))
    _print_some("not read (unknown format, or in no class folder)", list(findings.unread))
    within = [pair for pair in findings.pairs if not pair.crosses_splits]
    _print_some("duplicates within a split", [_line(pair) for pair in within])
    _print_some("duplicates across splits", [_line(pair) for pair in findings.crossing])


def _line(pair: Pair) -> str:
    kind = "equal" if pair.is_exact else "nearly equal"
    return f"{pair.first}  {pair.second}  {kind}{', under two labels' if pair.labels_differ else ''}"


def _print_some(title: str, lines: list[str]) -> None:
    click.echo(f"{title}: {len(lines) or 'none'}")
    for line in lines[:_SHOWN_AT_MOST]:
        click.echo(f"  {line}")
    if len(lines) > _SHOWN_AT_MOST:
        click.echo(f"  and {len(lines) - _SHOWN_AT_MOST:,} more")
