"""Looks a data set over before anyone trains on it: what is there, what is broken, what leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError
from edgecnn.workstation.data.catalog import Picture, in_order, in_threads, list_pictures
from edgecnn.workstation.data.leakage import exact_pairs, fingerprint, groups_of, near_pairs
from edgecnn.workstation.data.splits import SEED, compared, draw_splits, drawn_from


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures that are the same, or nearly.

    Attributes:
        first: Path of one.
        second: Path of the other.
        is_exact: Whether the files are equal byte by byte.
        crosses_splits: Whether they lie in two splits, so that one may give the other away.
        labels_differ: Whether one of the two labels must be wrong.
    """

    first: str
    second: str
    is_exact: bool
    crosses_splits: bool
    labels_differ: bool


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of all pictures, each side by itself, in pixels."""

    width_min_px: int
    width_median_px: int
    width_max_px: int
    height_min_px: int
    height_median_px: int
    height_max_px: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look at a data set found.

    Attributes:
        data: Its path, as given, or several joined by ``+``.
        drawn_from: The split that train, val and test are drawn from where the data lacks them, ``all`` or
            ``train``; else None. ``counts`` and ``pairs`` are those of the splits that were drawn.
        counts: Pictures by split and class, broken ones included.
        imbalance: By split, the largest class over the smallest.
        sizes: None where no picture could be read.
        broken: What is wrong, by path.
        empty: Class folders without a picture.
        unread: Files that look like pictures and are not taken.
        pairs: All exact and near duplicates.
    """

    data: str
    drawn_from: str | None
    counts: Mapping[str, Mapping[str, int]]
    imbalance: Mapping[str, float]
    sizes: Sizes | None
    broken: Mapping[str, str]
    empty: tuple[str, ...]
    unread: tuple[str, ...]
    pairs: tuple[Pair, ...]

    @property
    def crossing(self) -> tuple[Pair, ...]:
        """The duplicates that cross splits."""
        return tuple(pair for pair in self.pairs if pair.crosses_splits)

    @property
    def unmeasured(self) -> dict[str, tuple[str, ...]]:
        """By split, the classes of train that val or test, where there is one, has no picture of."""
        known = set(self.counts.get("train", ()))
        lacking = {split: known - set(self.counts.get(split, known)) for split in ("val", "test")}
        return {split: tuple(sorted(classes)) for split, classes in lacking.items() if classes}

    @property
    def is_sound(self) -> bool:
        """Whether nothing leaks, nothing is broken, and there are classes to tell apart in every split."""
        classes = {name for split in self.counts.values() for name in split}
        return not (self.crossing or self.broken or self.empty or self.unmeasured) and len(classes) > 1


@dataclass(frozen=True, slots=True)
class _Look:
    digest: str
    size: tuple[int, int]
    fingerprint: NDArray[np.float32]


def check_data(*paths: Path) -> Findings:
    """Read every picture of a data set, or of several that are one for a training; compare each with each.

    Splits that the data lacks are drawn as ``open_dataset`` does, and looked at like those that it has;
    pictures that cannot be read are left where they are.

    Args:
        paths: What ``open_dataset`` takes, at least one.

    Raises:
        DataError: If there is no such data, or no picture in class folders.
    """
    listing = list_pictures(*paths)
    looks = in_threads(_look, listing.pictures)
    broken = {
        picture.path: look.message
        for picture, look in zip(listing.pictures, looks, strict=True)
        if isinstance(look, DataError)
    }
    at = [place for place, look in enumerate(looks) if isinstance(look, _Look)]
    good = [look for look in looks if isinstance(look, _Look)]
    pairs = _pairs(good)
    pictures = list(listing.pictures)
    for place, picture in zip(at, _with_splits([pictures[place] for place in at], good, pairs), strict=True):
        pictures[place] = picture
    counts = _counts(pictures)
    return Findings(
        "+".join(str(path) for path in paths),
        drawn_from(listing.pictures),
        counts,
        {split: max(by.values()) / min(by.values()) for split, by in counts.items()},
        _sizes([look.size for look in good]),
        broken,
        listing.empty,
        listing.unread,
        tuple(_judge(pictures[at[a]], pictures[at[b]], good[a].digest == good[b].digest) for a, b in pairs),
    )


def _look(picture: Picture) -> _Look | DataError:
    try:
        pixels = picture.read()
        return _Look(picture.sha256(), pixels.shape[:2], fingerprint(pixels))
    except DataError as error:
        return error


def _with_splits(
    pictures: Sequence[Picture], looks: Sequence[_Look], pairs: Sequence[tuple[int, int]]
) -> tuple[Picture, ...]:
    """Draw the splits that are missing, by pairs that are known already."""
    if drawn_from(pictures) is None:
        return tuple(pictures)
    places = compared(pictures)
    number = {place: at for at, place in enumerate(places)}
    inside = [(number[a], number[b]) for a, b in pairs if a in number and b in number]
    leaders = groups_of(len(places), inside)
    return draw_splits(pictures, leaders, [looks[place].digest for place in places], SEED)


def _counts(pictures: Sequence[Picture]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for picture in pictures:
        counts[picture.split][picture.folder] += 1
    return {split: dict(counts[split]) for split in in_order(counts)}


def _sizes(sizes: Sequence[tuple[int, int]]) -> Sizes | None:
    if not sizes:
        return None
    heights, widths = np.array(sizes).T
    return Sizes(*(int(of(sides)) for sides in (widths, heights) for of in (np.min, np.median, np.max)))


def _pairs(looks: Sequence[_Look]) -> list[tuple[int, int]]:
    if not looks:
        return []
    exact = exact_pairs([look.digest for look in looks])
    near = near_pairs(np.stack([look.fingerprint for look in looks]))
    return sorted({(int(a), int(b)) for a, b in np.concatenate([exact, near])})


def _judge(first: Picture, second: Picture, is_exact: bool) -> Pair:
    return Pair(first.path, second.path, is_exact, first.split != second.split, first.folder != second.folder)
