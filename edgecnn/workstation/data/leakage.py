"""Finds pictures that are nearly the same, so that a test never asks what training was told.

Two tests must both agree. A 64-bit perceptual hash finds candidates; it is blind to the strength of
edges, so that unlike pictures with a plain sky and a horizon collide. The correlation of two 16 x 16
thumbnails throws those out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import Pixels

# Measured on the 17,034 scenes, of which 36 training pictures are known to repeat test pictures: those
# lie at most 8 bits and at least 0.965 in correlation from their twins. 10 bits would let four times as
# many candidates through and find no further one.
MAX_BITS = 8
MIN_CORRELATION = 0.95

SMALLEST_SIDE_PX = 32
"""Smaller pictures, digits for instance, differ too little to be judged: only exact copies count there."""

_HASH_SIDE, _HASH_INPUT, _THUMB_SIDE = 8, 32, 16
_NO_STRUCTURE = 1.0  # the length of a thumbnail of one colour, give or take a byte
_HASH_LENGTH = _HASH_SIDE * _HASH_SIDE
FINGERPRINT_LENGTH = _HASH_LENGTH + _THUMB_SIDE * _THUMB_SIDE
_BLOCK = 1024
_AT_ONCE = 65_536

Fingerprint = NDArray[np.float32]
"""64 signs of the hash, then 256 values of the thumbnail, with mean 0 and length 1."""


def fingerprint(pixels_rgb: Pixels) -> Fingerprint:
    """Sum a picture up, so that its copy in another size, quality or brightness gives nearly the same.

    Written here because ``imagehash`` needs Pillow, which a device has not got, and decodes every
    picture a second time: 17,034 scenes take 2 s here, decoding included.

    Args:
        pixels_rgb: Shape (height, width, 3), uint8.

    Returns:
        Shape (320,), float32; NaN, which equals nothing, where the picture is of one colour or smaller
        than ``SMALLEST_SIDE_PX``.

    Source:
        C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, 3.2.1:
        signs of the 8 x 8 lowest frequencies of the cosine transform of a 32 x 32 grey picture
        against their median.

    Example:
        >>> fingerprint(np.arange(32 * 32 * 3, dtype=np.uint16).reshape(32, 32, 3).astype(np.uint8)).shape
        (320,)
    """
    if min(pixels_rgb.shape[:2]) < SMALLEST_SIDE_PX:
        return np.full(FINGERPRINT_LENGTH, np.nan, np.float32)
    grey = cv2.cvtColor(pixels_rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_HASH_INPUT, _HASH_INPUT), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:_HASH_SIDE, :_HASH_SIDE]
    signs = np.where(low > np.median(low), np.float32(1), np.float32(-1)).ravel()
    thumb = cv2.resize(small, (_THUMB_SIDE, _THUMB_SIDE), interpolation=cv2.INTER_AREA)
    centred = thumb.astype(np.float32).ravel() - thumb.mean(dtype=np.float32)
    length = float(np.linalg.norm(centred))
    if length < _NO_STRUCTURE:
        return np.full(FINGERPRINT_LENGTH, np.nan, np.float32)
    return np.concatenate([signs, centred / length]).astype(np.float32)


def near_pairs(fingerprints: NDArray[np.float32]) -> NDArray[np.int64]:
    """Find all pairs of nearly equal pictures.

    Compares every picture with every other, in blocks, as matrix products: 17,034 pictures take 2 s
    on 2 cores, 60,000 about 30 s, in less than 0.5 GB, and 16 bytes for each pair that is found.

    Args:
        fingerprints: Shape (count, 320).

    Returns:
        Shape (pair_count, 2): positions, the smaller first; sorted.

    Example:
        >>> same = fingerprint(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8))
        >>> near_pairs(np.stack([same, -same, same])).tolist()
        [[0, 2]]
    """
    judged = np.flatnonzero(~np.isnan(fingerprints[:, 0]))
    signs = np.ascontiguousarray(fingerprints[judged, :_HASH_LENGTH])
    thumbs = np.ascontiguousarray(fingerprints[judged, _HASH_LENGTH:])
    found: list[NDArray[np.int64]] = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(signs), _BLOCK):
        # Two sign vectors that differ in d of 64 places have the dot product 64 - 2 d.
        dots = signs[start : start + _BLOCK] @ signs[start:].T
        rows, columns = np.nonzero(dots >= _HASH_LENGTH - 2 * MAX_BITS)
        later = columns > rows
        pairs = np.stack([rows[later], columns[later]], axis=1) + start
        # Of a camera that does not move every pair is a candidate: not all their thumbnails at once.
        for part in np.split(pairs, range(_AT_ONCE, len(pairs), _AT_ONCE)):
            alike = np.einsum("ij,ij->i", thumbs[part[:, 0]], thumbs[part[:, 1]])
            found.append(judged[part[alike >= MIN_CORRELATION]])
    return np.concatenate(found)


def groups_of(count: int, pairs: Sequence[Sequence[int]] | NDArray[Any]) -> NDArray[np.int64]:
    """Join pictures that are linked by pairs, directly or through others.

    Returns:
        Shape (count,): for each picture the smallest position in its group.

    Example:
        >>> groups_of(5, [(0, 2), (2, 4)]).tolist()
        [0, 1, 0, 3, 0]
    """
    leaders = np.arange(count, dtype=np.int64)
    linked = np.reshape(np.asarray(pairs, np.int64), (-1, 2))
    while len(linked):
        ends = leaders[linked]
        np.minimum.at(leaders, ends.max(axis=1), ends.min(axis=1))
        while (leaders[leaders] != leaders).any():
            leaders = leaders[leaders]
        ends = leaders[linked]
        linked = linked[ends[:, 0] != ends[:, 1]]
    return leaders


def exact_pairs(digests: Sequence[str]) -> NDArray[np.int64]:
    """Pair each picture with the first one of the same digest.

    Returns:
        Shape (pair_count, 2): positions, the smaller first.

    Example:
        >>> exact_pairs(["a", "b", "a", "a"]).tolist()
        [[0, 2], [0, 3]]
    """
    first: dict[str, int] = {}
    pairs = [(first.setdefault(digest, at), at) for at, digest in enumerate(digests)]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def near_duplicates(fingerprints: NDArray[np.float32], digests: Sequence[str]) -> NDArray[np.int64]:
    """Group pictures that are equal or nearly so.

    Args:
        fingerprints: Shape (count, 320).
        digests: Of the files' bytes.

    Returns:
        Shape (count,): for each picture the smallest position in its group.

    Example:
        >>> none = np.full((3, FINGERPRINT_LENGTH), np.nan, np.float32)
        >>> near_duplicates(none, ["a", "b", "a"]).tolist()
        [0, 1, 0]
    """
    pairs = np.concatenate([near_pairs(fingerprints), exact_pairs(digests)])
    return groups_of(len(fingerprints), pairs)
