"""What kind of machine this is: everything that decides whether a release can live here."""

from __future__ import annotations

import glob
import importlib.util
import os
import platform
import re
import shutil
import struct
import subprocess
import time
from typing import Any

CORALS = {"1a6e:089a": "not woken yet", "18d1:9302": "awake"}
"""USB ids of a Coral accelerator before and after its first use (Coral, "Get started with the USB
Accelerator")."""

# Codecs and image processors of a Raspberry Pi are video nodes too, and deliver no picture of their own.
_NO_CAMERAS = re.compile(r"codec|isp|hevc|rpivid|pispbe|unicam-embedded", re.IGNORECASE)
_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"
_PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def facts(root: str) -> dict[str, Any]:
    """Look at this machine, and change nothing.

    Args:
        root: Folder that edgecnn is to live in; it need not be there.

    Returns:
        Facts by name; None, or nothing in a list, for what the machine does not tell.
    """
    os_release = _os_release()
    return {
        "board": _text("/proc/device-tree/model") or _text("/sys/class/dmi/id/product_name"),
        "os": os_release.get("PRETTY_NAME", platform.system()),
        "codename": os_release.get("VERSION_CODENAME", ""),
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "glibc": _glibc(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "pythons": _pythons(),
        "has_venv": all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
        "has_opencv": importlib.util.find_spec("cv2") is not None,
        "has_picamera2": importlib.util.find_spec("picamera2") is not None,
        "disk_free_bytes": shutil.disk_usage(_nearest(root)).free,
        "memory_bytes": _memory("MemTotal"),
        "memory_available_bytes": _memory("MemAvailable"),
        "cameras": _video_nodes() + _ribbon_cameras(),
        "coral": _coral(),
        "throttled": _throttled(),
        "clock_utc_s": time.time(),
        "has_systemd": os.path.isdir("/run/systemd/system"),  # sd_booted(3)
        "user": os.environ.get("USER") or str(os.getuid()),
        "hostname": platform.node(),
        "is_root": os.getuid() == 0,
        "has_sudo": os.getuid() != 0 and _output("sudo", "-n", "id", "-u") == "0",
        "may_write_root": os.access(_nearest(root), os.W_OK),
    }


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0 \n") or None
    except OSError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=15, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _os_release() -> dict[str, str]:
    lines = (_text("/etc/os-release") or "").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name: value.strip('"') for name, _, value in pairs}


def _glibc() -> str | None:
    """Give the version of the GNU C library; None where another one, musl for instance, serves."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (OSError, ValueError):
        return None
    return version if name == "glibc" else None


def _pythons() -> dict[str, str]:
    found = {version: shutil.which("python" + version) for version in _PYTHONS}
    # pyenv and others put a name on the path for each version, whether it works or not.
    works = {v: path for v, path in found.items() if path and _output(path, "-c", "print(1)") == "1"}
    return {**works, ".".join(platform.python_version_tuple()[:2]): shutil.which("python3") or "python3"}


def _nearest(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    return path


def _memory(name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", _text("/proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _video_nodes() -> list[str]:
    nodes = sorted(glob.glob("/sys/class/video4linux/video*"))
    named = [(os.path.basename(node), _text(node + "/name") or "") for node in nodes]
    return [f"/dev/{node} ({name})" for node, name in named if not _NO_CAMERAS.search(name)]


def _ribbon_cameras() -> list[str]:
    program = next((p for p in ("rpicam-hello", "libcamera-hello") if shutil.which(p)), None)
    listed = (_output(program, "--list-cameras") or "") if program else ""
    return [f"picamera:{number} ({name})" for number, name in re.findall(r"^(\d+) : (\S+)", listed, re.M)]


def _coral() -> str | None:
    for folder in glob.glob("/sys/bus/usb/devices/*"):
        usb_id = f"{_text(folder + '/idVendor')}:{_text(folder + '/idProduct')}"
        if usb_id in CORALS:
            return f"USB, {CORALS[usb_id]}"
    return "PCIe" if glob.glob("/dev/apex_*") else None


def _throttled() -> int | None:
    """Read the firmware's flags: bits 0 to 3 tell of now, 16 to 19 of the time since the start.

    Source:
        Raspberry Pi documentation, ``vcgencmd get_throttled``.
    """
    text = _text(_THROTTLED) or (_output("vcgencmd", "get_throttled") or "").partition("=")[2]
    try:
        return int(text, 16)
    except ValueError:
        return None
