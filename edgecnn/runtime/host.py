"""What is known about the machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from edgecnn.errors import MissingPackageError
from edgecnn.runtime.interpreter import find_package

_BOARD = Path("/proc/device-tree/model")
_DMI = Path("/sys/class/dmi/id/product_name")
_CPU_INFO = Path("/proc/cpuinfo")
_OS_RELEASE = Path("/etc/os-release")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")
_STATUS = Path("/proc/self/status")
_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")


@dataclass(frozen=True, slots=True)
class Host:
    """Facts about a machine; None for what it does not tell.

    Attributes:
        board: For instance ``Raspberry Pi 4 Model B Rev 1.5``.
        cpu: Its model, or its architecture.
        os: Its operating system.
        python: The version of Python.
        runtime: The interpreter package and its version.
        governor: What decides the clock: ``ondemand``, ``performance`` ...
        temperature_celsius: Of the processor, now: a hot one throttles.
    """

    board: str | None
    cpu: str
    os: str
    python: str
    runtime: str | None
    governor: str | None
    temperature_celsius: float | None


def cache_folder() -> Path:
    """Where edgecnn keeps what it can make again: ``$EDGECNN_CACHE``, else below ``$XDG_CACHE_HOME``."""
    if own := os.environ.get("EDGECNN_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgecnn"


def host_facts() -> Host:
    """Look at this machine.

    Example:
        >>> host_facts().python == platform.python_version()
        True
    """
    return Host(
        board=_text(_BOARD) or _text(_DMI),
        cpu=_cpu(_text(_CPU_INFO) or ""),
        os=_os(_text(_OS_RELEASE) or ""),
        python=platform.python_version(),
        runtime=_runtime(),
        governor=_text(_GOVERNOR),
        temperature_celsius=_celsius(_text(_TEMPERATURE)),
    )


def peak_memory_bytes() -> int | None:
    """The most memory that this process ever held; None where the kernel does not tell.

    Source:
        proc(5): VmHWM, "peak resident set size"; getrusage would give the parent's after a fork.
    """
    for line in (_text(_STATUS) or "").splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    return None


def temperature_celsius() -> float | None:
    """How hot the processor is now; None where the kernel does not tell."""
    return _celsius(_text(_TEMPERATURE))


def is_throttled() -> bool | None:
    """Whether a Raspberry Pi holds its clock back now; None on another board.

    Source:
        Raspberry Pi documentation, vcgencmd get_throttled: bit 0 under-voltage, bit 1 frequency capped,
        bit 2 throttled, bit 3 soft temperature limit; higher bits tell of the past.
    """
    return _is_throttled(_text(_THROTTLED))


def _is_throttled(flags: str | None) -> bool | None:
    """Read the firmware's flags.

    Example:
        >>> _is_throttled("50005"), _is_throttled("0x50000"), _is_throttled(None)
        (True, False, None)
    """
    try:
        return None if flags is None else bool(int(flags, 16) & 0xF)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def _cpu(info: str) -> str:
    r"""Find the processor's name; Arm kernels give none, and then the architecture has to do.

    Example:
        >>> _cpu("processor: 0\nmodel name\t: Xeon\n")
        'Xeon'
    """
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def _os(release: str) -> str:
    r"""Name the operating system, with the word length, which a 32-bit Pi OS hides.

    Example:
        >>> _os('ID=debian\nPRETTY_NAME="Debian 12"\n').startswith("Debian 12, ")
        True
    """
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    for line in release.splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return f"{value.strip(chr(34))}, {kernel}"
    return kernel


def _runtime() -> str | None:
    try:
        return find_package().label
    except MissingPackageError:
        return None


def _celsius(text: str | None) -> float | None:
    """Read a thermal zone, which counts in thousandths of a degree.

    Example:
        >>> _celsius("48312"), _celsius(None), _celsius("?")
        (48.312, None, None)
    """
    try:
        return int(text or "") / 1000
    except ValueError:
        return None
