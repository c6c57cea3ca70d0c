"""Asks the edgecnn of a slot, in a process of its own, whether the slot's model can be trusted here."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
from typing import Any

from .refused import Refused
from .services import secrets

GROUPS = ("video", "gpio", "render", "plugdev")
"""What the service belongs to, as its unit says, so that the trial sees no more and no less."""

TIMEOUT_S = 180
"""A Pi Zero 2 W needs about 20 s to import everything; a camera that hangs never ends."""


def verify(folder: str, model: str, user: str | None, trust: str, frame: bool) -> dict[str, Any]:
    """Let the slot's own edgecnn verify the slot.

    Args:
        folder: Of the slot.
        model: Name of the model file in it.
        user: Who the service runs as; None for whoever runs this.
        trust: Folder of public keys; empty for none.
        frame: Whether to take one frame from the camera and look at it.

    Returns:
        What ``edgecnn verify --json`` says.

    Raises:
        Refused: With the words of edgecnn, if it refuses.
    """
    command = [
        os.path.join(folder, "env", "bin", "edgecnn"),
        *("verify", os.path.join(folder, model), "--config", os.path.join(folder, "watch.toml"), "--json"),
        *(["--trust", trust] if trust else []),
        *(["--frame"] if frame else []),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd="/",
            close_fds=False,  # it keeps the lock
            env={**os.environ, **secrets(), **(_home(user) if user else {})},
            **(_as(user) if user else {}),
        )
    except subprocess.TimeoutExpired:
        raise Refused(
            f"The proof on the device did not end within {TIMEOUT_S} s.",
            "Look whether the camera hangs: unplug it, or start the device anew.",
        ) from None
    except OSError as error:
        raise Refused(f"The environment on the device is not whole: {error}.", "Deploy again.") from error
    if done.returncode:
        raise _refused(done.stderr)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise _refused(done.stderr or done.stdout) from error
    return found


def _refused(stderr: str) -> Refused:
    r"""Take edgecnn's two lines; or the last one of whatever else was said.

    Example:
        >>> _refused("Error: The camera is gone.\nFix: Plug it in.\n").fix
        'Plug it in.'
    """
    said = {line.partition(": ")[0]: line.partition(": ")[2] for line in stderr.splitlines()}
    last = (stderr.strip().splitlines() or ["it said nothing"])[-1]
    return Refused(
        said.get("Error") or f"edgecnn failed on the device: {last}",
        said.get("Fix") or "Run 'edgecnn verify' on the device by hand.",
    )


def _as(user: str) -> dict[str, Any]:
    person = pwd.getpwnam(user)
    known = {group.gr_name: group.gr_gid for group in grp.getgrall()}
    groups = [known[name] for name in GROUPS if name in known]
    return {"user": person.pw_uid, "group": person.pw_gid, "extra_groups": groups}


def _home(user: str) -> dict[str, str]:
    return {"HOME": pwd.getpwnam(user).pw_dir, "USER": user}
