"""How often a model is right, how sure that figure is, and where two models part ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.prediction import Head

Decisions = NDArray[np.bool_]
"""Shape (picture_count, label_count): which labels were decided for, or hold, in each picture."""

RESAMPLES = 10_000

FEW_DISCORDANT = 20
"""Below so many pictures on which one model alone is right, the bootstrap interval may be too narrow.

Simulated with 500 pictures, it holds the true drop in 63 % of experiments where one such picture is expected
and in 92 % where 5 are; the score interval in 95 to 99 %. From 16 on the two cover alike."""

DropMethod = Literal["paired bootstrap", "Tango's score interval"]


@dataclass(frozen=True, slots=True)
class LabelAccuracy:
    """How one label fares; ``None`` where nothing was there to divide by.

    Attributes:
        precision: Share of the pictures decided for this label that show it.
        recall: Share of the pictures that show this label that were decided for it.
        count: Pictures that show it.
        decided_count: Pictures decided for it.
        false_alarm_rate: Share of the pictures known not to show it that were decided for it.
        absent_count: Pictures known not to show it.
        auc: Area under its ROC curve.
        unknown_rate: Share of the pictures of which nobody says whether they show it that were decided
            for it: of smoke, from which flames may shine, for fire.
        unknown_count: Those pictures.
    """

    precision: float | None
    recall: float | None
    count: int
    decided_count: int
    false_alarm_rate: float | None = None
    absent_count: int = 0
    auc: float | None = None
    unknown_rate: float | None = None
    unknown_count: int = 0


@dataclass(frozen=True, slots=True)
class HeadAccuracy:
    """How often one head is right.

    Attributes:
        top1: Share of the pictures whose decision is exactly the truth.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end of it.
        count: Pictures.
        correct_count: Pictures decided right.
        auc: Area under the ROC curve of the second of two labels; else ``None``.
        per_label: By label.
        confusion: ``confusion[truth][decided]`` counts pictures, in the order of ``per_label``;
            ``None`` where a picture may have several labels or none.
    """

    top1: float
    low: float
    high: float
    count: int
    correct_count: int
    auc: float | None
    per_label: dict[str, LabelAccuracy]
    confusion: list[list[int]] | None


@dataclass(frozen=True, slots=True)
class Drop:
    """What is lost from one model to another on the same pictures, in percentage points.

    Attributes:
        drop_pp: Accuracy of the first model less that of the second.
        low_pp: Lower end of the 95 % interval.
        high_pp: Upper end of it.
        only_first_count: Pictures that only the first model gets right.
        only_second_count: Pictures that only the second model gets right.
        mcnemar_p: How often chance alone would part the two models so far, if they were equally good.
        method: How the interval was found.
    """

    drop_pp: float
    low_pp: float
    high_pp: float
    only_first_count: int
    only_second_count: int
    mcnemar_p: float
    method: DropMethod


def wilson(correct_count: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion; ``(0, 1)`` when nothing was tried.

    Source:
        E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.

    Example:
        >>> low, high = wilson(90, 100)
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
    """
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = correct_count / count, z * z / count
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    # At the ends the formula gives exactly 0 and 1; floating point misses them by a hair.
    low = 0.0 if correct_count == 0 else max(0.0, centre - half)
    high = 1.0 if correct_count == count else min(1.0, centre + half)
    return low, high


def is_exclusive(head: Head) -> bool:
    """Whether exactly one label of the head holds in every picture."""
    return head.kind == "softmax" or head.is_binary


def decide(scores: NDArray[np.float32], head: Head, thresholds: Mapping[str, float]) -> Decisions:
    """Turn scores into decisions, as the device does.

    Args:
        scores: Shape (picture_count, label_count), in the order of the head's labels.
        head: A softmax decides for its highest label. One sigmoid neuron decides for its second
            label from the threshold on, else for the first. Several sigmoids each decide alone.
        thresholds: By label; 0.5 where absent.

    Returns:
        Shape (picture_count, label_count).

    Example:
        >>> fire = Head("fire", "sigmoid", ("no_fire", "fire"))
        >>> decide(np.float32([[0.4, 0.6]]), fire, {"fire": 0.7}).tolist()
        [[True, False]]
    """
    if head.kind == "softmax":
        return one_hot(scores.argmax(axis=1), len(head.labels))
    limits = np.array([thresholds.get(label, 0.5) for label in head.labels], np.float32)
    if head.is_binary:
        return one_hot((scores[:, 1] >= limits[1]).astype(np.intp), 2)
    return np.asarray(scores >= limits)


def one_hot(columns: NDArray[np.intp], label_count: int) -> Decisions:
    """Mark one label in each row.

    Example:
        >>> one_hot(np.array([1, 0]), 2).tolist()
        [[False, True], [True, False]]
    """
    return np.asarray(columns[:, None] == np.arange(label_count)[None, :])


def truth(labels: Sequence[str], head: Head) -> Decisions:
    """Say which labels of a head hold in each picture.

    Args:
        labels: One a picture, from its folder. A label that the head does not know marks none, which
            only a head of several sigmoids can be tested on.
        head: The head.

    Returns:
        Shape (picture_count, label_count).
    """
    return np.asarray(np.array(labels, dtype=str)[:, None] == np.array(head.labels, dtype=str)[None, :])


def is_right(decided: Decisions, holds: Decisions) -> NDArray[np.bool_]:
    """Say for each picture whether all its labels were decided right; shape (picture_count,)."""
    return np.asarray((decided == holds).all(axis=1))


def head_accuracy(
    scores: NDArray[np.float32],
    holds: Decisions,
    head: Head,
    thresholds: Mapping[str, float],
    known: Decisions | None = None,
) -> HeadAccuracy:
    """Measure one head on pictures of which the truth is known.

    Args:
        scores: Shape (picture_count, label_count).
        holds: The truth, of the same shape.
        head: What the scores belong to.
        thresholds: By label; 0.5 where absent.
        known: Where the truth is known, of the same shape; everywhere if left out. What is not known is
            not counted, and a picture of which nothing is known is left out.

    Returns:
        Everything that the report says about it.

    Example:
        >>> animal = Head("animal", "softmax", ("cat", "dog", "eel"))
        >>> scores = np.float32([[0.9, 0.1, 0], [0.6, 0.4, 0]])
        >>> measured = head_accuracy(scores, truth(["cat", "dog"], animal), animal, {})
        >>> measured.top1, measured.per_label["cat"].precision, measured.per_label["eel"].recall
        (0.5, 0.5, None)
    """
    decided = decide(scores, head, thresholds)
    known = np.ones_like(holds) if known is None else known
    rows = known.any(axis=1)
    scores, known, every_decision = scores[rows], known[rows], decided[rows]
    decided, holds = every_decision & known, holds[rows] & known
    count, correct_count = len(holds), int(is_right(decided, holds).sum())
    low, high = wilson(correct_count, count)
    return HeadAccuracy(
        top1=correct_count / count if count else 0.0,
        low=low,
        high=high,
        count=count,
        correct_count=correct_count,
        auc=auc(scores[:, 1], holds[:, 1]) if is_exclusive(head) and len(head.labels) == 2 else None,
        per_label={
            label: _label_accuracy(
                scores[is_known, column],
                decided[is_known, column],
                holds[is_known, column],
                every_decision[~is_known, column],
            )
            for column, (label, is_known) in enumerate(zip(head.labels, known.T, strict=True))
        },
        confusion=confusion(decided, holds).tolist() if is_exclusive(head) else None,
    )


def _label_accuracy(
    scores: NDArray[np.float32],
    decided: NDArray[np.bool_],
    holds: NDArray[np.bool_],
    decided_unknown: NDArray[np.bool_],
) -> LabelAccuracy:
    """Measure one label on the pictures of which it is known whether they show it, and on the others.

    Args:
        scores: Of the known ones, shape (known_count,).
        decided: Likewise.
        holds: Likewise.
        decided_unknown: Of the others, shape (unknown_count,).
    """
    hit_count, count, decided_count = int((decided & holds).sum()), int(holds.sum()), int(decided.sum())
    absent_count = len(holds) - count
    return LabelAccuracy(
        precision=hit_count / decided_count if decided_count else None,
        recall=hit_count / count if count else None,
        count=count,
        decided_count=decided_count,
        false_alarm_rate=(decided_count - hit_count) / absent_count if absent_count else None,
        absent_count=absent_count,
        auc=auc(scores, holds),
        unknown_rate=float(decided_unknown.mean()) if decided_unknown.size else None,
        unknown_count=len(decided_unknown),
    )


def confusion(decided: Decisions, holds: Decisions) -> NDArray[np.int64]:
    """Count pictures by truth (row) and decision (column).

    Example:
        >>> confusion(one_hot(np.array([0, 0]), 2), one_hot(np.array([0, 1]), 2)).tolist()
        [[1, 0], [1, 0]]
    """
    return holds.T.astype(np.int64) @ decided.astype(np.int64)


def auc(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve; ``None`` where all pictures are of one kind.

    Source:
        The Mann-Whitney statistic over ranks, ties at their mean rank: J. A. Hanley and B. J. McNeil,
        Radiology 143 (1982) 29-36.

    Example:
        >>> auc(np.float32([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
        0.875
    """
    positive_count = int(positive.sum())
    negative_count = len(positive) - positive_count
    if not positive_count or not negative_count:
        return None
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(size)
    mean_rank = last_rank - (size - 1) / 2
    rank_sum = float(mean_rank[group][positive].sum())
    return (rank_sum - positive_count * (positive_count + 1) / 2) / (positive_count * negative_count)


def auc_interval(area: float, positive_count: int, negative_count: int) -> tuple[float, float]:
    """Return the 95 % interval of an area under the ROC curve, symmetric in its logit: it ends below 1.

    Source:
        J. A. Hanley and B. J. McNeil, Radiology 143 (1982) 29-36, for the standard error.

    Example:
        >>> low, high = auc_interval(0.99, 266, 269)
        >>> round(low, 3), round(high, 3)
        (0.977, 0.996)
    """
    pairs = positive_count * negative_count
    # An area of exactly 0 or 1 has no logit; half a pair less is what the next picture could show.
    area = min(max(area, 0.5 / pairs), 1 - 0.5 / pairs)
    both_above = area / (2 - area)
    both_below = 2 * area * area / (1 + area)
    variance = (
        area * (1 - area)
        + (positive_count - 1) * (both_above - area * area)
        + (negative_count - 1) * (both_below - area * area)
    ) / pairs
    logit = math.log(area / (1 - area))
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance) / (area * (1 - area))
    return 1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-half - logit))


def accuracy_drop(
    first: NDArray[np.bool_], second: NDArray[np.bool_], seed: int = 1, resamples: int = RESAMPLES
) -> Drop:
    """Compare two models on the same pictures.

    The interval is the paired percentile bootstrap. A resample of pictures changes the drop only
    through how many it draws of the four kinds (both right, only one, only the other, neither), and
    those counts are multinomial: drawing the counts is the same experiment, thousands of times faster.
    Where only few pictures part the models (fewer than ``FEW_DISCORDANT``), the bootstrap cannot see beyond
    them and is too sure; the score interval for paired proportions stands in.

    Args:
        first: Shape (picture_count,): where the first model is right.
        second: The same of the second model.
        seed: Of the resampling.
        resamples: How many.

    Returns:
        The drop from the first to the second model.

    Source:
        B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; for few
        pictures, see ``score_interval``.

    Example:
        >>> drop = accuracy_drop(np.array([True] * 4), np.array([True] * 3 + [False]))
        >>> drop.drop_pp, drop.method
        (25.0, "Tango's score interval")
    """
    count = len(first)
    kinds = np.array([first & second, first & ~second, ~first & second, ~first & ~second]).sum(axis=1)
    only_first, only_second = int(kinds[1]), int(kinds[2])
    if count == 0:
        return Drop(0.0, -100.0, 100.0, 0, 0, 1.0, "Tango's score interval")
    method: DropMethod
    if only_first + only_second < FEW_DISCORDANT:
        method = "Tango's score interval"
        low, high = score_interval(only_first, only_second, count)
    else:
        method = "paired bootstrap"
        drawn = np.random.default_rng(seed).multinomial(count, kinds / count, size=resamples)
        low, high = np.percentile((drawn[:, 1] - drawn[:, 2]) / count, [2.5, 97.5]).tolist()
    return Drop(
        drop_pp=100.0 * (only_first - only_second) / count,
        low_pp=100.0 * low,
        high_pp=100.0 * high,
        only_first_count=only_first,
        only_second_count=only_second,
        mcnemar_p=mcnemar_p(only_first, only_second),
        method=method,
    )


def score_interval(
    only_first: int, only_second: int, count: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the score interval of the difference of two paired proportions.

    It holds every difference that a score test would not reject, as Wilson's does for one proportion, and
    has a width even where the two never part ways.

    Args:
        only_first: Pictures that only the first model gets right.
        only_second: Pictures that only the second model gets right.
        count: All pictures, at least 1.
        confidence: Share of experiments whose interval shall hold the truth.

    Returns:
        The ends, each in [-1, 1].

    Source:
        T. Tango, Statistics in Medicine 17 (1998) 891-908, equations 2 to 4; the ends by bisection.

    Example:
        >>> low, high = score_interval(0, 0, 500)
        >>> round(low, 5), round(high, 5)
        (-0.00762, 0.00762)
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return -_score_end(only_second, only_first, count, z), _score_end(only_first, only_second, count, z)


def _score_end(only_first: int, only_second: int, count: int, z: float) -> float:
    """Find the greatest difference that the score test does not reject."""

    def fits(difference: float) -> bool:
        # The likeliest share of pictures that only the second gets right, given the difference.
        b = (2 * count - only_first + only_second) * difference - only_first - only_second
        c = -only_second * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b * b - 8 * count * c)) - b) / (4 * count)
        variance = count * (2 * share + difference * (1 - difference))
        return (only_first - only_second - count * difference) ** 2 <= z * z * variance

    inside, outside = (only_first - only_second) / count, 1.0
    if fits(outside):
        return outside
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if fits(middle) else (inside, middle)
    return inside


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    Source:
        Q. McNemar, Psychometrika 12 (1947) 153-157, with the binomial in place of its approximation.

    Example:
        >>> mcnemar_p(1, 5)
        0.21875
    """
    count = only_first + only_second
    term = total = 1  # C(count, 0), then the sum of C(count, i) up to the smaller side
    for index in range(1, min(only_first, only_second) + 1):
        term = term * (count - index + 1) // index
        total += term
    return float(min(1.0, 2 * total / 2**count)) if count else 1.0
