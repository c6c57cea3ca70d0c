"""A device on this machine: a real sshd on a loopback port, its own root folder, an init, a camera."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from broker import free_port, until

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SUPERVISOR = Path(__file__).with_name("supervisor.py")
BLUE = (30, 40, 200)
DISK_BYTES = 2 << 30


class PiBox:
    """What a Raspberry Pi is to ``edgecnn deploy``.

    Attributes:
        folder: Holds everything of it.
        root: Where edgecnn lives on it.
        name: By which ssh knows it.
    """

    def __init__(self, folder: Path, name: str = "porch") -> None:
        if SSHD is None:
            pytest.skip("needs sshd: apt-get install openssh-server")
        self.folder, self.name = folder, name
        self.root, self.units = folder / "root", folder / "root" / "units"
        self.port, self.page_port = free_port(), free_port()
        self.known_hosts = folder / "known_hosts"
        self.ssh_config = folder / "ssh_config"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.root.mkdir(parents=True)
        self.has_own_disk = self._mount("")
        self.units.mkdir()
        self._write_keys()

    def _write_keys(self) -> None:
        for name in ("host", "user"):
            key = self.folder / name
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
            subprocess.run(command, check=True)
        shutil.copy(self.folder / "user.pub", self.folder / "authorized_keys")
        self.know((self.folder / "host.pub").read_text())
        # The system's packages are the ones of these tests; edgecnn's own is what is deployed.
        packages = next(p for p in sys.path if p.endswith("site-packages"))
        python = Path(sys.executable).resolve().parent
        given = f'PATH="{python}:/usr/bin:/bin" PYTHONPATH="{packages}" TF_CPP_MIN_LOG_LEVEL=3'
        (self.folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.folder / 'host'}\n"
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nPidFile none\nStrictModes no\n"
            f"PasswordAuthentication no\nUsePAM no\nSetEnv {given}\nPermitRootLogin yes\n"
        )
        self._environment = {"PATH": f"{python}:/usr/bin:/bin", "PYTHONPATH": packages}
        self.ssh_config.write_text(
            f"Host {self.name}\n HostName 127.0.0.1\n Port {self.port}\n IdentitiesOnly yes\n"
            f" IdentityFile {self.folder / 'user'}\n UserKnownHostsFile {self.known_hosts}\n"
            " GlobalKnownHostsFile /dev/null\n"
        )

    def _mount(self, how: str, size: int = DISK_BYTES) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"{how}size={size},mode=755", "tmpfs", str(self.root)]
        return os.getuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill_disk(self) -> None:
        """Let the disk have not one free block."""

        def shrink() -> bool:
            # The kernel refuses less than is used; what runs may have written since the count.
            disk = os.statvfs(self.root)
            return self._mount("remount,", (disk.f_blocks - disk.f_bfree) * disk.f_frsize)

        assert until(shrink, 10)

    def empty_disk(self) -> None:
        """Give the disk its room back."""
        assert self._mount("remount,")

    def know(self, public_key: str) -> None:
        """Let the workstation know a host key of this device."""
        kind, key = public_key.split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def boot(self) -> None:
        """Switch it on."""
        Path("/run/sshd").mkdir(exist_ok=True)
        sshd = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        init = [sys.executable, str(SUPERVISOR), "boot", str(self.units)]
        with (self.folder / "log").open("ab") as log:
            for command in (init, sshd):
                self._processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                        env={**os.environ, **self._environment},
                    )
                )  # fmt: skip
        assert until(self._answers, 20), (self.folder / "log").read_text()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as s:
            return s.recv(4) == b"SSH-" and (self.units / "init.socket").exists()
        return False

    def power_off(self) -> None:
        """Take the power: nothing of it gets to say goodbye."""
        for process in self._processes:
            process.kill()
        # Whatever it started in a session of its own; /proc tells who it belongs to.
        for pid in self.pids(str(self.folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._processes.clear()
        assert until(lambda: not self.pids(str(self.folder)), 10)

    def pids(self, *marks: str) -> list[int]:
        """Find this device's own processes by what stands in their command lines."""
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                # The workstation's side names the device's folder too, in its options.
                is_ours = "ssh_config" not in line and "-F" not in line.split()
                if is_ours and all(mark in line for mark in marks):
                    found.append(int(folder.name))
        return found

    def kill(self, *marks: str) -> int:
        """Kill processes of this device, and of no other beside it."""
        pids = self.pids(str(self.folder), *marks)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def cut(self) -> int:
        """Cut every ssh connection; the listener stays."""
        return sum(
            self._kill_tree(child) for process in self._processes[1:2] for child in _children(process.pid)
        )

    @staticmethod
    def _kill_tree(pid: int) -> int:
        # Only sshd's own: what it has started sees the pipes close, as on a real device.
        own = [c for c in _children(pid) if "sshd" in _name(c)]
        for one in (*own, pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        return 1

    def control(self, *words: str) -> str:
        """Ask its init."""
        command = [sys.executable, str(SUPERVISOR), "ctl", str(self.units), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def state(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self.root / "state.json").read_text())
            return found
        return {}

    def history(self) -> list[dict[str, Any]]:
        with contextlib.suppress(OSError):
            lines = (self.root / "history.jsonl").read_text().splitlines()
            return [json.loads(line) for line in lines if line]
        return []

    def watching(self) -> str:
        """Give the digest of the model that watches, frames flowing; empty for none."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            page = f"http://127.0.0.1:{self.page_port}"
            with urllib.request.urlopen(f"{page}/healthz", timeout=2):
                pass
            with urllib.request.urlopen(f"{page}/api/state", timeout=2) as answer:
                return str(json.load(answer)["status"]["model_sha256"])
        return ""

    def config(self, clip: Path, more: str = "") -> Path:
        """Write a watch.toml for this device."""
        path = self.folder / "watch.toml"
        path.write_text(
            f'device = "{self.name}"\n[model]\npath = "fire.tflite"\nthreads = 1\n[source]\nuri = "{clip}"\n'
            f'[[alarm]]\nlabel = "fire"\n[journal]\nfolder = "{self.folder / "journal"}"\n'
            f"[web]\nport = {self.page_port}\n{more}"
        )
        return path

    def command(self, *words: str | Path) -> list[str]:
        """Give the command line of a deploy to this device."""
        systemctl = shlex.join([sys.executable, str(SUPERVISOR), "ctl", str(self.units)])
        options = ["-F", self.ssh_config, "--root", self.root, "--systemctl", systemctl]
        return [
            str(Path(sys.executable).parent / "edgecnn"),
            "deploy",
            self.name,
            *map(str, (*options, *words)),
        ]

    def deploy(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Deploy as a person does, and wait."""
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=180)


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            if int(re.sub(r".*\) ", "", stat.read_text()).split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""


def write_clip(path: Path, seconds: float, colour_rgb: tuple[int, int, int] = BLUE, fps: int = 5) -> Path:
    """Render a clip that moves."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (48, 32))
    for index in range(round(seconds * fps)):
        picture = np.full((32, 48, 3), colour_rgb[::-1], np.uint8)
        picture[:, index % 48] //= 2
        writer.write(picture)
    writer.release()
    return path


@contextlib.contextmanager
def pi_box(folder: Path, name: str = "porch") -> Iterator[PiBox]:
    """Lend a device that is switched on."""
    box = PiBox(folder, name)
    box.boot()
    try:
        yield box
    finally:
        box.power_off()
        if box.has_own_disk:
            subprocess.run(["umount", "--lazy", str(box.root)], check=True)


def wait_settled(box: PiBox, seconds: float = 60) -> bool:
    """Wait until the device has decided, however long its watch takes to come up."""
    ends_at_s = time.monotonic() + seconds
    while time.monotonic() < ends_at_s:
        if box.state().get("phase", "settled") == "settled":
            return True
        time.sleep(0.05)
    return False
