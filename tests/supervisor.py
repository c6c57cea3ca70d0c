"""A small init for a device that has no systemd: starts what is enabled, starts again what dies.

``supervisor.py boot UNITS`` is process 1; ``supervisor.py ctl UNITS VERB ...`` is its systemctl.
It reads ``ExecStart``, ``Environment``, ``Restart`` and ``RestartSec`` of real unit files.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

FASTER = 10
"""A test has no time to wait for RestartSec."""


@dataclass
class Unit:
    name: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = False
    due_s: float = 0.0

    def settings(self) -> dict[str, str]:
        lines = (self.folder / self.name).read_text().splitlines()
        pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
        return {name: value for name, _, value in pairs}

    def start(self) -> None:
        self.wanted = True
        if self.process is not None and self.process.poll() is None:
            return
        settings = self.settings()
        given = dict(pair.partition("=")[::2] for pair in shlex.split(settings.get("Environment", "")))
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                shlex.split(settings["ExecStart"]), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **given}, start_new_session=True,
            )  # fmt: skip

    def stop(self) -> None:
        self.wanted = False
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None and self.process.poll() is None else 0

    def look(self) -> None:
        """Start again what has died and should not have."""
        if not self.wanted or self.process is None:
            return
        code = self.process.poll()
        if code is None:
            self.due_s = 0.0
            return
        settings = self.settings()
        if settings.get("Restart") == "on-failure" and code == 0:
            self.wanted = False
        elif not self.due_s:
            self.due_s = time.monotonic() + float(settings.get("RestartSec", "0.1")) / FASTER
        elif time.monotonic() > self.due_s:
            self.due_s = 0.0
            self.start()


class Init:
    def __init__(self, folder: Path) -> None:
        self.folder, self.units, self.lock = folder, dict[str, Unit](), threading.Lock()

    def unit(self, name: str) -> Unit:
        return self.units.setdefault(name, Unit(name, self.folder))

    def obey(self, verb: str, names: list[str]) -> tuple[int, str]:
        units = [self.unit(name) for name in names]
        if verb == "enable":
            (self.folder / "enabled").write_text("\n".join(names))
        elif verb in ("start", "stop"):
            for unit in units:
                getattr(unit, verb)()
        elif verb == "is-active":
            is_active = units[0].pid or units[0].wanted
            return (0, "active") if is_active else (3, "inactive")
        elif verb == "show":
            return 0, str(units[0].pid)
        return 0, ""

    def serve(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                words = json.loads(connection.makefile().readline())
                names = [word for word in words if word.endswith(".service")]
                verb = next(word for word in words if not word.startswith("-"))
                with self.lock:
                    try:
                        answer = self.obey(verb, names)
                    except OSError as error:
                        answer = (1, str(error))
                connection.sendall(json.dumps(answer).encode())


def boot(folder: Path) -> None:
    init = Init(folder)
    address = folder / "init.socket"
    address.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    enabled = folder / "enabled"
    for name in enabled.read_text().splitlines() if enabled.exists() else ():
        init.unit(name).start()
    threading.Thread(target=init.serve, args=(listener,), daemon=True).start()
    while True:
        time.sleep(0.02)
        with init.lock:
            for unit in list(init.units.values()):
                unit.look()


def control(folder: Path, words: list[str]) -> int:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(folder / "init.socket"))
    connection.sendall(json.dumps(words).encode() + b"\n")
    code, text = json.load(connection.makefile())
    print(text, file=sys.stderr if code == 1 else sys.stdout)
    return int(code)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.argv[1] == "boot":
        boot(Path(sys.argv[2]))
    sys.exit(control(Path(sys.argv[2]), sys.argv[3:]))
