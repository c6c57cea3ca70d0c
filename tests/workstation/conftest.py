"""What the tests of the workstation share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def dies_after_an_epoch() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Let a training die when its first epoch is on disk: ``with dies_after_an_epoch(): train(...)``."""
    from edgecnn.workstation import train as room

    keep = room.keep

    def keep_and_die(*args: Any) -> None:
        keep(*args)
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def dying() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room, "keep", keep_and_die)
            with pytest.raises(KeyboardInterrupt):
                yield

    return dying
