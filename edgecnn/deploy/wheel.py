"""edgecnn's own wheel, from what is installed here: a device gets the very code that made its model."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

import edgecnn
from edgecnn.errors import DeployError

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_WHEEL: Final = b"Wheel-Version: 1.0\nGenerator: edgecnn\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def own_wheel() -> tuple[str, bytes]:
    """Pack the installed package into a wheel; the same code gives the same bytes.

    Works alike for an installed copy and for a folder of sources that is installed in place.

    Returns:
        The name of the file and its content.

    Raises:
        DeployError: If edgecnn runs without being installed.

    Source:
        The binary distribution format of the Python Packaging User Guide (PEP 427, PEP 376).
    """
    try:
        installed = metadata.distribution("edgecnn")
    except metadata.PackageNotFoundError as error:
        raise DeployError(
            "edgecnn runs from a folder and is not installed, so it cannot be packed.",
            fix="Install it: pip install --editable FOLDER.",
        ) from error
    info = f"edgecnn-{installed.version}.dist-info"
    files = dict(_sources(Path(edgecnn.__file__).parent))
    files |= {f"{info}/{name}": content for name, content in _about(installed)}
    rows = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()]
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return f"edgecnn-{installed.version}-py3-none-any.whl", out.getvalue()


def _sources(package: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"edgecnn/{path.relative_to(package).as_posix()}", path.read_bytes()


def _about(installed: metadata.Distribution) -> Iterator[tuple[str, bytes]]:
    for name in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
        yield name, (installed.read_text(name) or "").encode()
    yield "WHEEL", _WHEEL


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
