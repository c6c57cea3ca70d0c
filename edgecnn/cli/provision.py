"""What a device gets before it goes out: keys, signed models, wheels, and a rehearsal on this machine."""

from __future__ import annotations

from pathlib import Path

import click

TARGETS = ("bookworm-arm64", "bookworm-armhf", "trixie-arm64")


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
