"""The code base keeps its own rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from commands_page import PAGE, commands

from edgecnn.cli.main import COMMANDS, edgecnn

ROOT = Path(__file__).resolve().parent.parent

DEVICE_COMMANDS = ["inspect", "check", "predict", "verify", "bench", "watch"]


def test_every_room_says_in_one_sentence_what_lives_there() -> None:
    rooms = [p for p in (ROOT / "edgecnn").rglob("__init__.py") if p.parent.name != "edgecnn"]

    long = [str(p) for p in rooms if len(p.read_text(encoding="utf-8").strip().splitlines()) != 1]

    assert long == []


@pytest.mark.parametrize(
    ("name", "command"), commands(edgecnn), ids=lambda x: x if isinstance(x, str) else ""
)
def test_every_command_has_help_with_an_example(name: str, command: click.Command) -> None:
    if isinstance(command, click.Group):
        return
    assert "Example:" in (command.help or "")
    assert name in (command.help or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_in_the_list_of_commands_is_the_first_line_of_the_commands_help(name: str) -> None:
    command = edgecnn.get_command(click.Context(edgecnn), name)

    assert command is not None
    assert COMMANDS[name][1].rstrip(".") in (command.help or "").replace("\n", " ")


@pytest.mark.parametrize("name", DEVICE_COMMANDS)
def test_a_device_command_is_found_without_tensorflow(name: str) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'tf_keras', 'keras']));"
        f"sys.argv = ['edgecnn', '{name}', '--help'];"
        "from edgecnn.cli.main import main; main()"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_help_imports_neither_numpy_nor_opencv_nor_tensorflow() -> None:
    code = (
        "import sys; sys.argv = ['edgecnn', '--help']\n"
        "from edgecnn.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'numpy', 'cv2', 'tensorflow', 'rich'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_the_page_of_all_commands_says_what_their_help_says() -> None:
    # A process of its own: click keeps a command's help option from its first run, maybe one without '-h'.
    code = "from commands_page import page; print(page(), end='')"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True, check=True
    )

    assert PAGE.read_text(encoding="utf-8") == done.stdout, "run 'make docs'"
