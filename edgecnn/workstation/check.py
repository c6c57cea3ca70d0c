"""How a file compares with the model that it was made from, head by head, on pictures of val."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle.manifest import Measured, OperatingPoints
from edgecnn.core.prediction import Head, decode
from edgecnn.measure.accuracy import Drop, accuracy_drop, decide, is_exclusive, wilson
from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.pipeline import Codes, Stack, codes_of
from edgecnn.workstation.data.targets import Targets, targets_of
from edgecnn.workstation.ladder.judge import Answers
from edgecnn.workstation.subject import Subject
from edgecnn.workstation.tflite import heads_in, to_flatbuffer
from edgecnn.workstation.train import Scores, answers, labels_in, peaks_inside, read_split

MOST_FALSE_ALARMS = 0.01
"""Share of the val pictures without a label that may pass the threshold of few false alarms."""

LEAST_RECALL = 0.95
"""Share of the val pictures with a label that pass the threshold of high recall."""


@dataclass(frozen=True, slots=True)
class Check:
    """How one head of the file compares with the model that it was made from, on the val split.

    Attributes:
        parent_top1: Share of the pictures that the model gets right.
        file_top1: The same of the file. Of labels that do not exclude each other, all that are known of a
            picture must be decided right, each by its threshold; of a heatmap, the peak must lie in a box.
        drop: From the model to the file.
        points: By label of a sigmoid, where thresholds could lie.
    """

    parent_top1: float
    file_top1: Measured
    drop: Drop
    points: Mapping[str, OperatingPoints] = field(default_factory=dict)


def check(flatbuffer: bytes, parent: Subject, dataset: Dataset | None) -> tuple[Check, ...]:
    """Compare the file with its parent on val, head by head; without val pictures there is no check."""
    if dataset is None or "val" not in dataset.splits():
        return ()
    codes, before = answers_of(parent, dataset, "val")
    own = file_scores(flatbuffer, parent.heads, codes)
    data = f"val of {dataset.name}"
    columns = zip(parent.heads, before.targets, before.scores, own, strict=True)
    return tuple(
        check for column in columns for check in [_check_head(*column, data)] if check.file_top1.count
    )


def answers_of(parent: Subject, dataset: Dataset, name: str) -> tuple[Codes | Stack, Answers]:
    """Read a split, and ask the model that is converted about it."""
    if parent.card and parent.recipe:
        split = read_split(dataset, name, parent.recipe, parent.heads, parent.model)
        scores = map(_by_label, answers(parent.model, split.codes), parent.heads)
        return split.codes, Answers(split.targets, tuple(scores))
    # A model of somebody else may want its pictures in a way that only the float file knows.
    pictures = dataset.split(name)
    codes = codes_of(pictures, parent.input)
    targets = tuple(targets_of(pictures, head) for head in parent.heads)
    return codes, Answers(targets, file_scores(to_flatbuffer(parent, "float32", None), parent.heads, codes))


def _check_head(head: Head, targets: Targets, before: Scores, after: Scores, data: str) -> Check:
    points = points_of(head, targets, after)
    right = right_at(head, targets, before, thresholds_of([head], points_of(head, targets, before)))
    own = right_at(head, targets, after, thresholds_of([head], points))
    low, high = wilson(int(own.sum()), len(own))
    share = float(own.mean()) if own.size else 0.0
    metric = "top1" if is_exclusive(head) else "peak in a box" if head.kind == "heatmap" else "all labels"
    measured = Measured(head.name, metric, share, low, high, len(own), data)
    return Check(float(right.mean()) if right.size else 0.0, measured, accuracy_drop(right, own), points)


def right_at(
    head: Head, targets: Targets, scores: Scores, thresholds: Mapping[str, float]
) -> NDArray[np.bool_]:
    """Say of each picture, of which something is known, whether a head is right."""
    if head.kind == "heatmap":
        return peaks_inside(scores, targets)
    known = ~np.isnan(targets.values)
    rows = known.any(axis=1)
    decided = decide(scores[rows], head, thresholds)
    if is_exclusive(head):
        return np.asarray(decided.argmax(axis=1) == labels_in(targets.values[rows], head))
    return np.asarray(((decided == (targets.values[rows] > 0.5)) | ~known[rows]).all(axis=1))


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
            chosen |= {x: _default(points[x]) if x in points else 0.5 for x in head.labels}
    return chosen


def _default(points: OperatingPoints) -> float:
    middle = (points.low_false_alarms + points.high_recall) / 2
    return max(points.low_false_alarms, round(middle, 6))


def file_scores(flatbuffer: bytes, heads: Sequence[Head], codes: Codes | Stack) -> tuple[Scores, ...]:
    """Score every picture by the file's own interpreter: of each head, by label, one picture a row."""
    interpreter, placed = open_interpreter(flatbuffer), heads_in(flatbuffer, heads)
    dtype = interpreter.inputs[0].dtype
    columns: list[list[Scores]] = [[] for _ in heads]
    for row in range(len(codes)):
        outputs = interpreter.invoke(codes[row : row + 1].astype(dtype))
        for column, head in zip(columns, placed, strict=True):
            spec = interpreter.outputs[head.output_index]
            column.append(decode(outputs[head.output_index], spec, head))
    return tuple(np.stack(column) for column in columns)


def _by_label(scores: Scores, head: Head) -> Scores:
    """Give one score a label, as a device does, of what a Keras model's last layer gives."""
    return np.concatenate([1 - scores, scores], axis=-1) if head.is_binary else scores
