"""How a file compares with the model that it was made from, head by head, on pictures of val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle.manifest import Measured, OperatingPoints
from edgecnn.core.prediction import Head, Scores, decode
from edgecnn.measure.accuracy import Drop, accuracy_drop, decide, is_exclusive, wilson
from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.pipeline import Codes, Stack, codes_of
from edgecnn.workstation.data.targets import Targets, targets_of
from edgecnn.workstation.ladder.judge import Answers, Judge
from edgecnn.workstation.quality import answers, labels_in, peaks_inside
from edgecnn.workstation.split import read_split, with_threshold_lookalikes
from edgecnn.workstation.subject import Subject
from edgecnn.workstation.tflite import heads_in, to_flatbuffer
from edgecnn.workstation.thresholds import points_of, thresholds_of


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


def check(
    flatbuffer: bytes,
    parent: Subject,
    dataset: Dataset | None,
    on_val: tuple[Answers, Answers] | None = None,
    judge: Judge | None = None,
) -> tuple[Check, ...]:
    """Compare the file with its parent on val, head by head; without val pictures there is no check.

    Args:
        flatbuffer: The file.
        parent: What it was made from.
        dataset: With val.
        on_val: What parent and file say of val, where both were asked before.
        judge: Of a budget; its own head is decided by its thresholds, as the file will.
    """
    if dataset is None or "val" not in dataset.splits():
        return ()
    before, after = on_val or _ask_both(flatbuffer, parent, dataset)
    data = f"val of {dataset.name}"
    every = (_check_head(place, head, before, after, data, judge) for place, head in enumerate(parent.heads))
    return tuple(check for check in every if check.file_top1.count)


def _ask_both(flatbuffer: bytes, parent: Subject, dataset: Dataset) -> tuple[Answers, Answers]:
    codes, before = answers_of(parent, dataset, "val")
    return before, replace(before, scores=file_scores(flatbuffer, parent.heads, codes))


def answers_of(parent: Subject, dataset: Dataset, name: str) -> tuple[Codes | Stack, Answers]:
    """Read a split, and ask the model that is converted about it; look-alikes come with val."""
    if parent.card and (recipe := parent.recipe):
        split, count = read_split(dataset, name, recipe, parent.heads, parent.model), 0
        if name == "val":
            split, count = with_threshold_lookalikes(split, dataset, recipe, parent.heads)
        scores = map(_by_label, answers(parent.model, split.codes), parent.heads)
        return split.codes, Answers(split.targets, tuple(scores), count)
    # A model of somebody else may want its pictures in a way that only the float file knows.
    pictures = dataset.split(name)
    codes = codes_of(pictures, parent.input)
    targets = tuple(targets_of(pictures, head) for head in parent.heads)
    return codes, Answers(targets, file_scores(to_flatbuffer(parent, "float32", None), parent.heads, codes))


def _check_head(
    place: int, head: Head, before: Answers, after: Answers, data: str, judge: Judge | None
) -> Check:
    def right_of(said: Answers, points: Mapping[str, OperatingPoints]) -> NDArray[np.bool_]:
        chosen = judge.thresholds(said) if judge and judge.head == head else {}
        thresholds = {**thresholds_of([head], points), **chosen}
        return right_at(head, said.real.targets[place], said.real.scores[place], thresholds)

    points, parent_points = (points_of(head, x.targets[place], x.scores[place]) for x in (after, before))
    right, own = right_of(before, parent_points), right_of(after, points)
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
