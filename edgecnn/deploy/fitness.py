"""Says whether a device can carry a release, and why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from edgecnn.deploy.wheelhouse import TARGETS, Wheelhouse
from edgecnn.errors import DeployError

PYTHONS: Final = ("3.10", "3.11", "3.12", "3.13")
GLIBC: Final = (2, 28)
"""What the wheels of numpy, OpenCV and ai-edge-litert ask for: their tags say manylinux_2_27 and 2_28."""

DISK_BYTES: Final = 700 << 20
"""An environment of 350 to 450 MB, what pip unpacks beside it, and two models."""

MEMORY_BYTES: Final = 350 << 20
"""A watch takes about 150 MB; a board that is sold with 512 MB tells of 400 to 430."""

CLOCK_S: Final = 300.0
"""Further off, certificates fail and the times of alarms mislead whoever looks them up."""

# Bits of `vcgencmd get_throttled` (Raspberry Pi documentation); + 16 for "since the start".
_FLAGS: Final = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "too hot"}
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Facts:
    """What a device says about itself; None, or nothing in a tuple, for what it does not tell.

    Attributes:
        board: For instance ``Raspberry Pi 4 Model B Rev 1.5``.
        os: Name and version of the operating system.
        codename: ``bookworm`` for instance.
        machine: As ``uname -m`` says.
        bits: Of the programs, which on a Raspberry Pi may be 32 under a kernel of 64.
        glibc: Version of the GNU C library; None where another one serves.
        python: Major and minor of ``python3``.
        pythons: All that were found, with their programs.
        has_venv: Whether ``python3`` can make environments.
        has_opencv: Whether the system's Python has OpenCV.
        has_picamera2: Whether the system's Python has picamera2.
        disk_free_bytes: Where edgecnn is to live.
        memory_bytes: In all.
        memory_available_bytes: Now.
        cameras: What may be written as a source, with the name in parentheses.
        coral: How a Coral accelerator is attached.
        throttled: The firmware's flags.
        clock_utc_s: Seconds since 1970, as the device thinks.
        has_systemd: Whether systemd runs the services.
        user: Who ssh logged in.
        hostname: As the device calls itself.
        is_root: Whether that is root.
        has_sudo: Whether sudo works without a password.
        may_write_root: Whether that user may write where edgecnn is to live.
    """

    board: str | None
    os: str
    codename: str
    machine: str
    bits: int
    glibc: str | None
    python: str
    pythons: Mapping[str, str]
    has_venv: bool
    has_opencv: bool
    has_picamera2: bool
    disk_free_bytes: int
    memory_bytes: int | None
    memory_available_bytes: int | None
    cameras: tuple[str, ...]
    coral: str | None
    throttled: int | None
    clock_utc_s: float
    has_systemd: bool
    user: str
    hostname: str
    is_root: bool
    has_sudo: bool
    may_write_root: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a device cannot carry a release, and the way out."""

    found: str
    fix: str


def facts_from(answer: Mapping[str, Any]) -> Facts:
    """Read what the device answered."""
    return msgspec.convert(answer, Facts)


def refusals(
    facts: Facts, skew_s: float, python: str | None, needs_systemd: bool, has_environment: bool
) -> tuple[Refusal, ...]:
    """Find everything that stands in the way.

    Args:
        facts: What the device says.
        skew_s: How far its clock is ahead of ours, in seconds.
        python: The one Python that a wheelhouse is made for; None for any.
        needs_systemd: Whether nobody named another supervisor.
        has_environment: Whether edgecnn is there already, so that little disk is needed.

    Returns:
        Nothing where all is well.
    """
    found = [*_of_programs(facts, python), *_of_room(facts, has_environment)]
    if abs(skew_s) > CLOCK_S:
        way = "sudo timedatectl set-ntp true; without a net: sudo date --set @SECONDS, and a clock chip"
        found.append(
            Refusal(
                f"Its clock is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}.", f"Set it: {way}."
            )
        )
    if needs_systemd and not facts.has_systemd:
        found.append(Refusal("systemd does not run its services.", "Name what does, by --systemctl PROGRAM."))
    if needs_systemd and not (facts.is_root or facts.has_sudo):
        found.append(
            Refusal(
                f"'{facts.user}' is not root and may not call sudo without a password.",
                "Allow it, as Raspberry Pi OS does for its first user, or log in as root.",
            )
        )
    if not needs_systemd and not facts.may_write_root:
        found.append(Refusal(f"'{facts.user}' may not write there.", "Choose a folder of its own: --root."))
    return tuple(found)


def _of_programs(facts: Facts, python: str | None) -> Iterator[Refusal]:
    if facts.glibc is None:
        yield Refusal(
            "Its C library is not glibc; the wheels need that.", "Use Raspberry Pi OS or another Debian."
        )
    elif tuple(map(int, facts.glibc.split(".")[:2])) < GLIBC:
        yield Refusal(
            f"Its glibc {facts.glibc} is older than {'.'.join(map(str, GLIBC))}.",
            "Install Raspberry Pi OS Bookworm or later.",
        )
    if facts.machine == "armv6l":
        yield Refusal("An ARMv6 board has no wheels.", "Use a Raspberry Pi Zero 2 W, 3, 4 or 5.")
    elif facts.machine == "aarch64" and facts.bits == 32:
        yield Refusal(
            "It runs 32-bit programs under a 64-bit kernel, for which no wheels are made.",
            "Use the 64-bit Raspberry Pi OS, or put arm_64bit=0 into /boot/firmware/config.txt.",
        )
    elif facts.bits == 32 and not facts.has_opencv:
        yield Refusal(
            "A 32-bit system has no wheel of OpenCV.", "Install Debian's: sudo apt install python3-opencv."
        )
    if python is not None and python not in facts.pythons:
        yield Refusal(
            f"The wheelhouse is for Python {python}; it has {', '.join(facts.pythons)}.",
            "Build the wheelhouse for this device: edgecnn wheelhouse --for TARGET.",
        )
    elif python_of(facts, python) is None:
        oldest, newest = PYTHONS[0], PYTHONS[-1]
        yield Refusal(
            f"Its Python {facts.python} is none of {oldest} to {newest}.",
            f"Install one beside it, for instance: sudo apt install python{newest}-venv.",
        )
    elif facts.bits == 32 and python_of(facts, python) not in ("3.10", "3.11"):
        yield Refusal("tflite-runtime for 32 bit ends with Python 3.11.", "Use Bookworm, or a 64-bit system.")
    if not facts.has_venv:
        yield Refusal("Its Python cannot make environments.", "Install: sudo apt install python3-venv.")


def _of_room(facts: Facts, has_environment: bool) -> Iterator[Refusal]:
    needed = 50 << 20 if has_environment else DISK_BYTES
    if facts.disk_free_bytes < needed:
        yield Refusal(
            f"Its disk has {facts.disk_free_bytes >> 20} MB free of the {needed >> 20} MB that are needed.",
            "Make room, or take a larger SD card.",
        )
    if facts.memory_bytes is not None and facts.memory_bytes < MEMORY_BYTES:
        yield Refusal(
            f"It has {facts.memory_bytes >> 20} MB of memory; {MEMORY_BYTES >> 20} MB are needed.",
            "Use a board with 512 MB or more.",
        )


def of_wheels(facts: Facts, house: Wheelhouse | None) -> tuple[Refusal, ...]:
    """Refuse wheels for another processor: pip would say so too, after minutes."""
    target = TARGETS.get(house.target) if house else None
    if target is None or target.machine == facts.machine:
        return ()
    fitting = [name for name, other in TARGETS.items() if other.machine == facts.machine]
    way = f"edgecnn wheelhouse --for {fitting[0]}" if fitting else "install from the net"
    return (
        Refusal(f"The wheelhouse is for {target.machine}; it is {facts.machine}.", f"Take another: {way}."),
    )


def python_of(facts: Facts, python: str | None) -> str | None:
    """Choose the Python of the environment: the wheelhouse's, the system's, or the newest that fits."""
    if python is not None:
        return python
    fitting = [version for version in PYTHONS if version in facts.pythons]
    return facts.python if facts.python in fitting else (fitting[-1] if fitting else None)


def refuse(host: str, found: tuple[Refusal, ...]) -> None:
    """Stop where anything stands in the way.

    Raises:
        DeployError: That names everything at once, with the ways out.
    """
    if found:
        raise DeployError(
            f"{host} cannot take it. {' '.join(r.found for r in found)}", fix=" ".join(r.fix for r in found)
        )


def described(facts: Facts, skew_s: float) -> dict[str, str]:
    """Say for a person what kind of machine it is."""
    memory, available = facts.memory_bytes, facts.memory_available_bytes
    return {
        "board": facts.board or "not told",
        "system": f"{facts.os}, {facts.machine}, {facts.bits} bit",
        "C library": f"glibc {facts.glibc}" if facts.glibc else "not glibc",
        "Python": ", ".join(sorted(facts.pythons, key=lambda v: [int(n) for n in v.split(".")])),
        "disk": f"{facts.disk_free_bytes / _GIB:.1f} GB free",
        "memory": f"{memory >> 20} MB, {available >> 20} MB free" if memory and available else "not told",
        "cameras": ", ".join(facts.cameras) or "none found",
        "picamera2": "installed" if facts.has_picamera2 else "not installed",
        "Coral": facts.coral or "none found",
        "power": _power(facts.throttled),
        "clock": f"{abs(skew_s):.1f} s {'ahead' if skew_s > 0 else 'behind'}",
        "services": "systemd" if facts.has_systemd else "no systemd",
        "user": facts.user + (", root" if facts.is_root else ", sudo" if facts.has_sudo else ""),
    }


def _power(flags: int | None) -> str:
    """Read the firmware's flags.

    Example:
        >>> _power(0x50005)
        'now: under-voltage, throttled; since the start: under-voltage, throttled'
        >>> _power(0), _power(None)
        ('never too low, too hot or throttled since the start', 'not told')
    """
    if flags is None:
        return "not told"
    now = ", ".join(name for bit, name in _FLAGS.items() if flags >> bit & 1)
    past = ", ".join(name for bit, name in _FLAGS.items() if flags >> bit + 16 & 1)
    parts = [f"now: {now}"] * bool(now) + [f"since the start: {past}"] * bool(past)
    return "; ".join(parts) or "never too low, too hot or throttled since the start"
