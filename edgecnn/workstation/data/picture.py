"""A labelled picture that is not yet read, and what is done with many of them at once."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.alarm import Box
from edgecnn.core.frame import Pixels
from edgecnn.errors import DataError
from edgecnn.workstation.data.images import decode_picture, read_bytes

UNSPLIT = "all"
"""The split of pictures that lie in no split."""

_CHUNK = 32
_NAMED_AT_MOST = 10

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Boxed:
    """A picture of which it is known where it shows something.

    Attributes:
        height_px: Of the picture.
        width_px: Of the picture.
        by_label_px: By label, at least one box each: left, top, right and bottom, in pixels.
    """

    height_px: int
    width_px: int
    by_label_px: Mapping[str, tuple[Box, ...]]

    def shares(self) -> dict[str, tuple[Box, ...]]:
        """Give the boxes as shares of the picture.

        Example:
            >>> Boxed(10, 20, {"fire": ((0, 5, 10, 10),)}).shares()
            {'fire': ((0.0, 0.5, 0.5, 1.0),)}
        """
        return {
            label: tuple(share_of(box, self.height_px, self.width_px) for box in boxes)
            for label, boxes in self.by_label_px.items()
        }

    def over(self, other: Boxed | None) -> Boxed:
        """Give these boxes, and of labels that have none here those of ``other``, of the same picture.

        Example:
            >>> whole = Boxed(10, 10, {"fire": ((0, 0, 10, 10),), "smoke": ((0, 0, 10, 5),)})
            >>> Boxed(20, 20, {"fire": ((8, 8, 12, 12),)}).over(whole).by_label_px
            {'fire': ((8, 8, 12, 12),), 'smoke': ((0.0, 0.0, 20.0, 10.0),)}
        """
        if other is None:
            return self
        below = {
            label: tuple(in_pixels(box, self.height_px, self.width_px) for box in boxes)
            for label, boxes in other.shares().items()
        }
        return replace(self, by_label_px={**below, **self.by_label_px})

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Give the boxes of each label as a mask of the picture's size, True in every pixel they touch."""
        return {label: self._mask(boxes) for label, boxes in self.by_label_px.items()}

    def _mask(self, boxes: Iterable[Box]) -> NDArray[np.bool_]:
        mask = np.zeros((self.height_px, self.width_px), bool)
        for left, top, right, bottom in boxes:
            rows = slice(max(0, int(top)), max(0, math.ceil(bottom)))
            mask[rows, max(0, int(left)) : max(0, math.ceil(right))] = True
        return mask


@dataclass(frozen=True, slots=True)
class Picture:
    """One labelled picture, not yet read.

    Attributes:
        path: Relative to the root of the data, with ``/``: ``train/fire/a.jpg``, or ``x_train/00012``.
        split: ``train``, ``val``, ``test``, or the folder's own name where it is none of those.
        label: What it shows.
        folder: The class folder that it lies in; the label's own name where labels are folders.
        source: The file, or the pixels in an ``.npz``.
        boxed: Where it shows something, as a file says that was given with the data; ``boxes_of`` knows
            what lies above it, too.
    """

    path: str
    split: str
    label: str
    folder: str
    source: Path | NDArray[np.uint8] = field(repr=False, compare=False)
    boxed: Boxed | None = field(default=None, repr=False, compare=False)

    def data(self) -> bytes:
        """Read the file's bytes, or the array's.

        Raises:
            DataError: If the file cannot be read.
        """
        return read_bytes(self.source) if isinstance(self.source, Path) else self.source.tobytes()

    def read(self) -> Pixels:
        """Decode the picture.

        Returns:
            Shape (height, width, 3), uint8, red first.

        Raises:
            DataError: If it is broken; named by its path in the data.
        """
        if isinstance(self.source, Path):
            return decode_picture(self.data(), self.path)
        pixels = self.source.reshape(*self.source.shape[:2], -1)
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    def sha256(self) -> str:
        """Give the digest of the file's bytes, or of the array's."""
        return hashlib.sha256(self.data()).hexdigest()


def share_of(box: Box, height_px: int, width_px: int) -> Box:
    """Give a box in pixels as shares of a picture of that size."""
    left, top, right, bottom = box
    return left / width_px, top / height_px, right / width_px, bottom / height_px


def in_pixels(share: Box, height_px: int, width_px: int) -> Box:
    """Give a box in shares of a picture in pixels of that size."""
    left, top, right, bottom = share
    return left * width_px, top * height_px, right * width_px, bottom * height_px


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a data set, before anything is asked of it.

    Attributes:
        pictures: Each with its folder for a label; in the split ``all`` where there are no splits.
        empty: Class folders without a picture, as ``<split>/<class>``.
        unread: Files that look like pictures and are not taken.
    """

    pictures: tuple[Picture, ...]
    empty: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def in_threads(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Apply a function to all items on all cores; OpenCV, numpy and hashlib let go of the GIL."""

    def run(start: int) -> list[_R]:
        return [function(item) for item in items[start : start + _CHUNK]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [result for chunk in pool.map(run, range(0, len(items), _CHUNK)) for result in chunk]


def refuse_broken(errors: Sequence[DataError]) -> None:
    """Turn the errors of many pictures into one that names the first ten.

    Raises:
        DataError: If there are any.
    """
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    named = "\n  ".join(error.message for error in errors[:_NAMED_AT_MOST])
    more = len(errors) - _NAMED_AT_MOST
    rest = f"\n  and {more:,} more." if more > 0 else ""
    raise DataError(
        f"{len(errors):,} pictures cannot be used:\n  {named}{rest}",
        fix="Remove or replace them; 'edgecnn data check PATH' lists all.",
    )


def listed(names: Iterable[str]) -> str:
    """Quote the first ten names for an error; ``none`` where there are none."""
    names = list(names)
    quoted = ", ".join(f"'{name}'" for name in names[:_NAMED_AT_MOST])
    more = len(names) - _NAMED_AT_MOST
    return (quoted + (f" and {more} more" if more > 0 else "")) or "none"
