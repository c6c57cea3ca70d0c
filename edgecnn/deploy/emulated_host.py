"""An emulated Pi that is reached over ssh, with a disk of its own that keeps what is done to it."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecnn.deploy import calls
from edgecnn.deploy.emulator import Emulator, Say, environment, proot, whole
from edgecnn.errors import DeployError

NAME: Final = "pi"
"""What ``ssh_config`` calls it."""

_HOST_KEY: Final = "/etc/ssh/ssh_host_ed25519_key"


@dataclass(frozen=True, slots=True)
class EmulatedHost:
    """A disk with the keys to it.

    Attributes:
        folder: Holds the disk, ``root``, and beside it ``ssh_config`` with all that it names.
        port: On which its sshd listens, for this machine alone.
        cpu: What QEMU shows.
    """

    folder: Path
    port: int
    cpu: str

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F`` and ``edgecnn deploy -F``; knows the host by the name ``pi``."""
        return self.folder / "ssh_config"

    def command(self) -> list[str]:
        """Say how to start its sshd, in the foreground; whatever is started over ssh ends with it."""
        options = (
            "ListenAddress=127.0.0.1",
            f"HostKey={_HOST_KEY}",
            "PidFile=none",
            "UsePAM=no",
            "PasswordAuthentication=no",
            "AcceptEnv=LANG LC_*",
            "Subsystem=sftp /usr/lib/openssh/sftp-server",
        )
        binds = [f"--bind=/{name}" for name in ("proc", "dev", "sys")]
        sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(self.port)]
        return [*self._proot(), *binds, "--cwd=/", *sshd, *(f"-o{option}" for option in options)]

    def environment(self) -> dict[str, str]:
        """Give the environment of ``command``."""
        return environment()

    def _proot(self) -> list[str]:
        return proot(self.folder / "root", self.cpu)


def plug_in(emulator: Emulator, folder: Path, port: int, say: Say) -> EmulatedHost:
    """Make a disk for an emulated Pi, or take the one that is there.

    Args:
        emulator: What the disk is copied from.
        folder: Where to.
        port: For its sshd.
        say: Is given a sentence for each step that takes time.

    Raises:
        DeployError: If a program is missing, or something cannot be written.
    """
    host = EmulatedHost(folder.resolve(), port, emulator.cpu)
    if not folder.is_dir():
        say(f"Copying a fresh disk into '{folder}'")
        with whole(host.folder) as draft:
            _run(["cp", "-a", "--reflink=auto", str(emulator.root), f"{draft}/root"])
            _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", f"{draft}/key"])
            _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", f"{draft}/root{_HOST_KEY}"])
            home = Path("root" if os.geteuid() == 0 else f"home/{getpass.getuser()}")
            ssh = draft / "root" / home / ".ssh"
            ssh.mkdir(mode=0o700, parents=True)
            (ssh / "authorized_keys").write_bytes((draft / "key.pub").read_bytes())
    if not (host.folder / "key").is_file():
        raise DeployError(
            f"'{folder}' is there and is no disk of an emulated Pi.", fix="Name another folder with --disk."
        )
    host_key = (host.folder / f"root{_HOST_KEY}.pub").read_text(encoding="utf-8")
    (host.folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}", encoding="utf-8")
    host.ssh_config.write_text(_ssh_config(host), encoding="utf-8")
    return host


def run(host: EmulatedHost) -> None:
    """Let it run until it is interrupted; then it stops as if its plug were pulled.

    Raises:
        DeployError: If its sshd does not start.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A shell starts what is in its background with SIGINT ignored.
        signal.signal(number, signal.default_int_handler)
    with subprocess.Popen(host.command(), env=host.environment(), preexec_fn=calls.hide) as process:
        try:
            code = process.wait()
        finally:
            unplug(process)
    if code:
        raise DeployError(f"The emulated sshd ended with status {code}.", fix="Take another --port.")


def unplug(process: subprocess.Popen[bytes]) -> None:
    """Stop an emulated Pi at once, as if its plug were pulled.

    proot must not go first: what it has started would run on, with the files of this machine for its own.
    """
    while process.poll() is None:
        for pid in _traced_by(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)


def _traced_by(tracer: int) -> Iterator[int]:
    """List the processes that another one traces, by what the kernel says."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if f"TracerPid:\t{tracer}\n" in status.read_text():
                yield int(status.parent.name)


def _ssh_config(host: EmulatedHost) -> str:
    lines = {
        "HostName": "127.0.0.1",
        "Port": str(host.port),
        "User": getpass.getuser(),
        "IdentityFile": f'"{host.folder}/key"',
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": f'"{host.folder}/known_hosts"',
        "StrictHostKeyChecking": "yes",
    }
    return f"Host {NAME}\n" + "".join(f"    {key} {value}\n" for key, value in lines.items())


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DeployError(
            f"An emulated Pi that is reached over ssh needs the program {command[0]}.",
            fix="Install it: sudo apt install openssh-client.",
        ) from error
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["it says nothing"]
        raise DeployError(
            f"The disk cannot be made: {command[0]} says: {lines[-1]}",
            fix="Check the permissions and the free space.",
        )
