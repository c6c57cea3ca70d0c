"""The ``edgecnn`` command: finds a subcommand by name and imports it only then."""

from __future__ import annotations

import importlib
import io
import sys
from typing import NoReturn

import click

from edgecnn import __version__
from edgecnn.errors import EdgecnnError

COMMANDS = {
    "demo": ("workstation", "Run the whole chain on pictures that edgecnn renders itself."),
    "data": ("data", "List, fetch, check and render data sets."),
    "train": ("workstation", "Train the network of a recipe on pictures."),
    "prune": ("workstation", "Take the least useful weights or channels out, and fine-tune the rest."),
    "convert": ("workstation", "Convert a Keras model into one self-describing .tflite file."),
    "inspect": ("device", "Print the layers, the metadata and the provenance of a model FILE."),
    "check": ("targets", "Say which operators of a model FILE a target runs, and why not the rest."),
    "predict": ("device", "Name what the model FILE sees in pictures, folders and clips."),
    "verify": ("device", "Find out whether the model FILE can be trusted on this machine."),
    "bench": (
        "measure",
        "Measure accuracy and latency of FILE, side by side with others, and write a report.",
    ),
    "zoo": ("zoo", "List the trained models that ship, and find their files."),
    "watch": ("watch", "Watch a camera, and raise an alarm."),
    "deploy": ("deploy", "Bring a model onto the camera HOST, and take it back if it fails there."),
    "keys": ("provision", "Make the keys that model files are signed with."),
    "sign": ("provision", "Sign a model FILE in place, so that devices which trust the key take it."),
    "wheelhouse": ("provision", "Collect every wheel that a device without internet installs."),
    "emulate": ("provision", "Run a COMMAND on an emulated 64-bit Raspberry Pi, built once in the cache."),
}


class LazyGroup(click.Group):
    """A group that imports the module of a command when it runs, so that ``--help`` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in the order in which people use them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"edgecnn.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgecnn")
def edgecnn() -> None:
    """Take a convolutional network from pictures to a camera that can be trusted.

    \b
    Example:
        edgecnn demo
    """


def main() -> NoReturn:
    """Run the command line; a mistake of the user ends in two lines, never in a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # The name of a file need not be UTF-8; what reads the output gets the bytes that it has on the disk.
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        edgecnn(standalone_mode=False)
    except EdgecnnError as error:
        click.echo(f"Error: {error.message}\nFix: {error.fix}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        # A device has no h5py or TensorFlow; what edgecnn itself lacks is our mistake.
        if error.name is None or error.name.startswith("edgecnn"):
            raise
        click.echo(
            f"Error: This command needs the package {error.name}, which is not installed.\n"
            "Fix: Install the workstation side: pip install 'edgecnn[workstation]'.",
            err=True,
        )
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:  # a full disk, a folder that may not be written: whatever no room expected
        click.echo(f"Error: {error}.\nFix: Check the path, the permissions and the free space.", err=True)
        sys.exit(1)
    sys.exit(0)
