"""Where everything lies on the device, and how it changes without ever being half changed.

Below the root::

    slots/a, slots/b, slots/staging   model, watch.toml, release.json, env -> ../../envs/DIGEST
    current -> slots/a                what the service runs; renamed into place
    envs/DIGEST                       one environment a set of pins, shared by the slots
    files/                            wheels and keys on their way
    trust/                            public keys; when there is one, unsigned models are refused
    state.json                        what is going on; written beside and renamed
    history.jsonl                     who did what, when, with which digests
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from typing import Any

from .refused import Refused

RESERVE_BYTES = 1 << 20

STAGING = "staging"
SLOTS = ("a", "b")
SETTLED = "settled"
PROVING = "proving"
PROBATION = "probation"
REVERTING = "reverting"

DEPLOYED = "deployed"
ROLLED_BACK = "rolled back"
TAKEN_BACK = "taken back"


class Layout:
    """The folder that edgecnn lives in on this machine."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(os.path.expanduser(root))

    def path(self, *parts: str) -> str:
        """Give a place below the root."""
        return os.path.join(self.root, *parts)

    def slot(self, name: str) -> str:
        """Give the folder of a slot."""
        return self.path("slots", name)

    @property
    def current(self) -> str | None:
        """The slot that the service runs; None before the first release."""
        try:
            return os.path.basename(os.readlink(self.path("current")))
        except OSError:
            return None

    def point_to(self, slot: str | None) -> None:
        """Let ``current`` name a slot, or none; a reader finds the old one or the new one."""
        if slot is None:
            remove(self.path("current"))
            return
        link = self.path(".current.part")
        remove(link)
        os.symlink(os.path.join("slots", slot), link)
        os.replace(link, self.path("current"))
        sync(self.root)

    def release(self, slot: str | None) -> dict[str, Any] | None:
        """Say what a slot holds; None for nothing whole."""
        return read_json(os.path.join(self.slot(slot), "release.json")) if slot else None

    def state(self) -> dict[str, Any]:
        """Say what is going on."""
        return read_json(self.path("state.json")) or {"phase": SETTLED, "slot": None}

    def set_state(self, state: dict[str, Any]) -> None:
        """Say what is going on from now on, so that it outlives the power."""
        write_json(self.path("state.json"), state)

    def settings(self) -> dict[str, Any]:
        """Give what the last deploy said about this machine's services."""
        return read_json(self.path("settings.json")) or {}

    def history(self) -> list[dict[str, Any]]:
        """Give everything that was done, oldest first; a line that a power cut tore is left out."""
        try:
            with open(self.path("history.jsonl"), encoding="utf-8") as file:
                lines = file.read().splitlines()
        except OSError:
            return []
        return [entry for entry in map(_entry, lines) if entry]

    def note(self, entry: dict[str, Any]) -> None:
        """Add to the history, once: a step that is repeated after a power cut notes the same again."""
        known = [(e.get("deploy"), e.get("action")) for e in self.history()]
        if (entry.get("deploy"), entry["action"]) in known:
            return
        line = json.dumps({"at": _utc(), **entry}, ensure_ascii=False)
        with open(self.path("history.jsonl"), "a", encoding="utf-8") as file:
            # The first newline ends a line that a power cut tore.
            file.write(("\n" if file.tell() else "") + line)
            file.flush()
            os.fsync(file.fileno())

    def keys(self) -> list[str]:
        """Name the public keys that are trusted; with none, unsigned models are taken."""
        return [name for name in _names(self.path("trust")) if name.endswith(".pub")]

    def trust(self) -> str:
        """Give the folder of the trusted keys; empty where there is none."""
        return self.path("trust") if self.keys() else ""

    def lock(self, wait: bool) -> int | None:
        """Take the one lock of this device; it ends with the process, however that ends.

        What the process has started and left behind keeps it too, so that no two write one environment.

        Returns:
            The descriptor that holds it; None if another process does.
        """
        descriptor = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.set_inheritable(descriptor, True)
        return descriptor

    def reserve(self) -> None:
        """Set some disk aside, for the guard to free when it has to write."""
        with open(self.path("reserve"), "wb") as file:
            file.write(bytes(RESERVE_BYTES))
            os.fsync(file.fileno())

    def tidy(self) -> None:
        """Remove what no slot needs: files on their way and other environments."""
        self.tidy_environments()
        remove(self.path("files"))

    def tidy_environments(self) -> None:
        """Remove the environments that no slot needs; what was taken back waits in the staging slot."""
        kept = {(self.release(slot) or {}).get("env") for slot in (*SLOTS, STAGING)}
        for name in _names(self.path("envs")):
            if name not in kept:
                remove(self.path("envs", name))


def intact(folder: str, release: dict[str, Any]) -> None:
    """Refuse a slot whose files are not those that were proven.

    Raises:
        Refused: If one is missing or changed.
    """
    for name, expected in release["files"].items():
        if digest(os.path.join(folder, name)) != expected:
            raise Refused(
                f"'{name}' has changed on the device since it was proven.",
                "Deploy again; if it happens again, replace the SD card.",
            )


def digest(path: str) -> str | None:
    """Give the SHA-256 of a file; None where there is none."""
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    except OSError:
        return None
    return found.hexdigest()


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write a file whole, or leave what is there as it is."""
    write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write(path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a file whole, or leave what is there as it is; durable when it returns."""
    part = f"{path}.part"
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, mode)
        os.replace(part, path)
    except OSError:
        remove(part)
        raise
    sync(os.path.dirname(path))


def read_json(path: str) -> dict[str, Any] | None:
    """Read a file that ``write_json`` wrote; None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            value: dict[str, Any] = json.load(file)
            return value
    except (OSError, ValueError):
        return None


def remove(path: str) -> None:
    """Remove a file, a link or a folder; one that is not there is no error."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def sync(folder: str) -> None:
    """Make the names in a folder outlive the power (fsync(2): the entry needs an fsync of its own)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _entry(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
