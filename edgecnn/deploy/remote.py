"""The one door to a device: OpenSSH's own program, and a conversation over its pipes.

The device needs nothing but ssh and Python. Its side of the conversation, ``edgecnn.deploy.device``,
crosses as one archive in front of the first request and is imported from memory, as sshuttle does it; so
to look at a device leaves nothing on it.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from edgecnn.deploy.device.session import GREETING
from edgecnn.errors import DeployError

CHUNK_BYTES: Final = 1 << 17

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_MAIN: Final = "import sys\nfrom edgecnn_agent.guard import main\nmain(sys.argv[1])\n"
# memfd_create(2): a file without a name; zipimport needs one that it can open by path.
_BOOT: Final = """
import os, sys
size = int(sys.stdin.buffer.readline())
agent = sys.stdin.buffer.read(size)
file = os.memfd_create("agent")
os.write(file, agent)
sys.path.insert(0, "/proc/self/fd/%d" % file)
from edgecnn_agent.session import serve
serve(sys.argv[1], agent)
"""

# An end that has gone is noticed within 15 s; an unknown host key, a password or a question stops it.
_OPTIONS: Final = (
    "BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15", "ServerAliveInterval=5",
    "ServerAliveCountMax=3", "Compression=no",
)  # fmt: skip

_REASONS: Final = (
    (
        "host key verification failed",
        "The host key of {host} is unknown here, or is another one than before.",
        "Log in once by 'ssh {host}' and compare the fingerprint; after a new SD card, 'ssh-keygen -R HOST'.",
    ),
    (
        "permission denied",
        "{host} lets nobody in with the keys that ssh offers.",
        "Bring your key there: ssh-copy-id {host}; or start ssh-agent and ssh-add the key.",
    ),
    ("could not resolve", "The name of {host} is not known here.", "Check it, or give the address."),
    (
        "password is required",
        "On {host}, sudo asks for a password.",
        "Let that user call sudo without one, as Raspberry Pi OS does, or deploy as root.",
    ),
    (
        "not found",
        "There is no Python on {host}.",
        "Install it there: sudo apt install python3 python3-venv.",
    ),
)


class LinkLost(DeployError):
    """The connection has gone; what was sent so far is kept, so it can be gone on with."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, as ssh understands it.

    Attributes:
        host: ``USER@HOST``, ``ssh://USER@HOST:PORT`` or a name of ssh's own configuration.
        port: None for what ssh's configuration says.
        ssh_config: Instead of ``~/.ssh/config``.
        root: Folder on the device that edgecnn lives in.
    """

    host: str
    port: int | None = None
    ssh_config: Path | None = None
    root: str = "/opt/edgecnn"

    def command(self, as_root: bool) -> list[str]:
        """Give the command that starts the device's side."""
        words = ["python3", "-c", _BOOT, self.root]
        remote = shlex.join((["sudo", "-n"] if as_root else []) + words)
        options = [f"-o{option}" for option in _OPTIONS]
        options += [] if self.port is None else ["-p", str(self.port)]
        options += [] if self.ssh_config is None else ["-F", str(self.ssh_config)]
        return ["ssh", "-T", *options, "--", self.host, remote]


def agent() -> bytes:
    """Pack the device's side; the same code gives the same bytes."""
    folder = Path(__file__).with_name("device")
    files = {f"edgecnn_agent/{path.name}": path.read_text("utf-8") for path in sorted(folder.glob("*.py"))}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in {**files, "__main__.py": _MAIN}.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return out.getvalue()


class Link:
    """A conversation with one device.

    Args:
        target: Where to.
        as_root: Whether the device's side runs by sudo.

    Raises:
        LinkLost: If the connection breaks before it stands.
        DeployError: If ssh refuses, with the way out.
    """

    def __init__(self, target: Target, as_root: bool = False) -> None:
        self._host = target.host
        # A file, not a pipe: what nobody reads would fill it, and ssh would stop.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the link
        try:
            self._ssh = subprocess.Popen(
                target.command(as_root), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
            )
        except FileNotFoundError as error:
            raise DeployError(
                "The program ssh is not installed here.", fix="Install it: sudo apt install openssh-client."
            ) from error
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the device's side notices and ends."""
        self._ssh.kill()
        self._ssh.communicate()
        self._said.close()

    def ask(self, do: str, body: bytes = b"", **words: Any) -> dict[str, Any]:
        """Ask for one thing and wait for the answer.

        Raises:
            LinkLost: If the connection breaks; nobody knows whether it was done.
            DeployError: If the device refuses.
        """
        request = {"do": do, **words, **({"size": len(body)} if body else {})}
        self._write(json.dumps(request).encode() + b"\n" + body)
        assert self._ssh.stdout is not None
        line = self._ssh.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._lost()
        said = json.loads(line)
        if "error" in said:
            raise DeployError(said["error"], fix=said["fix"])
        answer: dict[str, Any] = said["answer"]
        return answer

    def send(self, content: bytes, sha256: str, place: str, on_bytes: Callable[[int], None]) -> int:
        """Bring a file onto the device, going on from what is there of it already.

        Args:
            content: The file.
            sha256: Its digest, by which the device knows it when it is whole.
            place: Below the root of the device.
            on_bytes: Is given how many more bytes are there.

        Returns:
            How many bytes had to be sent.
        """
        offset = start = int(self.ask("offset", place=place, sha256=sha256)["offset"])
        if offset < 0:
            on_bytes(len(content))
            return 0
        on_bytes(offset)
        while offset < len(content) or not content:
            piece = content[offset : offset + CHUNK_BYTES]
            self.ask("append", piece, place=place, sha256=sha256, offset=offset)
            offset += len(piece)
            on_bytes(len(piece))
            if not content:
                break
        self.ask("finish", place=place, sha256=sha256)
        return len(content) - start

    def _greet(self) -> None:
        packed = agent()
        self._write(f"{len(packed)}\n".encode() + packed)
        assert self._ssh.stdout is not None
        # A login script may say something first.
        while (line := self._ssh.stdout.readline()) != GREETING:
            if not line:
                raise self._refused()

    def _write(self, data: bytes) -> None:
        assert self._ssh.stdin is not None
        try:
            self._ssh.stdin.write(data)
            self._ssh.stdin.flush()
        except OSError:
            pass  # what ssh has to say about it stands where the answer should be

    def _text(self) -> str:
        self._said.seek(0)
        return self._said.read().decode("utf-8", "replace").strip()

    def _lost(self) -> LinkLost:
        last = (self._text().splitlines() or ["it was cut"])[-1]
        return LinkLost(
            f"The connection to {self._host} has gone: {last}.",
            fix="Run the same command again: it goes on where it stopped.",
        )

    def _refused(self) -> DeployError:
        self._ssh.wait()
        text = self._text()
        for mark, message, fix in _REASONS:
            if mark in text.lower():
                return DeployError(message.format(host=self._host), fix=fix.format(host=self._host))
        last = (text.splitlines() or ["it says nothing"])[-1]
        return LinkLost(
            f"{self._host} cannot be reached: {last}.",
            fix="Check that it is switched on and that 'ssh -v HOST' gets in.",
        )
