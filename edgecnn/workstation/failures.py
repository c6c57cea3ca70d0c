"""Where a fire model fails, shown on pictures that edgecnn renders itself: no other may be published."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from edgecnn.core.frame import InputSpec, Pixels, resize
from edgecnn.core.prediction import Head
from edgecnn.runtime.predictor import TflitePredictor, load
from edgecnn.workstation.data.lookalikes import stress_set
from edgecnn.workstation.data.targets import GENERATED

COUNT: Final = 600
"""As many look-alikes as ``edgecnn data render stress`` paints, and the same ones."""

_SHOWN: Final = 6
_SIDE_PX: Final = 96


@dataclass(frozen=True, slots=True)
class FalseAlarm:
    """A look-alike that a model took for more.

    Attributes:
        kind: What was painted.
        label: What the model saw.
        score: How sure it was.
        pixels: Shape (96, 96, 3), red first.
    """

    kind: str
    label: str
    score: float
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Failures:
    """What became of the look-alikes.

    Attributes:
        count: Look-alikes.
        wrong_count: Those with a false alarm.
        worst: The surest of these, the worst first.
    """

    count: int
    wrong_count: int
    worst: tuple[FalseAlarm, ...]


def failures(path: Path, count: int = COUNT) -> Failures | None:
    """Show a model what only looks like fire or smoke.

    Args:
        path: The model file.
        count: How many look-alikes to paint.

    Returns:
        Its false alarms; None for a model that knows neither fire nor smoke.
    """
    model = load(path)
    heads = [head for head in model.heads if head.kind == "sigmoid" and set(GENERATED) & set(head.labels)]
    if not heads:
        return None
    found = [
        alarm
        for pixels, kind in stress_set(count, seed=0)
        if (alarm := _false_alarm(model, heads, pixels, kind))
    ]
    worst = heapq.nlargest(_SHOWN, found, key=lambda alarm: alarm.score)
    return Failures(count, len(found), tuple(worst))


def _false_alarm(
    model: TflitePredictor, heads: Sequence[Head], pixels: Pixels, kind: str
) -> FalseAlarm | None:
    scores = model.scores(resize(pixels, model.input))
    thresholds = model.manifest.thresholds if model.manifest else {}
    raised = [
        (float(score), label)
        for head in heads
        for label, score in zip(head.labels, scores[head.name], strict=True)
        if label in GENERATED and score >= thresholds.get(label, 0.5)
    ]
    if not raised:
        return None
    score, label = max(raised)
    return FalseAlarm(kind, label, score, resize(pixels, InputSpec(_SIDE_PX, _SIDE_PX)))


def sheet(alarms: Sequence[FalseAlarm]) -> bytes:
    """Put the pictures side by side, as JPEG.

    Example:
        >>> sheet([FalseAlarm("sun", "fire", 0.9, np.zeros((96, 96, 3), np.uint8))])[:2].hex()
        'ffd8'
    """
    row = np.concatenate([alarm.pixels for alarm in alarms], axis=1)
    _, jpeg = cv2.imencode(".jpg", row[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    return jpeg.tobytes()
