"""``deploy``: a model onto a camera, and back if it fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from edgecnn.deploy.flow import Look, Outcome

_SHOWN_DIGITS = 12


@click.command()
@click.argument("host")
@click.option("--model", type=click.Path(path_type=Path), help="The model file to bring there.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="How it watches. Default: the watch.toml that is there, or one for the first camera.",
)
@click.option(
    "--wheelhouse",
    type=click.Path(path_type=Path),
    help="Install from this folder of 'edgecnn wheelhouse', without the net.",
)
@click.option(
    "--trust",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .pub file: from now on the device takes only what this key has signed.",
)
@click.option(
    "--allow-downgrade",
    type=click.IntRange(0),
    metavar="VERSION",
    help="Take the signed model of this version although a later one is there.",
)
@click.option(
    "--probation",
    "probation_s",
    type=click.FloatRange(1, 3600),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long the new release must be well before it stays.",
)
@click.option("--dry-run", is_flag=True, help="Look, say what would be done, and change nothing.")
@click.option("--rollback", is_flag=True, help="Go back to the release before.")
@click.option("--status", is_flag=True, help="Say what runs there.")
@click.option("--history", is_flag=True, help="Say who did what there, when, with which digests.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; how far it is goes to stderr.")
@click.option(
    "-p", "--port", type=click.IntRange(1, 65535), help="Of ssh. Default: as ssh's configuration says."
)
@click.option(
    "-F", "--ssh-config", type=click.Path(path_type=Path), help="Instead of ssh's own configuration file."
)
@click.option("--root", default="/opt/edgecnn", show_default=True, help="Where edgecnn lives on the device.")
@click.option(
    "--systemctl",
    default="",
    metavar="PROGRAM",
    help="Where systemd is not: what takes its verbs. Units then lie in ROOT/units.",
)
def deploy(
    host: str,
    model: Path | None,
    config: Path | None,
    wheelhouse: Path | None,
    trust: Path | None,
    allow_downgrade: int | None,
    probation_s: float,
    dry_run: bool,
    rollback: bool,
    status: bool,
    history: bool,
    as_json: bool,
    port: int | None,
    ssh_config: Path | None,
    root: str,
    systemctl: str,
) -> None:
    """Bring a model onto the camera HOST, and take it back if it fails there.

    HOST is what ssh takes: USER@HOST, ssh://USER@HOST:PORT, or a name of its configuration.

    \b
    Example:
        edgecnn deploy pi@porch.local --model fire.int8.tflite --config watch.toml
    """
    from edgecnn.deploy import flow
    from edgecnn.deploy.remote import Target

    asked = [dry_run, rollback, status, history]
    if sum(asked) > 1 or (not any(asked) and model is None):
        raise click.UsageError("Give --model, or one of --dry-run, --rollback, --status and --history.")
    if not root.startswith("/"):
        raise click.UsageError("--root is an absolute path on the device.")
    target = Target(host, port, ssh_config, root)
    if status:
        _print_status(target.host, flow.status(target), as_json)
    elif history:
        _print_history(flow.history(target), as_json)
    elif dry_run:
        _print_look(target.host, flow.look(target, wheelhouse, systemctl), as_json)
    elif rollback:
        _bring(lambda show: flow.roll_back(target, systemctl, probation_s, show), as_json)
    else:
        assert model is not None
        _check_config(config)
        order = flow.Order(target, model, config, trust, wheelhouse, systemctl, probation_s, allow_downgrade)
        _bring(lambda show: flow.deploy(order, show), as_json)


def _bring(work: Callable[[Transcript], Outcome], as_json: bool) -> None:
    """Let a device change, and say what came of it, even if it took it back."""
    from edgecnn.deploy.flow import UNCHANGED, TakenBack

    show = Transcript()
    try:
        outcome = work(show)
    except TakenBack as failure:
        if as_json:
            _print_outcome(failure.outcome, show)
        raise
    if as_json:
        _print_outcome(outcome, show)
    elif outcome.state == UNCHANGED:
        click.echo(f"{outcome.host}: unchanged.")
    else:
        click.echo(f"{outcome.host} watches with {outcome.running}.")


def _print_outcome(outcome: Outcome, show: Transcript) -> None:
    facts = {**asdict(outcome), "seconds": show.seconds}
    click.echo(json.dumps(facts, indent=1, ensure_ascii=False))


def _check_config(config: Path | None) -> None:
    """Refuse here what the device would refuse after minutes."""
    if config is not None:
        from edgecnn.watch.config import load

        load(config)


class Transcript:
    """One line a step, with its time; satisfies ``flow.Show``.

    Attributes:
        seconds: How long each step took that came to its end, with what had to be done again.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.seconds: dict[str, float] = {}
        self._title = ""
        self._spinner: Status | None = None

    def begin(self, title: str) -> None:
        """Show that something is being done, where somebody looks."""
        self._stop()
        self._title = title
        if self._console.is_terminal:
            self._spinner = self._console.status(title)
            self._spinner.start()

    def done(self, title: str, note: str, seconds: float) -> None:
        """Print the line of a step."""
        self._stop()
        self.seconds[title] = round(self.seconds.get(title, 0.0) + seconds, 3)
        self._console.print(f"[green]ok[/] {title:<42} {seconds:6.1f} s  [dim]{_plain(note)}[/]")

    def note(self, text: str) -> None:
        """Print something that is no step."""
        self._stop()
        self._console.print(f"[yellow].. [/]{_plain(text)}")

    def progress(self, share: float) -> None:
        """Show how much of a step is done."""
        if self._spinner is not None:
            self._spinner.update(f"{self._title}: {share:.0%}")

    def _stop(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True)


def _print_look(host: str, found: Look, as_json: bool) -> None:
    import msgspec

    from edgecnn.deploy import fitness

    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE, show_header=False, title=host)
        for name, value in fitness.described(found.facts, found.skew_s).items():
            table.add_row(name, value)
        _console().print(table)
        running = found.status["releases"].get(found.status["current"])
        click.echo(f"Running: {running['name'] if running else 'nothing'}")
        if not found.refusals:
            click.echo(
                "It can take a release: what is new is brought beside what runs and proven there; then the "
                "device takes one frame, switches, and watches the watch. Nothing was changed."
            )
    fitness.refuse(host, found.refusals)


def _print_status(host: str, found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    running = found["releases"].get(found["current"])
    if running is None:
        click.echo(f"{host}: nothing is running.")
        return
    well = {True: "well", False: "not well"}[bool((found["health"] or {}).get("healthy"))]
    click.echo(f"{host}: {_named(running)} in slot {found['current']}, {well}")
    click.echo(f"Doing: {found['state']['phase']}")
    for slot, release in found["releases"].items():
        if release and slot != found["current"]:
            click.echo(f"To go back to: {_named(release)} in slot {slot}")
    click.echo(f"Trusts: {', '.join(found['trusts']) or 'everyone; unsigned models are taken'}")


def _named(release: Mapping[str, Any]) -> str:
    signed = "" if release["version"] is None else f", version {release['version']}"
    return f"{release['name']} (sha256 {release['sha256'][:_SHOWN_DIGITS]}{signed})"


def _print_history(entries: tuple[Mapping[str, Any], ...], as_json: bool) -> None:
    for entry in entries:
        if as_json:
            click.echo(json.dumps(entry))
            continue
        digests = ", ".join(f"{name} {d[:_SHOWN_DIGITS]}" for name, d in (entry["files"] or {}).items())
        reason = f": {entry['reason']}" if entry.get("reason") else ""
        click.echo(f"{entry['at']}  {entry['who']}  {entry['action']}  {entry['name']}  {digests}{reason}")
