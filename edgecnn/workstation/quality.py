"""How good a network is on a split, in numbers that epochs are chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.place import lies_in, peak_of
from edgecnn.core.prediction import Head, Scores
from edgecnn.measure.accuracy import auc, decide, is_exclusive
from edgecnn.workstation.backend import tf
from edgecnn.workstation.data.pipeline import Codes, Stack
from edgecnn.workstation.data.targets import Targets
from edgecnn.workstation.losses import loss_for, placed
from edgecnn.workstation.models.zoo import listed
from edgecnn.workstation.split import Split

Labels = NDArray[np.int64]

ANSWER_BATCH = 128
"""Pictures that a model is asked about at once."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a model is on a split.

    Attributes:
        loss: Sum over the heads; of a heatmap where the place is known.
        top1: The mean of ``heads``, heatmaps left out: with few boxes, chance would choose the epoch.
        heads: By head, as in ``checkpoint.Epoch``.
    """

    loss: float
    top1: float
    heads: Mapping[str, float]


def evaluate(model: Any, heads: Sequence[Head], split: Split) -> Quality:
    """Measure a model on a split."""
    found = list(zip(heads, answers(model, split.codes), split.targets, strict=True))
    loss = sum(float(loss_for(head, 0.0)(_known(targets, head), scores)) for head, scores, targets in found)
    quality = {head.name: quality_of(scores, targets, head) for head, scores, targets in found}
    chosen = [quality[head.name] for head in heads if head.kind != "heatmap"] or list(quality.values())
    return Quality(loss, float(np.mean(chosen)), quality)


def quality_of(scores: Scores, targets: Targets, head: Head) -> float:
    """Say in one number in [0, 1] how good a head is, on the pictures of which the answer is known.

    Args:
        scores: What the last layer gives, shape (count, neurons) or (count, rows, columns, labels).
        targets: What it should give.
        head: Which one.

    Returns:
        As ``checkpoint.Epoch.heads`` says; 0 where nothing is known.
    """
    known = ~np.isnan(targets.values)
    if is_exclusive(head):
        rows = known[:, 0]
        right = decisions(scores[rows], head) == labels_in(targets.values[rows], head)
        return float(right.mean()) if rows.any() else 0.0
    if head.kind == "heatmap" and (hits := peaks_inside(scores, targets)).size:
        return float(hits.mean())
    flat = scores.reshape(len(scores), -1, scores.shape[-1]).max(axis=1)
    areas = [
        auc(flat[rows, column], targets.values[rows, column] > 0.5) for column, rows in enumerate(known.T)
    ]
    measured = [area for area in areas if area is not None]
    return float(np.mean(measured)) if measured else 0.0


def _known(targets: Targets, head: Head) -> Any:
    return placed(targets.all()) if head.kind == "heatmap" else targets.all()


def peaks_inside(scores: Scores, targets: Targets) -> NDArray[np.bool_]:
    """Say for each label with a box in each picture whether the heatmap's peak lies in one.

    As ``edgecnn bench`` measures it.

    Args:
        scores: Shape (count, rows, columns, labels).
        targets: What it should give.
    """
    boxed = ((row, targets.boxes[mask]) for row, mask in enumerate(targets.mask_of) if mask >= 0)
    return np.array(
        [
            lies_in(peak_of(scores[row, ..., column]), boxes)
            for row, by_label in boxed
            for column, boxes in enumerate(by_label)
            if boxes
        ],
        bool,
    )


def unmeasured(heads: Sequence[Head], training: Split, validation: Split) -> tuple[str, ...]:
    """Name the labels that a training picture shows and none of val, heatmaps left out."""
    columns = zip(heads, training.targets, validation.targets, strict=True)
    return tuple(
        label
        for head, taught, asked in columns
        if head.kind != "heatmap"
        for label in sorted(_shown(taught, head) - _shown(asked, head))
    )


def _shown(targets: Targets, head: Head) -> set[str]:
    if head.is_binary:
        known = targets.values[~np.isnan(targets.values[:, 0])]
        return {head.labels[number] for number in np.unique(labels_in(known, head))}
    return {head.labels[column] for column in np.flatnonzero((targets.values > 0.5).any(axis=0))}


def labels_in(values: Scores, head: Head) -> Labels:
    """Number the labels that targets of one head stand for, shape (count,).

    Example:
        >>> labels_in(np.float32([[1], [0]]), Head("fire", "sigmoid", ("no", "yes"))).tolist()
        [1, 0]
    """
    return np.asarray(values[:, 0] > 0.5 if head.is_binary else values.argmax(axis=1), np.int64)


def decisions(scores: NDArray[np.float32], head: Head) -> Labels:
    """Decide for a label by what the last layer gives, shape (count, neurons), as the device does."""
    every = np.concatenate([1 - scores, scores], axis=-1) if head.is_binary else scores
    return np.asarray(np.argmax(decide(every, head, {}), axis=-1), np.int64)


def answers(model: Any, codes: Codes | Stack, flipped: bool = False) -> tuple[Scores, ...]:
    """Run a Keras model on raw codes, in order: of each output, shape (count, ...)."""
    turn = -1 if flipped else 1
    run = tf.function(lambda x: listed(model(x, training=False)), reduce_retracing=True)
    batches = [
        run(codes[i : i + ANSWER_BATCH][:, :, ::turn].astype(np.float32))
        for i in range(0, len(codes), ANSWER_BATCH)
    ]
    return tuple(np.concatenate([part.numpy() for part in column]) for column in zip(*batches, strict=True))


def predict(model: Any, codes: Codes | Stack, flipped: bool = False) -> NDArray[np.float32]:
    """Run a Keras model of one output, as ``answers`` does: shape (count, ...)."""
    (only,) = answers(model, codes, flipped)
    return only
