"""The user's own measure of a model, and the threshold and temperature that belong to a file's scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.prediction import Head, Scores, tempered
from edgecnn.errors import ModelError

TEMPERATURES = 2 ** np.linspace(-3, 3, 61)
"""What is tried: from 1/8 to 8 in even ratios of 7 %."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What the budget is counted in.

    Attributes:
        name: Of the head that is judged, or of a label of a sigmoid; empty for the first head.
        false_positive_rate: With it, the metric is the recall of a label at the lowest threshold that
            keeps to this rate on val; None for ``top1``.
    """

    name: str = ""
    false_positive_rate: float | None = None

    def __str__(self) -> str:
        """Write it as the user does."""
        kind = "top1" if self.false_positive_rate is None else f"recall@fpr={self.false_positive_rate:g}"
        return f"{self.name}:{kind}" if self.name else kind


def parse_metric(text: str) -> Metric:
    """Read ``top1`` or ``recall@fpr=0.05``, with ``HEAD:`` or ``LABEL:`` in front where there are several.

    Raises:
        ModelError: If it is neither.

    Example:
        >>> parse_metric("fire:recall@fpr=0.05")
        Metric(name='fire', false_positive_rate=0.05)
    """
    name, _, kind = text.rpartition(":")
    if kind == "top1":
        return Metric(name)
    found = re.fullmatch(r"recall@fpr=(0?\.\d+)", kind)
    if not found:
        raise ModelError(
            f"The metric '{text}' is not known.",
            fix="Give top1, or recall@fpr=0.05 for a label of a sigmoid.",
        )
    return Metric(name, float(found[1]))


def place_of(metric: Metric, heads: Sequence[Head]) -> tuple[int, int]:
    """Find what a metric judges.

    Returns:
        Number of the head, and of the label in it; the label matters for a false positive rate only.

    Raises:
        ModelError: If there is no such head or label, or the head has no threshold and the metric needs one.
    """
    for number, head in enumerate(heads):
        if metric.name not in ("", head.name, *(head.labels if head.kind == "sigmoid" else ())):
            continue
        if metric.false_positive_rate is None:
            return number, 0
        if head.kind == "sigmoid" and (head.is_binary or metric.name in head.labels):
            return number, head.labels.index(metric.name) if metric.name in head.labels else 1
        raise ModelError(
            f"Recall at a false positive rate is of one label of a sigmoid; found the {head.kind} "
            f"'{head.name}' of {len(head.labels)} labels.",
            fix="Give --metric LABEL:recall@fpr=0.05 for a sigmoid, or --metric top1.",
        )
    raise ModelError(
        f"The model has no head '{metric.name}'.",
        fix=f"Name one of: {', '.join(head.name for head in heads)}.",
    )


def threshold_at(scores: Scores, shown: NDArray[np.bool_], rate: float) -> float:
    """Find the lowest threshold that keeps to a false positive rate.

    Args:
        scores: Of one label, shape (count,).
        shown: Whether each picture shows it.
        rate: Share of the pictures without the label that may reach the threshold.

    Example:
        >>> threshold_at(np.float32([0.1, 0.2, 0.3, 0.4]), np.array([False, False, False, True]), 0.34)
        0.25
    """
    absent = np.sort(scores[~shown])[::-1]
    if not len(absent):
        return 0.0
    loudest = float(absent[min(int(rate * len(absent)), len(absent) - 1)])
    above = scores[scores > loudest]
    # Half way up to the next score: the threshold does not stand on the very pictures that it was found by.
    return round((loudest + float(above.min())) / 2, 6) if above.size else 1.0


def fit_temperature(scores: Scores, values: Scores, head: Head) -> float:
    """Find how much softer or sharper the scores should be to be probabilities.

    Args:
        scores: By label, shape (count, labels).
        values: The truth by neuron, shape (count, neurons); NaN where it is not known.
        head: Softmax or sigmoid.

    Returns:
        The temperature for ``core.prediction.tempered``; 1 where the scores are right as they are, or
        nothing is known.

    Source:
        C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: least log loss on val.
    """
    own = scores[:, 1:] if head.is_binary else scores
    known = ~np.isnan(values)
    if not known.any():
        return 1.0
    losses = []
    for temperature in TEMPERATURES:
        soft = np.clip(tempered(own, float(temperature), head), 1e-7, 1 - 1e-7)
        loss = -values * np.log(soft)
        if head.kind != "softmax":
            loss -= (1 - values) * np.log(1 - soft)
        losses.append(loss[known].mean())
    return round(float(TEMPERATURES[int(np.argmin(losses))]), 4)
