"""The deploy, step by step: each can be done again, so a link that was cut costs only time."""

from __future__ import annotations

import getpass
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from edgecnn.bundle import file, signature
from edgecnn.deploy import release as releases
from edgecnn.deploy import wheelhouse
from edgecnn.deploy.device.layout import DEPLOYED, ROLLED_BACK, SETTLED, TAKEN_BACK
from edgecnn.deploy.device.services import GUARD, WATCH
from edgecnn.deploy.fitness import Facts, Refusal, facts_from, of_wheels, refusals, refuse
from edgecnn.deploy.release import CONFIG, Release, sha256
from edgecnn.deploy.remote import Link, LinkLost, Target
from edgecnn.errors import CheckFailed, DeployError
from edgecnn.runtime.predictor import agreement

ATTEMPTS: Final = 5
"""With pauses of 1, 2, 4 and 8 s between: a router that starts anew is back by then, or it takes minutes."""

SETTLES_WITHIN_S: Final = 900.0
"""Longer than three attempts of every phase on the slowest board."""

SERVICE_USER: Final = "edgecnn"

_UNITS: Final = "/etc/systemd/system"
_POLL_S: Final = 0.5
_UNIT_RUNS: Final = "/opt/edgecnn/bin/edgecnn watch /etc/edgecnn/watch.toml"
_GUARD_UNIT: Final = """\
[Unit]
Description=edgecnn sees a new release through its probation
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/env python3 {root}/agent.pyz {root}
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
"""


class Show(Protocol):
    """Shows a person how far it is."""

    def begin(self, title: str) -> None:
        """Say what is being done now."""

    def done(self, title: str, note: str, seconds: float) -> None:
        """Say what has been done, in one line."""

    def note(self, text: str) -> None:
        """Say something that is no step: that the link was cut, and that it goes on."""

    def progress(self, share: float) -> None:
        """Say how much of a long step is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for.

    Attributes:
        target: Which device.
        model: The model file.
        config: A ``watch.toml``; None to keep the one that is there.
        trust: A public key that the device shall trust from now on.
        wheelhouse: Folder to install from; None for the net.
        systemctl: Stands in for systemd's program; empty for systemd.
        probation_s: How long the new release must be well before it stays.
        allow_downgrade: The version of an older model that shall be taken all the same.
    """

    target: Target
    model: Path
    config: Path | None = None
    trust: Path | None = None
    wheelhouse: Path | None = None
    systemctl: str = ""
    probation_s: float = 60.0
    allow_downgrade: int | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What was found on a device before anything was changed.

    Attributes:
        facts: What kind of machine it is.
        skew_s: How far its clock is ahead of ours.
        status: What runs there.
        refusals: What stands in the way.
    """

    facts: Facts
    skew_s: float
    status: Mapping[str, Any]
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        host: Of the device.
        state: ``deployed``, ``rolled back``, ``taken back`` or ``unchanged``.
        reason: Why the device took it back; empty where it did not.
        release: Name of the release that was asked for.
        files: SHA-256 of its files, by name.
        environment: Digest of the environment that it runs in.
        slot: What the device watches from now; None for nothing.
        running: Name of the model that watches now; None for none.
    """

    host: str
    state: str
    reason: str
    release: str
    files: Mapping[str, str]
    environment: str
    slot: str | None = None
    running: str | None = None

    def at_the_end(self, state: str, reason: str, status: Mapping[str, Any]) -> Outcome:
        """Add what a device says that it runs."""
        running = status["releases"].get(status["current"])
        return replace(
            self,
            state=state,
            reason=reason,
            slot=status["current"],
            running=running["name"] if running else None,
        )


class TakenBack(CheckFailed):
    """The device took the release back.

    Attributes:
        outcome: What came of it.
    """

    def __init__(self, outcome: Outcome) -> None:
        now = f"{outcome.running} is running" if outcome.running else "nothing is running, as before"
        super().__init__(
            f"{outcome.host} took the release back: {outcome.reason}. {now[0].upper()}{now[1:]}.",
            fix="Mend what failed, and deploy again.",
        )
        self.outcome = outcome


def look(target: Target, folder: Path | None, systemctl: str) -> Look:
    """Look at a device, and change nothing.

    Args:
        target: Which device.
        folder: The wheelhouse that would be installed from; None for the net.
        systemctl: As in ``Order``.

    Raises:
        DeployError: If it cannot be reached.
    """
    house = wheelhouse.read(folder) if folder else None
    with Link(target) as link:
        asked_s = time.time()
        facts = facts_from(link.ask("facts"))
        # Its clock was read at some time between the question and the answer: no skew is seen within.
        clock_s = facts.clock_utc_s
        skew_s = max(0.0, clock_s - time.time()) + min(0.0, clock_s - asked_s)
        status = link.ask("status")
    python = house.python if house else None
    found = refusals(facts, skew_s, python, not systemctl, status["current"] is not None)
    found += of_wheels(facts, house)
    return Look(facts, skew_s, status, found)


def deploy(order: Order, show: Show) -> Outcome:
    """Bring a model onto a device, and stay until the device has decided.

    Args:
        order: What is asked for.
        show: Is told of each step.

    Returns:
        What came of it.

    Raises:
        BundleError: If the model file is damaged here.
        TakenBack: If the device took it back.
        DeployError: If the device cannot be reached, or refuses.
        SignatureError: If the key to be trusted is none.
    """
    # What is wrong here is said before anybody waits for the device.
    file.read(order.model)
    if order.trust:
        signature.read_trusted(order.trust)
    with _Timed(show, "look at the device") as timed:
        found = look(order.target, order.wheelhouse, order.systemctl)
        refuse(order.target.host, found.refusals)
        timed.note = f"{found.facts.board or found.facts.machine}, {found.facts.os}"
    with _Timed(show, "pack") as timed:
        wanted = _wanted(order, found)
        size = sum(map(len, wanted.models.values()))
        timed.note = f"{', '.join(wanted.models)}, {size / 1e6:.1f} MB, release {wanted.id[:12]}"
    host, environment = order.target.host, wanted.environment.digest
    asked = Outcome(host, DEPLOYED, "", wanted.id, wanted.digests, environment)
    work = _Deployment(order, wanted, found, show)
    for attempt in _attempts(show):
        with attempt, Link(order.target, _as_root(found, order.systemctl)) as link:
            work.link = link
            if not work.run():
                return asked.at_the_end(UNCHANGED, "", found.status)
    return _follow(order.target, _as_root(found, order.systemctl), work.deploy, asked, show)


def roll_back(target: Target, systemctl: str, probation_s: float, show: Show) -> Outcome:
    """Go back to the release before, by the same proof and probation.

    Raises:
        TakenBack: If that one fails too; the present one stays.
        LinkLost: If the connection breaks again and again; the device may have gone back by itself.
        DeployError: If there is none, or the device cannot be reached.
    """
    with _Timed(show, "look at the device"):
        found = look(target, None, systemctl)
    current = found.status["current"]
    other = next((r for slot, r in found.status["releases"].items() if r and slot != current), None)
    if current is None or other is None:
        raise DeployError(
            f"{target.host} holds no other release to go back to.", fix="Deploy the model that you want."
        )
    as_root, release, before = _as_root(found, systemctl), other["id"], found.status["state"].get("deploy")
    asked = Outcome(target.host, ROLLED_BACK, "", release, other["files"], other["env"])
    try:
        for attempt in _attempts(show):
            with attempt, Link(target, as_root) as link, _Timed(show, "hand over to the device") as timed:
                deploy, _ = _take(link, settings_of(target, systemctl), release, before)
                deploy = deploy or _commit(link, target, release, ROLLED_BACK, probation_s)
                timed.note = f"back to {other['name']}, release {release[:12]}"
        return _follow(target, as_root, deploy, asked, show)
    except LinkLost as error:
        # To do this again, as the link says, would go forward if the device has gone back by itself.
        raise LinkLost(
            error.message,
            fix="Ask --status what runs before you roll back again: a second time means the other slot.",
        ) from error


def status(target: Target) -> Mapping[str, Any]:
    """Ask what runs on a device, and what is going on."""
    with Link(target) as link:
        return link.ask("status")


def history(target: Target) -> tuple[Mapping[str, Any], ...]:
    """Ask who did what on a device, oldest first."""
    with Link(target) as link:
        return tuple(link.ask("history")["entries"])


class _Deployment:
    """What is done while the link holds; the device's guard does the rest.

    Every step asks first what is there already, so the whole of it may be done again.
    """

    def __init__(self, order: Order, wanted: Release, found: Look, show: Show) -> None:
        self._order, self._wanted, self._found, self._show = order, wanted, found, show
        self._before = found.status["state"].get("deploy")
        self.link: Link
        self.deploy = ""

    def run(self) -> bool:
        """Do every step; False if there is nothing to do."""
        for title, step in STEPS:
            with _Timed(self._show, title) as timed:
                timed.note = step(self)
            if self.deploy:
                return True
            if timed.note == _NOTHING_TO_DO:
                return False
        return True

    def hold(self) -> str:
        """Take the device for us, and see whether this release runs there already."""
        settings = settings_of(self._order.target, self._order.systemctl)
        self.deploy, status = _take(self.link, settings, self._wanted.id, self._before)
        if self.deploy:
            return "the device went on by itself"
        running = status["releases"].get(status["current"])
        is_same = running is not None and running["id"] == self._wanted.id and status["active"]
        if is_same and self._trusts_already(running):
            return _NOTHING_TO_DO
        return f"{running['name']} is running" if running else "nothing is running"

    def _trusts_already(self, running: Mapping[str, Any]) -> bool:
        """Tell whether no key is to be trusted, or it is there and what runs was proven by signature."""
        key = self._order.trust
        if key is None:
            return True
        offset = self.link.ask("offset", place=_place(key), sha256=sha256(key.read_bytes()))["offset"]
        return bool(running["signer"]) and int(offset) < 0

    def trust(self) -> str:
        """Let the device trust a key; from then on it takes nothing that is not signed."""
        key = self._order.trust
        if key is None:
            count = len(self._found.status["trusts"])
            return f"{count} keys are trusted" if count else "none: unsigned models are taken"
        content = key.read_bytes()
        is_new = self.link.send(content, sha256(content), _place(key), _nothing)
        return f"{key.stem} is trusted" if is_new else f"{key.stem} is trusted already"

    def send(self) -> str:
        """Bring everything onto the device, going on where it was cut."""
        wanted, link = self._wanted, self.link
        link.ask("begin", file_names=list(wanted.digests))
        files = {f"slots/staging/{name}": content for name, content in wanted.models.items()}
        if wanted.config is None:
            link.ask("keep", name=CONFIG)
        else:
            files[f"slots/staging/{CONFIG}"] = wanted.config
        if not link.ask("has_environment", env=wanted.environment.digest)["has"]:
            files |= {f"files/{name}": data for name, data in wanted.environment.files.items()}
        total, there = sum(map(len, files.values())), 0

        def on_bytes(count: int) -> None:
            nonlocal there
            there += count
            self._show.progress(there / total)

        sent = sum(link.send(data, sha256(data), place, on_bytes) for place, data in files.items())
        return f"{sent / 1e6:.1f} of {total / 1e6:.1f} MB had to be sent"

    def install(self) -> str:
        """Make the environment, or find it there."""
        needed = self._wanted.environment
        answer = self.link.ask(
            "environment", env=needed.digest, python=needed.python, requirements=list(needed.requirements),
            wheel=needed.wheel, offline=needed.offline,
        )  # fmt: skip
        where = "from the wheelhouse" if needed.offline else "from the net"
        return f"installed {where}" if answer["made"] else "is there already"

    def prove(self) -> str:
        """Let the device's own interpreter replay the recorded pictures."""
        wanted = self._wanted
        proof = self.link.ask(
            "prove", model=wanted.model, env=wanted.environment.digest, files=dict(wanted.digests),
            release=wanted.id, allow_downgrade=self._order.allow_downgrade,
        )  # fmt: skip
        # The edgecnn of a wheelhouse may be older than this one, and say less.
        how = agreement(proof["tolerance"], proof.get("tolerance_codes", 0))
        signed = f", signed by {proof['signer']}, version {proof['version']}" if proof["signer"] else ""
        fault = f"; {proof['fault']}" if proof.get("fault") else ""
        return f"{proof['golden_count']} recorded pictures, {how} ({proof['runtime']}){signed}{fault}"

    def commit(self) -> str:
        """Hand over; from here on the device needs nobody."""
        order = self._order
        self.deploy = _commit(self.link, order.target, self._wanted.id, DEPLOYED, order.probation_s)
        return "from here on it needs nobody"


UNCHANGED: Final = "unchanged"

_NOTHING_TO_DO: Final = "this very release runs already; nothing to do"

STEPS: Final[tuple[tuple[str, Callable[[_Deployment], str]], ...]] = (
    ("take the device", _Deployment.hold),
    ("keys", _Deployment.trust),
    ("send", _Deployment.send),
    ("environment", _Deployment.install),
    ("prove", _Deployment.prove),
    ("hand over to the device", _Deployment.commit),
)
"""What is done over the link, in this order; the fault tests break in after each."""


class _Timed:
    """Shows one step, with the time that it took, if it came to its end."""

    def __init__(self, show: Show, title: str) -> None:
        self._show, self._title, self.note = show, title, ""
        self._began_s = 0.0

    def __enter__(self) -> _Timed:
        self._began_s = time.monotonic()
        self._show.begin(self._title)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._show.done(self._title, self.note, time.monotonic() - self._began_s)


def _attempts(show: Show) -> Retrying:
    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        show.note(f"{error} Going on where it stopped ...")

    return Retrying(
        before_sleep=tell,
        retry=retry_if_exception_type(LinkLost),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(max=8),
        reraise=True,
    )


def _wanted(order: Order, found: Look) -> Release:
    running = found.status["releases"].get(found.status["current"])
    config = order.config.read_bytes() if order.config else None
    if config is None and running is None:
        config = releases.first_config(found.facts, file.read(order.model).manifest)
    environment = releases.environment(found.facts, order.wheelhouse)
    return releases.release(order.model, config, running, environment)


def settings_of(target: Target, systemctl: str) -> dict[str, Any]:
    """Say who supervises the services, where their units lie, and as whom they run."""
    if systemctl:
        return {"systemctl": shlex.split(systemctl), "units": f"{target.root}/units", "user": None}
    return {"systemctl": ["systemctl"], "units": _UNITS, "user": SERVICE_USER}


def units(root: str) -> dict[str, str]:
    """Give the services: the one of the camera example, run from the current slot, and the guard."""
    watch = Path(__file__).with_name(WATCH).read_text(encoding="utf-8")
    runs = f"{root}/current/env/bin/edgecnn watch {root}/current/{CONFIG}"
    assert _UNIT_RUNS in watch
    return {WATCH: watch.replace(_UNIT_RUNS, runs), GUARD: _GUARD_UNIT.format(root=root)}


def _as_root(found: Look, systemctl: str) -> bool:
    return not systemctl and not found.facts.is_root


def _take(
    link: Link, settings: dict[str, Any], release: str, before: str | None
) -> tuple[str, Mapping[str, Any]]:
    """Take the device for us, and see whether it went on without us when the link was cut.

    Args:
        link: To the device.
        settings: As ``settings_of`` gives them.
        release: The one that was, or is to be, handed over.
        before: The deploy that the device told of before anything was changed.

    Returns:
        The deploy that it has begun with ``release``, empty for none; and what runs.
    """
    _hold(link, settings)
    status = link.ask("status")
    state = status["state"]
    has_begun = state.get("release") == release and state.get("deploy") != before
    return (state["deploy"] if has_begun else ""), status


def _hold(link: Link, settings: dict[str, Any]) -> None:
    """Take the lock; wait where an earlier release is on probation, or where we were cut off at work.

    Raises:
        DeployError: If somebody else is deploying, or the device never settles.
    """
    who, ends_at_s = f"{getpass.getuser()}@{socket.gethostname()}", time.monotonic() + SETTLES_WITHIN_S
    while not (answer := link.ask("hold", who=who, settings=settings))["held"]:
        if answer.get("who", who) != who:
            raise DeployError(f"{answer['who']} is deploying to this device.", fix="Wait for it.")
        if time.monotonic() > ends_at_s:
            raise DeployError(
                f"An earlier release has been in '{answer['phase']}' for {SETTLES_WITHIN_S:g} s.",
                fix="Look at the device: sudo journalctl -u edgecnn-guard.",
            )
        time.sleep(_POLL_S)


def _commit(link: Link, target: Target, release: str, kind: str, probation_s: float) -> str:
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    answer = link.ask(
        "commit", release=release, kind=kind, who=who, probation_s=probation_s, units=units(target.root)
    )
    return str(answer["deploy"])


def _follow(target: Target, as_root: bool, deploy: str, asked: Outcome, show: Show) -> Outcome:
    """Look on until the device has settled, and say what it decided.

    Raises:
        TakenBack: If it took the release back.
    """
    with _Timed(show, "frame, switch and probation, on the device") as timed:
        for attempt in _attempts(show):
            with attempt, Link(target, as_root) as link:
                status = _settled(link, deploy)
        reason = status["state"]["reason"]
        outcome = asked.at_the_end(TAKEN_BACK if reason else asked.state, reason, status)
        if reason:
            raise TakenBack(outcome)
        timed.note = f"{outcome.running} is running, slot {outcome.slot}"
    return outcome


def _settled(link: Link, deploy: str) -> Mapping[str, Any]:
    ends_at_s = time.monotonic() + SETTLES_WITHIN_S
    while (status := link.ask("status"))["state"]["phase"] != SETTLED:
        if time.monotonic() > ends_at_s:
            raise DeployError(
                f"The device is still in '{status['state']['phase']}' after {SETTLES_WITHIN_S:g} s.",
                fix="It goes on by itself; ask later by --status.",
            )
        time.sleep(_POLL_S)
    if status["state"].get("deploy") != deploy:
        raise DeployError("Someone else has deployed since.", fix="Ask --history who.")
    return status


def _place(key: Path) -> str:
    """Say where a public key lies on the device."""
    return f"trust/{key.stem}.pub"


def _nothing(_: int) -> None:
    """Show no progress."""
