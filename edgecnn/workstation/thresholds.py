"""Where the thresholds of labels that do not exclude each other lie: on val, and on rendered look-alikes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle.manifest import OperatingPoints
from edgecnn.core.prediction import Head, Scores
from edgecnn.workstation.data.targets import Targets

MOST_FALSE_ALARMS = 0.01
"""Share of the pictures without a label, look-alikes among them, that may pass the first threshold."""

LEAST_RECALL = 0.95
"""Share of the val pictures with a label that pass the threshold of high recall."""

_TINY = 1e-7


def points_of(head: Head, targets: Targets, scores: Scores) -> dict[str, OperatingPoints]:
    """Find where the thresholds of a sigmoid's labels could lie, on pictures of which the label is known."""
    if head.kind != "sigmoid":
        return {}
    columns = {head.labels[1]: (0, 1)} if head.is_binary else {x: (i, i) for i, x in enumerate(head.labels)}
    found = {}
    for label, (column, place) in columns.items():
        known = ~np.isnan(targets.values[:, column])
        shown = targets.values[known, column] > 0.5
        if shown.any() and not shown.all():
            found[label] = operating_points(scores[known, place], shown)
    return found


def operating_points(scores: Scores, shown: NDArray[np.bool_]) -> OperatingPoints:
    """Find the lowest threshold of few false alarms, and the highest that misses little.

    Args:
        scores: Of one label, shape (count,).
        shown: Whether each picture shows it; some do and some do not.

    Example:
        >>> operating_points(np.float32([0.1, 0.3, 0.2, 0.9]), np.array([False, False, True, True]))
        OperatingPoints(low_false_alarms=0.6, high_recall=0.2)
    """
    absent, present = np.sort(scores[~shown])[::-1], np.sort(scores[shown])[::-1]
    loudest = float(absent[int(MOST_FALSE_ALARMS * len(absent))])
    above = scores[scores > loudest]
    # Half way up to the next score: the threshold does not stand on the very pictures that it was found by.
    quiet = (loudest + float(above.min())) / 2 if above.size else 1.0
    needed = int(np.ceil(LEAST_RECALL * len(present)))
    # Rounded down: the picture that decides must itself pass.
    return OperatingPoints(round(quiet, 6), math.floor(float(present[needed - 1]) * 1e6) / 1e6)


def thresholds_of(heads: Sequence[Head], points: Mapping[str, OperatingPoints]) -> dict[str, float]:
    """Choose the thresholds: few false alarms, because an alarm that cries wolf is switched off.

    Where few false alarms and high recall go together, half way between both: other places are harder than
    val, for one as for the other. Of two labels that exclude each other none is an alarm: there 0.5 makes the
    fewest errors.
    """
    chosen = {}
    for head in heads:
        if head.is_binary:
            chosen[head.labels[1]] = 0.5
        elif head.kind == "sigmoid":
            chosen |= {x: default_of(points[x]) if x in points else 0.5 for x in head.labels}
    return chosen


def default_of(points: OperatingPoints) -> float:
    """Choose between them, as ``thresholds_of`` says; half way is counted in logits, as scores are made.

    Example:
        >>> default_of(OperatingPoints(low_false_alarms=0.5, high_recall=0.9))
        0.75
    """
    middle = (logit_of(points.low_false_alarms) + logit_of(points.high_recall)) / 2
    return max(points.low_false_alarms, round(1 / (1 + math.exp(-middle)), 6))


def logit_of(score: Any) -> Any:
    """Give the logit of a score, or of an array of them; of 0 and 1 a large one.

    Example:
        >>> float(logit_of(0.5)), round(float(logit_of(1)))
        (0.0, 16)
    """
    kept = np.clip(np.asarray(score, np.float64), _TINY, 1 - _TINY)
    return np.log(kept / (1 - kept))
