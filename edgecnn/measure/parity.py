"""How far the scores of two models lie apart on the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.prediction import Head
from edgecnn.measure.accuracy import decide


@dataclass(frozen=True, slots=True)
class Parity:
    """How far two models' scores lie apart; right or wrong plays no part.

    Attributes:
        max_abs: Largest difference of any score.
        mean_abs: Mean difference of the scores.
        flipped_count: Pictures on which they decide differently.
        count: Pictures.
    """

    max_abs: float
    mean_abs: float
    flipped_count: int
    count: int


def parity(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    head: Head,
    thresholds: Mapping[str, float] | None = None,
    second_thresholds: Mapping[str, float] | None = None,
) -> Parity:
    """Compare the scores of two models on the same pictures.

    Serves for Keras against the float file, for float against int8, and for one machine against another.

    Args:
        first: Shape (picture_count, label_count).
        second: The same.
        head: What both belong to.
        thresholds: By label; 0.5 where absent.
        second_thresholds: Of the second model, where they differ.

    Returns:
        The differences; zeros where there are no pictures.

    Example:
        >>> pet = Head("pet", "softmax", ("cat", "dog", "eel"))
        >>> parity(np.float32([[0.5, 0.25, 0.25]]), np.float32([[0.25, 0.5, 0.25]]), pet)
        Parity(max_abs=0.25, mean_abs=0.16666666666666666, flipped_count=1, count=1)
    """
    if not len(first):
        return Parity(0.0, 0.0, 0, 0)
    apart = np.abs(first.astype(np.float64) - second.astype(np.float64))
    second_thresholds = thresholds if second_thresholds is None else second_thresholds
    flips = flipped(first, second, head, thresholds or {}, second_thresholds or {})
    return Parity(float(apart.max()), float(apart.mean()), len(flips), len(first))


def flipped(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    head: Head,
    thresholds: Mapping[str, float],
    second_thresholds: Mapping[str, float],
) -> NDArray[np.intp]:
    """List the pictures on which two models decide differently, the widest difference first.

    Returns:
        Positions of the pictures, shape (flipped_count,).

    Example:
        >>> fire = Head("fire", "sigmoid", ("no_fire", "fire"))
        >>> a, b = np.float32([[0.6, 0.4], [0.9, 0.1]]), np.float32([[0.4, 0.6], [0.1, 0.9]])
        >>> flipped(a, b, fire, {}, {}).tolist()
        [1, 0]
    """
    differs = (decide(first, head, thresholds) != decide(second, head, second_thresholds)).any(axis=1)
    places = np.flatnonzero(differs)
    gaps = np.abs(first[places] - second[places]).max(axis=1, initial=0)
    return places[np.argsort(-gaps, kind="stable")]
