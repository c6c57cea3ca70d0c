"""What the tests of the workstation share."""

from __future__ import annotations

from pathlib import Path

import pytest
from blobs import write_blobs


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures with three labels."""
    return write_blobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what tests cache away from the user's own folder."""
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
