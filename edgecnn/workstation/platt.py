"""Scores of which 0.5 is the operating point: logits of the last layer, scaled and moved after training."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.prediction import Head, Scores
from edgecnn.workstation.data.targets import Targets
from edgecnn.workstation.models.zoo import LOGITS
from edgecnn.workstation.thresholds import default_of, logit_of, operating_points

Floats = NDArray[np.float64]

LOUDEST = log(254 / 2)
"""Logit of 254/256: above it int8 tells no two scores apart, and several cells would be the strongest."""

QUIETEST = log(1 / 255)
"""Logit of 1/256: below it int8 tells no two scores apart either."""

STEEPEST = 20.0
"""The most that logits are multiplied by: from scores that hardly differ nothing can be learned."""

_STEPS = 25  # Newton's method needs about six
_HALVED = 0.5 ** np.arange(25)
_ALIKE = 1e-3  # logits
_RIDGE = 1e-7  # keeps a curvature of nothing from being divided by


def centre_scores(
    model: Any, heads: Sequence[Head], scores: Sequence[Scores], targets: Sequence[Targets]
) -> None:
    """Move and scale the logits of labels that do not exclude each other; no order of scores changes.

    Label smoothing and the share of pictures without fire decide where a network's scores lie: 0.1 may be
    a clear fire. An alarm that starts at 0.7 must mean the same with every model. So the logit of the
    default threshold becomes 0, and the slope is Platt's; a heatmap's is at most such that int8 tells its
    strongest cells apart, in the loudest picture and in half of those without the label: a fire that it is
    not sure of has a place, too. Labels that exclude each other stay as they are. So does a label that was
    not learned, its scores all alike or higher where it is absent, and one of which the pictures do not say
    both that they show it and that they do not. Where more pictures without the label than the threshold
    allows have the highest score of all, that score becomes 0.5.

    Args:
        model: Built by ``models.zoo.build``; changed in place.
        heads: Its answers.
        scores: What each gives, on pictures that it was not trained on: shape (count, neurons), or
            (count, rows, columns, labels).
        targets: What each should give.

    Source:
        J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999: slope by the least log loss, with
        targets a little off 0 and 1; the offset is not his, which follows the share of fires on val.
    """
    for head, own, wanted in zip(heads, scores, targets, strict=True):
        if head.kind == "softmax" or head.is_binary:
            continue
        lines = [
            _line(own[..., column], wanted.values[:, column], head.kind == "heatmap")
            for column in range(len(head.labels))
        ]
        _fold(model, head, np.array([slope for slope, _ in lines]), np.array([offset for _, offset in lines]))


def platt_slope(logits: Floats, shown: NDArray[np.bool_]) -> float:
    """Find by how much logits must be multiplied to be those of probabilities.

    Args:
        logits: Of one label, shape (count,).
        shown: Whether each picture shows it; some do and some do not.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> logits = rng.normal(size=20_000)
        >>> bool(abs(platt_slope(logits / 2, rng.random(20_000) < 1 / (1 + np.exp(-logits))) - 2) < 0.1)
        True
    """
    present, absent = int(shown.sum()), int((~shown).sum())
    wanted = np.where(shown, (present + 1) / (present + 2), 1 / (absent + 2))
    spread = float(logits.std()) or 1.0
    given = np.stack([(logits - logits.mean()) / spread, np.ones_like(logits)], axis=1)
    line = np.array([0.0, log((present + 1) / (absent + 1))])
    for _ in range(_STEPS):  # Newton's, halved until the loss falls
        score = 1 / (1 + np.exp(-given @ line))
        gradient = given.T @ (score - wanted)
        curvature = (given * (score * (1 - score))[:, None]).T @ given + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        loss, shares = _log_loss(given @ line, wanted), (share * step for share in _HALVED)
        line = line - next((x for x in shares if _log_loss(given @ (line - x), wanted) < loss), 0 * step)
    return float(line[0]) / spread


def _log_loss(logits: Floats, wanted: Floats) -> float:
    return float(np.sum(np.logaddexp(0, logits) - wanted * logits))


def _line(scores: Scores, wanted: Scores, is_heatmap: bool) -> tuple[float, float]:
    """Give slope and offset of a label's logit; a heatmap speaks by its strongest cell."""
    known = ~np.isnan(wanted)
    shown = wanted[known] > 0.5
    loudest = scores.reshape(len(scores), -1).max(axis=1)[known]
    if not shown.any() or shown.all():
        return 1.0, 0.0
    logits = logit_of(loudest)
    if np.ptp(logits) < _ALIKE or (slope := platt_slope(logits, shown)) <= 0:
        return 1.0, 0.0
    # Where no score raises few enough false alarms, the threshold is 1, far above all of them.
    threshold = float(min(logit_of(default_of(operating_points(loudest, shown))), logits.max()))
    steepest = _steepest(logits - threshold, shown) if is_heatmap else STEEPEST
    return min(slope, steepest), -min(slope, steepest) * threshold


def _steepest(logits: Floats, shown: NDArray[np.bool_]) -> float:
    """Give the most that a heatmap may be multiplied by, from its strongest logits less the threshold."""
    loudest, quiet = float(logits.max()), float(np.median(logits[~shown]))
    bounds = [LOUDEST / loudest if loudest > 0 else STEEPEST, QUIETEST / quiet if quiet < 0 else STEEPEST]
    return min(STEEPEST, *bounds)


def _fold(model: Any, head: Head, slopes: Floats, offsets: Floats) -> None:
    """Change the last layer of a head."""
    layer = model.get_layer(f"{head.name}{LOGITS}")
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel * slopes, bias * slopes + offsets])
