"""What a device gets before it goes out: keys, signed models, wheels, and a rehearsal on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from edgecnn.core.prediction import Scores
    from edgecnn.deploy.emulator import Emulator
    from edgecnn.deploy.rehearsal import Arrays
    from edgecnn.runtime.replay import Replay

TARGETS = ("bookworm-arm64", "bookworm-armhf", "trixie-arm64")
CPUS = ("cortex-a53", "cortex-a72", "cortex-a76")


@click.group()
def keys() -> None:
    """Make the keys that model files are signed with.

    \b
    Example:
        edgecnn keys new yard
    """


@keys.command("new")
@click.argument("name", type=click.Path(path_type=Path))
def new(name: Path) -> None:
    """Write the private key NAME.key, for you alone, and the public key NAME.pub, for devices.

    Neither is ever overwritten.

    \b
    Example:
        edgecnn keys new yard
    """
    from edgecnn.bundle import signature

    key, pub = signature.new_keys(name)
    (public,) = signature.read_trusted(pub)
    click.echo(f"{key}: private; keep it where no camera is, with a copy")
    click.echo(f"{pub}: public; for devices, fingerprint {public.fingerprint}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Private key of 'keys new'.")
@click.option("--version", type=int, help="A device refuses a lower one than it has.  [default: the time]")
def sign(file: Path, key: Path, version: int | None) -> None:
    """Sign a model FILE in place, so that devices which trust the key take it.

    \b
    Example:
        edgecnn sign fire.int8.tflite --key yard.key
    """
    from datetime import datetime, timezone

    from edgecnn.bundle import signature

    now = signature.version_at(datetime.now(timezone.utc))
    signature.sign(file, key, now if version is None else version)
    click.echo(f"{file}: signed with {key}, version {signature.version(file)}")


@click.command()
@click.option("--for", "target", required=True, type=click.Choice(TARGETS), help="Release and architecture.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder.  [default: wheelhouse-TARGET]")
def wheelhouse(target: str, out: Path | None) -> None:
    """Collect every wheel that a device without internet installs.

    A run that was stopped goes on where it stopped; a second run changes nothing.

    \b
    Example:
        edgecnn wheelhouse --for bookworm-arm64
    """
    from edgecnn.deploy import wheelhouse as room

    folder = out or Path(f"wheelhouse-{target}")
    house = room.build(room.TARGETS[target], folder, click.echo)
    click.echo(
        f"{folder}: {len(house.files)} wheels for Python {house.python}, {house.size_bytes / 1e6:.1f} MB"
    )
    if house.apt:
        click.echo(f"The device needs from Debian, beside them: sudo apt install {' '.join(house.apt)}")


class Emulated(click.Group):
    """A group whose unknown subcommands are run on the emulated Pi."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Give a subcommand of our own, or one that runs its name there."""
        own = super().get_command(ctx, cmd_name)
        return own or click.Command(
            cmd_name,
            callback=lambda words: _run_there(ctx.params["cpu"], [cmd_name, *words]),
            params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
            context_settings={"ignore_unknown_options": True, "help_option_names": []},
        )


@click.group(cls=Emulated, subcommand_metavar="COMMAND [ARGS]...")
@click.option(
    "--cpu", type=click.Choice(CPUS), default="cortex-a72", show_default=True,
    help="cortex-a53 is a Pi 3 or Zero 2, cortex-a72 a Pi 4, cortex-a76 a Pi 5.",
)  # fmt: skip
def emulate(cpu: str) -> None:
    """Run a COMMAND on an emulated 64-bit Raspberry Pi, built once in the cache.

    COMMAND is one of those below, any other command of edgecnn, python, or a program of Debian. Files keep
    their paths. What is computed there is what a Pi computes; how long it takes means nothing.

    \b
    Example:
        edgecnn emulate predict fire.int8.tflite yard.jpg
    """


@emulate.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Pictures: a folder, an archive or an .npz.")
@click.option(
    "--count", type=click.IntRange(1), default=50, show_default=True, help="How many of them, spread evenly."
)
@click.pass_context
def verify(ctx: click.Context, file: Path, data: Path | None, count: int) -> None:
    """Show whether FILE computes on ARM, bit by bit, what it computes on this machine.

    Compares the outputs for the pictures that the file has recorded, and for COUNT pictures of --data: as
    they were resized here, and as each side resizes them itself. Ends with status 3 if an integer differs
    for the same bytes, by more than the one code that a softmax may be off on ARM.

    \b
    Example:
        edgecnn emulate verify fire.int8.tflite --data data/fire --count 100
    """
    from edgecnn.deploy.rehearsal import rehearse
    from edgecnn.errors import CheckFailed
    from edgecnn.workstation.data.catalog import list_pictures

    pictures = []
    if data is not None:
        listed = list_pictures(data).pictures
        step = max(1, len(listed) // count)
        pictures = [picture.read() for picture in listed[::step][:count]]
    assert ctx.parent is not None
    emulator = _prepared(ctx.parent.params["cpu"])
    here, there = rehearse(emulator, file, pictures)
    if not _print_rehearsal(file, emulator.cpu, here, there):
        raise CheckFailed(
            f"'{file.name}' gives other integers on ARM than here, for the same bytes.",
            fix="Install the version of ai-edge-litert that edgecnn pins on both, with XNNPACK on.",
        )


@emulate.command("sshd")
@click.option("--disk", required=True, type=click.Path(path_type=Path), help="Folder; made if it is missing.")
@click.option("--port", type=click.IntRange(1024, 65535), default=2222, show_default=True)
@click.pass_context
def sshd(ctx: click.Context, disk: Path, port: int) -> None:
    """Let an emulated Pi be reached over ssh, until Ctrl-C switches it off.

    It has nothing but Debian, like a Pi out of its box, and keeps on its disk what is done to it. Only this
    machine reaches it.

    \b
    Example:
        edgecnn emulate sshd --disk pi/
    """
    from edgecnn.deploy.emulated_host import NAME, plug_in, run

    assert ctx.parent is not None
    host = plug_in(_prepared(ctx.parent.params["cpu"]), disk, port, click.echo)
    click.echo(f"Reach it from another terminal: ssh -F {host.ssh_config} {NAME}")
    click.echo(f"Deploy to it: edgecnn deploy {NAME} -F {host.ssh_config} --model FILE")
    run(host)


def _print_rehearsal(file: Path, cpu: str, here: Replay, there: Replay) -> bool:
    """Print what differs; whether all integers are equal."""
    import platform

    from rich.console import Console
    from rich.table import Table

    from edgecnn.deploy.rehearsal import difference

    table = Table("", "pictures", "differ", "by at most", "decided otherwise")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = {
        "recorded": (here.recorded, there.recorded),
        "resized here": (here.same, there.same),
        "resized by each": (here.outputs, there.outputs),
    }
    found = {name: difference(*pair) for name, pair in rows.items()}
    for name, row in found.items():
        if row.count:
            flipped_count = flips(file, *rows[name])
            table.add_row(
                name, str(row.count), str(row.differing_count), f"{row.largest:g}", str(flipped_count)
            )
    console = Console(highlight=False)
    console.print(f"{file}: {platform.machine()} {here.runtime} against {cpu} {there.runtime}")
    console.print(table)
    resized = difference((here.resized,), (there.resized,))
    if resized.differing_count:
        console.print(
            f"The resize itself differs on {resized.differing_count} of {resized.count} pictures, "
            f"by at most {resized.largest:g} of 255."
        )
    return all(
        is_close(file, *rows[name])
        for name in ("recorded", "resized here")
        if here.outputs[0].dtype.kind != "f"
    )


def is_close(file: Path, here: Arrays, there: Arrays) -> bool:
    """Whether two machines' integers are equal, or one code apart behind a softmax."""
    from edgecnn.deploy.rehearsal import difference
    from edgecnn.runtime.predictor import codes_apart, load

    predictor = load(file)
    return all(
        difference((a,), (b,)).largest <= codes_apart(predictor, index)
        for index, (a, b) in enumerate(zip(here, there, strict=True))
    )


def flips(file: Path, here: Arrays, there: Arrays) -> int:
    """Count the pictures on which any head decides otherwise."""
    import numpy as np

    from edgecnn.measure.parity import flipped
    from edgecnn.runtime.predictor import load

    predictor = load(file)
    thresholds = dict(predictor.manifest.thresholds) if predictor.manifest else {}

    def scores(outputs: Arrays, name: str) -> Scores:
        rows = (tuple(a[n : n + 1] for a in outputs) for n in range(len(outputs[0])))
        return np.stack([predictor.decoded(row)[name] for row in rows])

    places: set[int] = set()
    for head in predictor.heads:
        if head.kind != "heatmap":
            both = scores(here, head.name), scores(there, head.name)
            places |= set(flipped(*both, head, thresholds, thresholds).tolist())
    return len(places)


def _prepared(cpu: str) -> Emulator:
    """Build what is missing, with a sign of life on a terminal."""
    from rich.console import Console

    from edgecnn.deploy.emulator import prepare

    console = Console(stderr=True)
    with console.status("Looking at the emulated Pi ..."):
        return prepare(lambda text: console.print(text, highlight=False, soft_wrap=True), cpu)


def _run_there(cpu: str, words: list[str]) -> None:
    from edgecnn.cli.main import COMMANDS

    emulator = _prepared(cpu)
    if words[0] == "python":
        words = ["python3", *words[1:]]
    elif words[0] in COMMANDS:
        words = ["python3", "-m", "edgecnn", *words]
    _become(emulator.command(words), emulator.environment())


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Hand terminal, signals and exit status over to another program."""
    from edgecnn.deploy import calls

    sys.stdout.flush()
    calls.hide()
    program = shutil.which(command[0])
    assert program is not None
    os.execve(program, command, environment)
