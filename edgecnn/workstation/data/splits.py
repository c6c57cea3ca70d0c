"""Draws the splits that a data set lacks, so that no near-duplicate crosses from one to another."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError
from edgecnn.workstation.data.leakage import FINGERPRINT_LENGTH, fingerprint, near_duplicates
from edgecnn.workstation.data.picture import UNSPLIT, Picture, in_threads, refuse_broken

VAL_SHARE = 0.1
TEST_SHARE = 0.1
SEED = 1
"""Of the splits that are drawn, where nobody asks for another."""


def drawn_from(pictures: Sequence[Picture]) -> str | None:
    """Name the split that others have to be drawn from; None where all are there.

    Returns:
        ``all`` where there are no splits, ``train`` where there is no val beside it.
    """
    splits = {picture.split for picture in pictures}
    if UNSPLIT in splits:
        return UNSPLIT
    return "train" if splits & {"train", "val"} == {"train"} else None


def compared(pictures: Sequence[Picture]) -> list[int]:
    """Give the positions of the pictures that are compared before splits are drawn.

    Returns:
        All where some have no split, since they may be copies of those that have one; else those of the
        split that is drawn from, and none where nothing is drawn.
    """
    source = drawn_from(pictures)
    return [place for place, picture in enumerate(pictures) if source in (UNSPLIT, picture.split)]


def group(pictures: Sequence[Picture]) -> tuple[NDArray[np.int64], list[str]]:
    """Find the groups of near-duplicates; of pictures under 32 pixels, exact copies only.

    60,000 digits take a second, the 50,000 pictures of CIFAR-10, each compared with each, about 20 on
    2 busy cores.

    Returns:
        For each picture the smallest position in its group, shape (count,); and the files' SHA-256.

    Raises:
        DataError: If pictures are broken; names them.
    """

    def run(picture: Picture) -> NDArray[np.float32] | DataError:
        try:
            return fingerprint(picture.read())
        except DataError as error:
            return error

    results = in_threads(run, pictures)
    refuse_broken([result for result in results if isinstance(result, DataError)])
    prints = [result for result in results if not isinstance(result, DataError)]
    digests = in_threads(Picture.sha256, pictures)
    return near_duplicates(np.reshape(prints, (-1, FINGERPRINT_LENGTH)), digests), digests


def draw_splits(
    pictures: Sequence[Picture], leaders: NDArray[np.int64], digests: Sequence[str], seed: int
) -> tuple[Picture, ...]:
    """Draw what ``drawn_from`` says is missing; the other splits stay as they are.

    Args:
        pictures: All of them.
        leaders: Of the pictures that ``compared`` names, the smallest position among them in each one's
            group.
        digests: Of those same pictures.
        seed: Of the draw.
    """
    places = compared(pictures)
    own = [pictures[place] for place in places]
    if drawn_from(pictures) == UNSPLIT:
        dealt = _deal(own, leaders, digests, seed)
    else:
        dealt = _draw_val([picture.label for picture in own], leaders, seed)
    drawn = list(pictures)
    for place, split in zip(places, dealt, strict=True):
        drawn[place] = replace(pictures[place], split=split)
    return tuple(drawn)


def _deal(
    pictures: Sequence[Picture], leaders: NDArray[np.int64], digests: Sequence[str], seed: int
) -> list[str]:
    """Deal groups whole, by what they show: a picture that is added moves no other.

    Pictures that have a split keep it, and near-duplicates of theirs follow them: to train, where they
    stand there and elsewhere too.

    A group's smallest digest and the seed make a number in [0, 1): val below 0.1, test below 0.2, else
    train. So each label is split 80 : 10 : 10 on average. A group larger than a tenth of its label stays
    in train. Where that or chance would leave val or test of a label empty, the groups next in line fill
    in, of the large ones the smallest first.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for position, leader in enumerate(leaders.tolist()):
        members[leader].append(position)
    largest = _largest([picture.label for picture in pictures if picture.split == UNSPLIT])
    by_label: dict[str, list[tuple[float, list[int]]]] = defaultdict(list)
    dealt = [picture.split for picture in pictures]
    for leader, positions in members.items():
        if given := {dealt[position] for position in positions} - {UNSPLIT}:
            for position in positions:
                if dealt[position] == UNSPLIT:
                    dealt[position] = "train" if "train" in given else min(given)
            continue
        label = pictures[leader].label
        point = _point(seed, min(digests[position] for position in positions))
        by_label[label].append((point if len(positions) <= largest[label] else 1.0, positions))
    for groups in by_label.values():
        for split, positions in zip(_cut([point for point, _ in groups]), _in_turn(groups), strict=True):
            for position in positions:
                dealt[position] = split
    return dealt


def _point(seed: int, digest: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed} {digest}".encode()).digest()[:6], "big") / 2**48


def _in_turn(groups: Sequence[tuple[float, list[int]]]) -> list[list[int]]:
    return [positions for _, positions in sorted(groups, key=lambda one: (one[0], len(one[1]), one[1]))]


def _cut(points: Sequence[float]) -> list[str]:
    """Name the splits of groups in the order of their points: at least one each, where there are three.

    Example:
        >>> _cut([0.4, 0.7, 0.01, 0.9]), _cut([0.4, 1.0, 1.0])
        (['val', 'test', 'train', 'train'], ['val', 'test', 'train'])
    """
    count = len(points)
    if count <= 2:
        return ["train"] * count
    val = sum(point < VAL_SHARE for point in points)
    test = sum(point < VAL_SHARE + TEST_SHARE for point in points) - val
    val = min(max(1, val), count - 2)
    test = min(max(1, test), count - 1 - val)
    return ["val"] * val + ["test"] * test + ["train"] * (count - val - test)


def _draw_val(labels: Sequence[str], leaders: NDArray[np.int64], seed: int) -> list[str]:
    """Draw a tenth of each label; a group goes where its first member goes, and a large one to train.

    Where that leaves val without a label of at least three groups, it gets the smallest of them. Drawn by
    position and not by content: pictures without a copy are split as by every earlier version.
    """
    by_label: dict[str, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        by_label[label].append(position)
    chosen: set[int] = set()
    for label, positions in by_label.items():
        count = round(len(positions) * VAL_SHARE)
        chosen.update(_generator(seed, label).permutation(positions)[:count].tolist())
    sizes, largest = Counter(leaders.tolist()), _largest(labels)
    val = {leader for leader in chosen if sizes[leader] <= largest[labels[leader]]}
    for positions in by_label.values():
        groups = {int(leader) for leader in leaders[positions]}
        if len(groups) > 2 and not groups & val:
            val.add(min(groups, key=lambda leader: (sizes[leader], leader)))
    return ["val" if leader in val else "train" for leader in leaders.tolist()]


def _largest(labels: Sequence[str]) -> dict[str, int]:
    """Say by label how large a group may be outside of train: a film of one scene would fill val."""
    return {label: max(1, round(count * VAL_SHARE)) for label, count in Counter(labels).items()}


def _generator(seed: int, label: str) -> np.random.Generator:
    """Draw each label by itself, so that a further class leaves the splits of the others alone."""
    digest = hashlib.sha256(label.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
