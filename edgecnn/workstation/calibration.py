"""The calibration list: which pictures decide the ranges of the int8 codes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle.whole import whole_file
from edgecnn.core.frame import InputSpec
from edgecnn.errors import DataError
from edgecnn.workstation.data.catalog import Dataset, Picture
from edgecnn.workstation.data.pipeline import codes_of

COUNT = 200
"""Pictures in a list for a model that has no recipe."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list: a picture's digest, and where it lies in the data."""

    sha256: str
    path: str


def draw(dataset: Dataset, count: int, seed: int) -> tuple[Entry, ...]:
    """Choose pictures of the train split, the same number of every label as far as they reach.

    Args:
        dataset: The data; only its train split is looked at.
        count: How many, at least one per label.
        seed: Of the choice.

    Returns:
        Entries in the order of their paths.

    Raises:
        DataError: If there is no train split.
    """
    rng = np.random.default_rng(seed)
    by_label: dict[str, list[Picture]] = {label: [] for label in dataset.labels}
    for picture in dataset.split("train"):
        by_label[picture.label].append(picture)
    quota = max(1, -(-count // len(by_label)))
    chosen = [pictures[i] for pictures in by_label.values() for i in rng.permutation(len(pictures))[:quota]]
    return tuple(Entry(p.sha256(), p.path) for p in sorted(chosen, key=lambda p: p.path))


def to_text(entries: Sequence[Entry]) -> str:
    r"""Write a list as ``sha256sum`` does.

    Example:
        >>> to_text([Entry("ab12", "train/fire/a.jpg")])
        'ab12  train/fire/a.jpg\n'
    """
    return "".join(f"{e.sha256}  {e.path}\n" for e in entries)


def digest(entries: Sequence[Entry]) -> str:
    """Digest of a list, for the manifest."""
    return hashlib.sha256(to_text(entries).encode()).hexdigest()


def write(entries: Sequence[Entry], path: Path) -> None:
    """Write a list to a file, whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(to_text(entries), encoding="utf-8")


def read(path: Path) -> tuple[Entry, ...]:
    """Read a list.

    Raises:
        DataError: If it cannot be read, is empty, or a line is not ``<sha256>  <path>``.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The calibration list '{path}' cannot be read: {error}.", fix="Check the path."
        ) from error
    rows = [line for line in lines if line.strip() and not line.startswith("#")]
    for row in rows:
        sha256, _, name = row.partition("  ")
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef") or not name:
            raise DataError(
                f"The calibration list '{path}' has a line that is not '<sha256>  <path>': '{row[:80]}'.",
                fix="Leave --calibration out: a list is then drawn and written beside the model.",
            )
    if not rows:
        raise DataError(f"The calibration list '{path}' is empty.", fix="List at least one picture.")
    return tuple(Entry(*row.split("  ", 1)) for row in rows)


def resolve(entries: Sequence[Entry], dataset: Dataset) -> tuple[Picture, ...]:
    """Find the pictures of a list in the data, and refuse any that accuracy is measured on.

    Raises:
        DataError: If a picture is missing or changed, belongs to another split than train, or stands in
            val or test under another name.
    """
    by_path = {picture.path: picture for picture in dataset.pictures}
    missing = [e.path for e in entries if e.path not in by_path]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(entries)} calibration pictures are not in '{dataset.name}', "
            f"first '{missing[0]}'.",
            fix="Give the data that the list was drawn from, or leave --calibration out to draw a new list.",
        )
    foreign = [e.path for e in entries if by_path[e.path].split != "train"]
    if foreign:
        raise DataError(
            f"The calibration list holds {len(foreign)} pictures outside of train, first '{foreign[0]}': "
            "accuracy measured on them would be flattered.",
            fix="List pictures of the train split only.",
        )
    changed = [e.path for e in entries if by_path[e.path].sha256() != e.sha256]
    if changed:
        raise DataError(
            f"{len(changed)} calibration pictures are not those that the list names, first '{changed[0]}': "
            "their content has another digest.",
            fix="Give the data that the list was drawn from, or leave --calibration out to draw a new list.",
        )
    wanted = {e.sha256: e.path for e in entries}
    for picture in dataset.pictures:
        if picture.split in ("val", "test") and picture.sha256() in wanted:
            raise DataError(
                f"The calibration picture '{wanted[picture.sha256()]}' stands in {picture.split} too, "
                f"as '{picture.path}'.",
                fix="Run 'edgecnn data check' on the data and remove the copies from train.",
            )
    return tuple(by_path[e.path] for e in entries)


def codes_for(pictures: Sequence[Picture], spec: InputSpec) -> NDArray[np.uint8]:
    """Read calibration pictures as the model sees them, and make sure that the whole range is there.

    A raw byte is its own int8 code only if the input's range is exactly 0 to 255. Two values of one
    corner pair are therefore set to 0 and 255; no other range notices.

    Returns:
        Shape (count, height, width, channels), uint8.
    """
    codes = np.array(codes_of(pictures, spec))
    codes[0, 0, 0, :] = 0
    codes[0, -1, -1, :] = 255
    return codes
