"""Starts and stops the services, and asks the watch how it is."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

WATCH = "edgecnn.service"
GUARD = "edgecnn-guard.service"

TRIES = 5
PAUSE_S = 0.3
"""A manager that starts itself anew, or a bus that is busy, answers again within a second."""

_ENVIRONMENT = "/etc/edgecnn/environment"


class Services:
    """systemd, or the program that the user named in its place.

    Args:
        systemctl: The command, in words.
        folder: Where its units lie.
    """

    def __init__(self, systemctl: list[str], folder: str) -> None:
        self._systemctl, self._folder = systemctl, folder

    def install(self, units: dict[str, str]) -> None:
        """Write units that have changed, and let each start with the machine."""
        from .layout import write

        os.makedirs(self._folder, exist_ok=True)
        for name, text in units.items():
            write(os.path.join(self._folder, name), text.encode())
        self._run("daemon-reload")
        self._run("enable", *units)

    def start(self, name: str, wait: bool = True) -> None:
        """Start a service that may run already."""
        # The guard starts a watch whose readiness takes seconds, or never comes: it looks for itself.
        self._run(*([] if wait else ["--no-block"]), "start", name)

    def stop(self, name: str) -> None:
        """Stop a service that may have stopped already."""
        self._run("stop", name)

    def is_active(self, name: str) -> bool:
        """Tell whether a service runs, or is about to."""
        return self._ask("is-active", name) in ("active", "activating", "reloading")

    def main_pid(self, name: str) -> int:
        """Give the process of a service; 0 for none."""
        text = self._ask("show", "--property=MainPID", "--value", name)
        return int(text) if text.isdigit() else 0

    def _ask(self, *words: str) -> str:
        """Ask until there is an answer: a question that failed says nothing about the service."""
        for attempt in range(TRIES):
            time.sleep(PAUSE_S if attempt else 0)
            if said := self._run(*words, check=False).strip():
                return said
        return ""

    def _run(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            [*self._systemctl, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise OSError(f"'systemctl {' '.join(words)}' failed: {done.stderr.strip() or done.returncode}")
        return done.stdout


def health(web: dict[str, Any]) -> dict[str, Any]:
    """Ask the watch on this machine how it is.

    Args:
        web: ``url``, and ``token_file`` or ``token_env`` where the page has a token.

    Returns:
        ``healthy``; and where the token can be read, ``sha256``, ``frames_count``, ``incidents_count``
        and ``alarms``. Only ``healthy: False`` and ``reason`` where it does not answer.
    """
    try:
        well = _ask(web["url"] + "/healthz", "")
    except urllib.error.HTTPError as error:  # 503: it answers, and is not well
        said = _json(error)
        return {"healthy": False, "reason": f"it says '{said.get('state', error.code)}'"}
    except (OSError, ValueError) as error:
        return {"healthy": False, "reason": f"its page does not answer ({error})"}
    try:
        status = _ask(web["url"] + "/api/state", _token(web))["status"]
    except (OSError, ValueError, KeyError):
        return {"healthy": bool(well.get("healthy"))}
    return {
        "healthy": bool(well.get("healthy")),
        "sha256": status["model_sha256"],
        "frames_count": status["frames_count"],
        "incidents_count": status["incidents_count"],
        "alarms": status["alarms"],
    }


def _ask(url: str, token: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    # No proxy: it is this machine that is asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _json(error: urllib.error.HTTPError) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.load(error)
        return found
    except ValueError:
        return {}


def _token(web: dict[str, Any]) -> str:
    if web.get("token_file"):
        with open(web["token_file"], encoding="utf-8") as file:
            return file.read().strip()
    return secrets().get(web.get("token_env") or "", "")


def secrets() -> dict[str, str]:
    """Read what the unit reads by ``EnvironmentFile``; empty where there is no such file.

    Source:
        systemd.exec(5): lines of ``NAME=value``, quotes around a value are taken off.
    """
    try:
        with open(_ENVIRONMENT, encoding="utf-8") as file:
            pairs = [line.strip().partition("=") for line in file if "=" in line and line[0] not in "#;"]
    except OSError:
        return {}
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
