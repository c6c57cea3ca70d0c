"""A file is there whole, or as it was before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgecnn.bundle.whole import whole_file


def test_a_writer_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("old")

    def write_half() -> None:
        with whole_file(path) as draft:
            draft.write_text("ne")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_half()

    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("list.txt", "old")]


def test_a_disk_that_is_full_at_the_last_moment_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.txt"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left"), whole_file(path) as draft:
        draft.write_text("new")

    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("list.txt", "old")]


def test_until_the_end_of_the_block_a_reader_finds_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("old")

    with whole_file(path) as draft:
        draft.write_text("new")
        meanwhile = path.read_text()

    assert (meanwhile, path.read_text()) == ("old", "new")


def test_a_draft_keeps_the_suffix_by_which_writers_choose_their_format(tmp_path: Path) -> None:
    with whole_file(tmp_path / "model.h5") as draft:
        draft.write_bytes(b"")

    assert (draft.suffix, draft.parent) == (".h5", tmp_path)
