"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

collect_ignore = ["pi"]  # stands in for packages of a Raspberry Pi, in children that ask for it only


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and reference models; skips where it is absent."""
    folder = (ROOT / os.environ.get("EDGECNN_SHARED", "../shared")).resolve()
    if not (folder / "reference_models").is_dir():
        pytest.skip(f"needs the real pictures and reference models; '{folder}' does not hold them")
    return folder
