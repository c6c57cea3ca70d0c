"""A Raspberry Pi that is not there: 64-bit Debian for ARM in a folder, run by QEMU, without root.

``debootstrap`` fetches the packages of Debian and checks their signatures; they are unpacked and never
configured, which takes seconds instead of minutes. ``proot`` makes the folder the root of a process and of
all that it starts, and hands each program to ``qemu-aarch64-static``. Time means nothing there; what is
computed does: kernels of the interpreter are chosen by the processor that QEMU shows.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import edgecnn
from edgecnn.deploy import wheelhouse
from edgecnn.deploy.wheelhouse import Target, Wheelhouse
from edgecnn.errors import DeployError
from edgecnn.runtime.host import cache_folder

TARGET: Final = wheelhouse.TARGETS["bookworm-arm64"]

CPUS: Final = ("cortex-a53", "cortex-a72", "cortex-a76")
"""Of a Pi 3 and a Zero 2, of a Pi 4, of a Pi 5. Without one QEMU shows a processor with everything, on which
the interpreter's kernels give wrong numbers (ai-edge-litert 2.1.6 under QEMU 7.2)."""

PROGRAMS: Final = {
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
    "proot": "proot",
    "qemu-aarch64-static": "qemu-user-static",
}
"""What is needed here, by command: its Debian package."""

_SUITE: Final = "bookworm"
_PACKAGES: Final = ("python3", "python3-venv", "openssh-server", "procps", "rsync")
# What the emulated system has of its own; every other folder at the top is this machine's.
_OWN: Final = frozenset(
    {"bin", "boot", "etc", "lib", "lib32", "lib64", "libx32", "opt", "root", "run", "sbin", "usr", "var"}
)
_FOLDERS: Final = ("proc", "dev", "sys", "run/sshd", "usr/local/bin", "usr/local/lib", "var/cache/python")
_SITE: Final = "/opt/site"
_SOURCE: Final = "/opt/source"
_KEPT: Final = ("TERM", "LANG", "LC_ALL", "TZ", "COLUMNS", "LINES")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Emulator:
    """An emulated Pi that is ready.

    Attributes:
        root: The folder of its Debian.
        site: The folder of the Python packages of a device, outside of ``root``.
        cpu: What QEMU shows.
    """

    root: Path
    site: Path
    cpu: str = "cortex-a72"

    def command(self, words: Sequence[str], folder: Path | None = None) -> list[str]:
        """Say how to run a command of the device side there; files of this machine keep their paths.

        Args:
            words: A subcommand of edgecnn has to begin with ``python3 -m edgecnn``.
            folder: One more folder of this machine that must be seen there.
        """
        bound = {Path.home(), Path.cwd(), folder or Path.cwd()}
        bound |= {path for path in Path("/").iterdir() if path.is_dir() and path.name not in _OWN}
        inside = {self.site: _SITE, Path(edgecnn.__file__).parent: f"{_SOURCE}/edgecnn"}
        binds = [f"--bind={path}" for path in sorted(bound)]
        binds += [f"--bind={path}:{place}" for path, place in inside.items()]
        return [*proot(self.root, self.cpu), *binds, f"--cwd={Path.cwd()}", *words]

    def environment(self) -> dict[str, str]:
        """Give the environment of ``command``: nothing of this machine's Python gets in."""
        kept = {name: value for name, value in os.environ.items() if name in _KEPT or _is_ours(name)}
        return kept | environment() | {
            "HOME": str(Path.home()),
            "PYTHONPATH": f"{_SOURCE}:{_SITE}",
            # Not beside the sources, which are this machine's.
            "PYTHONPYCACHEPREFIX": "/var/cache/python",
        }  # fmt: skip


def proot(root: Path, cpu: str) -> list[str]:
    """Begin a command that runs in an arm64 root, with all that it starts."""
    # As an argument: a shell over ssh or a service starts without the variable QEMU_CPU.
    return ["proot", f"--qemu=qemu-aarch64-static -cpu {cpu}", f"--rootfs={root}"]


def environment() -> dict[str, str]:
    """Give what every emulated process needs to be told."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_CTYPE": "C.UTF-8"}


def is_ready() -> bool:
    """Whether the emulated Pi has been built and needs no network."""
    return (
        not missing_programs()
        and _root_folder().is_dir()
        and (_home() / "wheelhouse" / wheelhouse.INDEX).is_file()
    )


def missing_programs() -> tuple[str, ...]:
    """Name the Debian packages of the programs that are not there."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # debootstrap is in /usr/sbin
    return tuple(sorted({package for name, package in PROGRAMS.items() if not shutil.which(name, path=path)}))


def prepare(say: Say, cpu: str = "cortex-a72") -> Emulator:
    """Build the emulated Pi in the cache, or whatever part of it is missing.

    Args:
        say: Is given a sentence for each step that takes time.
        cpu: One of ``CPUS``.

    Raises:
        DeployError: If a program is missing, or something cannot be fetched or written.
    """
    missing = missing_programs()
    if missing:
        raise DeployError(
            f"The emulated Pi needs programs that are not installed: {', '.join(missing)}.",
            fix=f"Install them: sudo apt install {' '.join(missing)}.",
        )
    try:
        with _alone():
            root = _root(say)
            wheels = wheelhouse.build(TARGET, _home() / "wheelhouse", say)
            return Emulator(root, _site(wheels, TARGET, say), cpu)
    except OSError as error:
        raise DeployError(
            f"The emulated Pi cannot be built in '{_home()}': {error.strerror or error}.",
            fix="Check the permissions and the free space; EDGECNN_CACHE names another cache folder.",
        ) from error


def _home() -> Path:
    return cache_folder() / "emulator"


def _root_folder() -> Path:
    recipe = " ".join((_SUITE, *_PACKAGES, *_FOLDERS))
    return _home() / f"{_SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


@contextmanager
def _alone() -> Iterator[None]:
    """Let one process build at a time, and clear away what a killed one has left."""
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for draft in home.glob("*.part"):
            shutil.rmtree(draft, ignore_errors=True)
        yield


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Give a draft that becomes ``folder`` in one step, or nothing at all."""
    draft = folder.with_name(f"{folder.name}.part")
    try:
        draft.mkdir()
        yield draft
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _root(say: Say) -> Path:
    root = _root_folder()
    if root.is_dir():
        return root
    say(f"Fetching Debian {_SUITE} for arm64, once")
    with whole(root) as draft:
        # debootstrap asks for root and makes device files; fakeroot lets it believe both.
        fake = ["fakeroot"] if os.geteuid() and shutil.which("fakeroot") else []
        packages = ",".join(_PACKAGES)
        _run(
            [*fake, "debootstrap", "--foreign", "--arch=arm64", "--variant=minbase",
             f"--include={packages}", _SUITE, str(draft)],
            "Debian cannot be fetched",
        )  # fmt: skip
        listed = (draft / "debootstrap/debpaths").read_text(encoding="utf-8").splitlines()
        say(f"Unpacking {len(listed)} packages")
        for line in listed:
            _run(["dpkg-deb", "--extract", f"{draft}/{line.split()[1]}", str(draft)], "A package is damaged")
        _configure(draft)
    return root


def _configure(root: Path) -> None:
    """Do what the packages' own scripts would have done, as far as a device needs it."""
    shutil.rmtree(root / "debootstrap")
    shutil.rmtree(root / "var/cache/apt/archives")
    user, uid, gid = getpass.getuser(), os.getuid(), os.getgid()
    people = ["root:x:0:0:root:/root:/bin/bash", "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin"]
    groups = ["root:x:0:", "nogroup:x:65534:"]
    if uid:
        people.append(f"{user}:x:{uid}:{gid}::/home/{user}:/bin/bash")
        groups.append(f"{user}:x:{gid}:")
        (root / "home" / user).mkdir(parents=True)
    _write_lines(root / "etc/passwd", people)
    _write_lines(root / "etc/group", groups)
    _write_lines(root / "etc/hosts", ["127.0.0.1 localhost", "::1 localhost"])
    for folder in (*_FOLDERS, _SITE[1:], f"{_SOURCE[1:]}/edgecnn"):
        (root / folder).mkdir(parents=True, exist_ok=True)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _site(house: Wheelhouse, target: Target, say: Say) -> Path:
    """Unpack the wheels; edgecnn itself comes from here, as it is now."""
    wheels = [wheel for wheel in house.files if not wheel.name.startswith("edgecnn-")]
    digest = hashlib.sha256("".join(wheel.sha256 for wheel in wheels).encode()).hexdigest()[:12]
    site = _home() / f"site-{digest}"
    if site.is_dir():
        return site
    say(f"Unpacking {len(wheels)} wheels")
    with whole(site) as draft:
        platforms = [f"--platform={name}" for name in target.platforms]
        _run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--no-index", "--no-compile", "--only-binary=:all:", "--implementation=cp",
             f"--python-version={target.python}", *platforms, f"--target={draft}",
             *(str(_home() / "wheelhouse" / wheel.name) for wheel in wheels)],
            "The wheels cannot be unpacked",
        )  # fmt: skip
    return site


def _run(command: Sequence[str], problem: str) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["it says nothing"]
        raise DeployError(
            f"{problem}: {Path(command[0]).name} says: {lines[-1]}",
            fix="Check the network and the free space, and try again.",
        )


def _is_ours(name: str) -> bool:
    return name.startswith("EDGECNN_")
