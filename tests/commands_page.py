"""Write docs/commands.md from the help of every command: ``python tests/commands_page.py``."""

from __future__ import annotations

from pathlib import Path

import click

from edgecnn.cli.main import edgecnn

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"


def commands(group: click.Group, prefix: str = "edgecnn") -> list[tuple[str, click.Command]]:
    """Give every command and subcommand with its full name, in the order of the help."""
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found.append((f"{prefix} {name}", command))
        if isinstance(command, click.Group):
            found += commands(command, f"{prefix} {name}")
    return found


def page() -> str:
    """Give the page as it should be."""
    parts = ["# All commands\n\nWritten from `--help` by `make docs`; do not edit.\n"]
    # The parent hands its settings down, as it does when a user asks for help.
    root = click.Context(edgecnn, **edgecnn.context_settings)
    for name, command in commands(edgecnn):
        context = click.Context(
            command, info_name=name, parent=root, terminal_width=100, max_content_width=100
        )
        parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
