"""One virtual environment for each set of pins: made whole, or made again."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

from .layout import Layout, remove, write
from .refused import Refused

NEEDED_BYTES = 600 << 20
"""What unpacking may take: an environment has 350 to 450 MB on arm64, and pip unpacks beside it."""


def build(
    layout: Layout, digest: str, python: str, requirements: list[str], wheel: str, offline: bool
) -> dict[str, Any]:
    """Make an environment where there is none for these pins.

    Args:
        layout: Where edgecnn lives.
        digest: Of everything that goes in.
        python: The program to make it with.
        requirements: As pip reads them; run in the folder ``files``, where what was sent lies.
        wheel: edgecnn's own, in ``files``.
        offline: Whether everything lies in ``files`` and nothing comes from the net.

    Returns:
        ``made``: False if it was there.

    Raises:
        Refused: If it cannot be made; what there is of it is not taken for whole.
    """
    folder = layout.path("envs", digest)
    if is_whole(layout, digest):
        return {"made": False}
    remove(folder)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    # The system's packages are seen: picamera2, lgpio and on 32 bit OpenCV come with the system.
    files = layout.path("files")
    make = [python, "-m", "venv", "--system-site-packages", folder]
    _run(make, files, "Install it: sudo apt install python3-venv.")
    pip = [os.path.join(folder, "bin", "python"), "-m", "pip", "install", "--no-input", "--quiet"]
    pip += ["--disable-pip-version-check", "--find-links", files]
    pip += ["--no-index"] if offline else []
    way_out = (
        "Make the wheelhouse for this device's Python and architecture: edgecnn wheelhouse."
        if offline
        else "Give the device a way to the net, or deploy with --wheelhouse."
    )
    _run([*pip, *requirements], files, way_out)
    # By itself, whatever edgecnn the system may have: the slot runs this one.
    _run([*pip, "--no-deps", "--ignore-installed", wheel], files, way_out)
    _mend_picamera(pip, folder, files, way_out)
    _run([os.path.join(folder, "bin", "edgecnn"), "--version"], files, "Deploy again.")
    write(os.path.join(folder, "complete"), digest.encode())
    return {"made": True}


def is_whole(layout: Layout, digest: str) -> bool:
    """Tell whether an environment was made to its end."""
    folder = layout.path("envs", digest)
    has_program = os.access(os.path.join(folder, "bin", "edgecnn"), os.X_OK)
    return has_program and os.path.exists(os.path.join(folder, "complete"))


def has_room(layout: Layout, digest: str) -> bool:
    """Tell whether the disk holds one more environment, if one has to be made."""
    return is_whole(layout, digest) or shutil.disk_usage(layout.root).free >= NEEDED_BYTES


def _mend_picamera(pip: list[str], folder: str, files: str, way_out: str) -> None:
    """Bring a simplejpeg for numpy 2: Bookworm's was built for numpy 1, and picamera2 imports it."""
    tried = subprocess.run(
        [os.path.join(folder, "bin", "python"), "-c", "import picamera2"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "numpy.dtype size changed" in tried.stderr:
        _run([*pip, "--force-reinstall", "--no-deps", "simplejpeg"], files, way_out)


def _run(command: list[str], folder: str, way_out: str) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            close_fds=False,
        )
    except OSError as error:
        raise Refused(f"'{command[0]}' cannot be run on the device: {error}.", way_out) from error
    if done.returncode == 0:
        return
    said = (done.stderr or done.stdout).strip().splitlines()
    if any("No space left" in line for line in said):
        raise Refused("The disk of the device is full.", "Make room on the device, and deploy again.")
    lines = [line for line in said if line.startswith("ERROR")] or said
    raise Refused(f"The environment cannot be made: {' '.join(lines[-2:])[:400]}", way_out)
