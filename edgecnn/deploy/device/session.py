"""Answers the workstation: one JSON line in, one JSON line out, over the pipes that ssh gives.

A session holds the lock of the device while it lives, and ends with its link; so a deploy that was cut
leaves no lock behind.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import signal
import subprocess
import sys
import uuid
from typing import Any

from .environment import build, has_room, is_whole
from .facts import facts
from .guard import services
from .layout import (
    DEPLOYED,
    PROVING,
    SETTLED,
    SLOTS,
    STAGING,
    Layout,
    digest,
    intact,
    remove,
    sync,
    write,
    write_json,
)
from .refused import Refused
from .services import GUARD, WATCH, health
from .verify import verify

GREETING = b"edgecnn device 1\n"
SILENT_FOR_S = 60
"""A workstation that says nothing for so long has gone, even if the link has not noticed."""


class Session:
    """What a workstation may ask of this device.

    Args:
        root: Folder that edgecnn lives in.
        agent: The archive that this very code came in, for the guard to run from.
    """

    def __init__(self, root: str, agent: bytes) -> None:
        self._layout, self._agent = Layout(root), agent
        self._lock: int | None = None

    def answer(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Do what one request asks."""
        name = request.pop("do")
        found: dict[str, Any] = getattr(self, f"do_{name}")(**request, **({"body": body} if body else {}))
        return found

    def do_facts(self) -> dict[str, Any]:
        """Say what kind of machine this is."""
        return facts(self._layout.root)

    def do_status(self) -> dict[str, Any]:
        """Say what runs here, and what is going on."""
        layout, settings = self._layout, self._layout.settings()
        release = layout.release(layout.current)
        is_active = bool(settings) and services(settings).is_active(WATCH)
        return {
            "state": layout.state(),
            "current": layout.current,
            "releases": {slot: layout.release(slot) for slot in SLOTS},
            "active": is_active,
            "health": health(release["web"]) if release and is_active else None,
            "trusts": layout.keys(),
        }

    def do_history(self) -> dict[str, Any]:
        """Say what was done here."""
        return {"entries": self._layout.history()}

    def do_hold(self, who: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Take the lock of this device, and make it ready to take something.

        Returns:
            ``held``; if not, the ``phase`` that an earlier release is in, and ``who`` deploys now.
        """
        layout = self._layout
        os.umask(0o022)
        os.makedirs(layout.path("slots"), exist_ok=True)
        if self._lock is None:
            self._lock = layout.lock(wait=False)
        phase = layout.state()["phase"]
        if phase != SETTLED:
            self._let_go()
            services(layout.settings()).start(GUARD, wait=False)
            return {"held": False, "phase": phase}
        if self._lock is None:
            with open(layout.path("lock"), encoding="utf-8") as file:
                return {"held": False, "phase": "deploying", "who": file.read()}
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, who.encode(), 0)
        if settings["user"]:
            _make_user(settings["user"])
        write_json(layout.path("settings.json"), settings)
        return {"held": True, "phase": phase}

    def do_begin(self, file_names: list[str]) -> dict[str, Any]:
        """Make the staging slot ready, with nothing in it but what may be gone on with."""
        staging = self._layout.slot(STAGING)
        os.makedirs(staging, exist_ok=True)
        for name in os.listdir(staging):
            if name.split(".part")[0] not in file_names:
                remove(os.path.join(staging, name))
        return {}

    def do_offset(self, place: str, sha256: str) -> dict[str, Any]:
        """Say how much of a file is there; all of it counts as -1."""
        path = self._place(place)
        if digest(path) == sha256:
            return {"offset": -1}
        try:
            return {"offset": os.path.getsize(_part(path, sha256))}
        except FileNotFoundError:
            return {"offset": 0}

    def do_append(self, place: str, sha256: str, offset: int, body: bytes = b"") -> dict[str, Any]:
        """Add a piece to a file that is not whole yet."""
        path = self._place(place)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(_part(path, sha256), "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.truncate()
            file.write(body)
        return {}

    def do_finish(self, place: str, sha256: str) -> dict[str, Any]:
        """Give a file its name when all of it is there.

        Raises:
            Refused: If it is not what was sent; it is thrown away.
        """
        path = self._place(place)
        part = _part(path, sha256)
        if digest(part) != sha256:
            remove(part)
            raise Refused(f"'{os.path.basename(place)}' was changed on its way.", "Deploy again.")
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        sync(os.path.dirname(path))
        return {}

    def do_keep(self, name: str) -> dict[str, Any]:
        """Take a file over from the release that runs."""
        layout = self._layout
        with open(os.path.join(layout.path("current"), name), "rb") as file:
            write(os.path.join(layout.slot(STAGING), name), file.read())
        return {}

    def do_has_environment(self, env: str) -> dict[str, Any]:
        """Tell whether the environment of these pins is there, whole."""
        return {"has": is_whole(self._layout, env)}

    def do_environment(
        self, env: str, python: str, requirements: list[str], wheel: str, offline: bool
    ) -> dict[str, Any]:
        """Make the environment of these pins, if it is not there."""
        if not has_room(self._layout, env):
            self._layout.tidy_environments()
        if not has_room(self._layout, env):
            raise Refused(
                "The disk of the device has no room for another environment.",
                "Make room on the device, 600 MB, or take a larger SD card.",
            )
        return build(self._layout, env, python, requirements, wheel, offline)

    def do_prove(
        self, model: str, env: str, files: dict[str, str], release: str, allow_downgrade: int | None
    ) -> dict[str, Any]:
        """Verify what was sent with the device's own interpreter, and seal it.

        Raises:
            Refused: If it is damaged, unsigned where signatures are asked for, older than what was
                accepted, or computes something else here.
        """
        layout, staging = self._layout, self._layout.slot(STAGING)
        intact(staging, {"files": files})
        remove(os.path.join(staging, "env"))
        os.symlink(os.path.join("..", "..", "envs", env), os.path.join(staging, "env"))
        user = layout.settings().get("user")
        if user:  # an address of a webhook is a secret too
            os.chown(os.path.join(staging, "watch.toml"), 0, pwd.getpwnam(user).pw_gid)
            os.chmod(os.path.join(staging, "watch.toml"), 0o640)
        trust = layout.trust()
        found = verify(staging, model, user, trust, frame=False)
        if trust:
            self._refuse_downgrade(found["version"], allow_downgrade)
        sealed = {"id": release, "model": model, "env": env, "files": files, **found}
        write_json(os.path.join(staging, "release.json"), sealed)
        return sealed

    def _refuse_downgrade(self, version: int, allowed: int | None) -> None:
        present = (self._layout.release(self._layout.current) or {}).get("version")
        if present is not None and version < present and version != allowed:
            raise Refused(
                f"This model has version {version}; version {present} is on the device.",
                f"Sign it with a higher version, or ask for it by name: --allow-downgrade {version}.",
            )

    def do_commit(
        self, release: str, kind: str, who: str, probation_s: float, units: dict[str, str]
    ) -> dict[str, Any]:
        """Hand over to the guard, which needs no workstation.

        Args:
            release: What is to run: what was proven, or for a rollback what the other slot holds.
            kind: ``DEPLOYED`` or ``ROLLED_BACK``.
            who: Is responsible.
            probation_s: For how long it must be well.
            units: Text of the services, by name.
        """
        layout = self._layout
        slot = layout.current
        trial = SLOTS[1] if slot == SLOTS[0] else SLOTS[0]
        source = STAGING if kind == DEPLOYED else trial
        sealed = layout.release(source)
        if sealed is None or sealed["id"] != release:
            raise Refused("There is no proven release to go to.", "Deploy one: edgecnn deploy.")
        intact(layout.slot(source), sealed)
        write(layout.path("agent.pyz"), self._agent)
        services(layout.settings()).install(units)
        layout.reserve()
        state = {
            "phase": PROVING,
            "slot": slot,
            "trial": trial,
            "release": release,
            "deploy": uuid.uuid4().hex[:12],
            "kind": kind,
            "who": who,
            "probation_s": probation_s,
        }
        layout.set_state(state)
        self._let_go()
        services(layout.settings()).start(GUARD, wait=False)
        return {"deploy": state["deploy"], "slot": trial}

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _place(self, place: str) -> str:
        """Find a place below the root, and nowhere else."""
        path = os.path.normpath(self._layout.path(place))
        if not path.startswith(self._layout.root + os.sep):
            raise Refused(f"'{place}' lies outside of '{self._layout.root}'.", "Choose another name.")
        return path


def serve(root: str, agent: bytes) -> None:
    """Answer until the workstation has gone."""
    session, source, sink = Session(root, agent), sys.stdin.buffer, sys.stdout.buffer
    sink.write(GREETING)
    sink.flush()
    while True:
        signal.alarm(SILENT_FOR_S)  # ends this process, and with it the lock
        line = source.readline()
        if not line:
            return
        request = json.loads(line)
        size = request.pop("size", 0)
        body = source.read(size)
        if len(body) < size:
            return
        signal.alarm(0)
        sink.write(json.dumps(_answered(session, request, body)).encode() + b"\n")
        sink.flush()


def _answered(session: Session, request: dict[str, Any], body: bytes) -> dict[str, Any]:
    try:
        return {"answer": session.answer(request, body)}
    except Refused as refused:
        return {"error": refused.message, "fix": refused.fix}
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return {"error": "The disk of the device is full.", "fix": "Make room on it, and deploy again."}
        return {"error": f"On the device: {error}.", "fix": "Check the permissions on the device."}


def _part(path: str, sha256: str) -> str:
    return f"{path}.part-{sha256[:16]}"


def _make_user(name: str) -> None:
    """Make the user that the service runs as, where there is none."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        command = [
            "/usr/sbin/useradd",
            "--system",
            "--home-dir",
            "/var/lib/edgecnn",
            "--no-create-home",
            name,
        ]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise Refused(
                f"The user '{name}' cannot be made: {made.stderr.strip()}.", f"sudo useradd --system {name}"
            ) from None
