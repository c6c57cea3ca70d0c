"""How wrong each head is, with what nobody knows left out, and what a teacher adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.prediction import Head
from edgecnn.workstation.backend import keras, tf

Loss = Callable[[Any, Any], Any]
"""From targets and scores of a batch to one number."""

TOP_SHARE = 0.05
"""Of a heatmap's cells: the mean of so many strongest ones speaks for a picture whose place is not known."""

PEAK_WEIGHT = 0.5
"""How much it counts where a heatmap is strongest, beside the mean of its cells; with 1 smoke fares worse."""

NOWHERE_ODDS = 10.0
"""What all cells together stay behind where a label is nowhere: of a single one, a score of 0.91.

Without nowhere, rendered look-alikes push the thresholds up: of val's fires 90 % are told, with it 95 %, and
of its smoke 46 %, with it 71 and 79 % in two trainings. Odds of 1 and of 10 could not be told apart.
"""

_TINY = 1e-7
_LEAST = 1e-30


def loss_for(head: Head, smoothing: float, weights: NDArray[np.float32] | None = None) -> Loss:
    """Make the cross entropy of one head: the mean over everything that is known in the batch.

    Args:
        head: Which one.
        smoothing: Share of the target that is spread over the labels; a heatmap has none.
        weights: Of labels. Shape (labels,) for a softmax, else (neurons, 2): of absence and presence.

    Returns:
        A function of targets, NaN where not known, and scores, both of the shape of the output.

    Source:
        For a heatmap without boxes: the multiple-instance rule of M. Oquab et al., "Is object localization
        for free?", CVPR 2015, with the mean of the top cells in place of the maximum. With boxes: the mean
        over the cells, and a softmax over them, as for the keypoints of K. He et al., "Mask R-CNN", ICCV
        2017, section 5.
    """
    if head.kind == "softmax":
        return _softmax_loss(smoothing, weights)
    return _heatmap_loss if head.kind == "heatmap" else _sigmoid_loss(smoothing, weights)


def _softmax_loss(smoothing: float, weights: NDArray[np.float32] | None) -> Loss:
    def loss(targets: Any, scores: Any) -> Any:
        known, targets = _split(targets)
        importance = known[:, 0] if weights is None else known[:, 0] * tf.linalg.matvec(targets, weights)
        count = tf.cast(tf.shape(targets)[-1], tf.float32)
        smooth = targets * (1 - smoothing) + smoothing / count
        entropy = keras.backend.categorical_crossentropy(smooth, scores)
        return tf.math.divide_no_nan(tf.reduce_sum(entropy * importance), tf.reduce_sum(known[:, 0]))

    return loss


def _sigmoid_loss(smoothing: float, weights: NDArray[np.float32] | None) -> Loss:
    def loss(targets: Any, scores: Any) -> Any:
        known, targets = _split(targets)
        importance = known
        if weights is not None:
            importance = known * (weights[:, 0] * (1 - targets) + weights[:, 1] * targets)
        smooth = targets * (1 - smoothing) + smoothing / 2
        entropy = keras.backend.binary_crossentropy(smooth, scores)
        return tf.math.divide_no_nan(tf.reduce_sum(entropy * importance), tf.reduce_sum(known))

    return loss


def _heatmap_loss(targets: Any, scores: Any) -> Any:
    known, targets = _split(targets)
    # Any cell would do: all of them say that the place is not known.
    somewhere = tf.cast(tf.reduce_min(targets, (1, 2)) < 0, tf.float32)
    entropy = keras.backend.binary_crossentropy(tf.maximum(targets, 0.0), scores)
    each = tf.math.divide_no_nan(tf.reduce_sum(entropy * known, (1, 2)), tf.reduce_sum(known, (1, 2)))
    each += PEAK_WEIGHT * _astray(known, targets, scores)
    shown = -tf.math.log(tf.maximum(strongest(scores), _TINY))
    is_known = tf.reduce_max(known, (1, 2))
    total = tf.reduce_sum(is_known * (somewhere * shown + (1 - somewhere) * each))
    return tf.math.divide_no_nan(total, tf.reduce_sum(is_known))


def _astray(known: Any, targets: Any, scores: Any) -> Any:
    """Say how little of the strength of a heatmap and of nowhere is where a label is, shape (batch, labels).

    To the mean over all cells a far flame is one of hundreds, and one that fills the picture half of them.
    The cross entropy of a softmax over the cells and nowhere counts each picture once: who is ahead.
    """
    odds = known * scores / tf.maximum(1 - scores, _TINY)  # the exponentials of a softmax of the logits
    is_nowhere = tf.cast(tf.reduce_max(targets, (1, 2)) <= 0, tf.float32)
    right = tf.reduce_sum(odds * tf.maximum(targets, 0.0), (1, 2)) + NOWHERE_ODDS * is_nowhere
    # Two logarithms: that of a quotient would have to end somewhere, and pull no more at what is furthest.
    return tf.math.log(NOWHERE_ODDS + tf.reduce_sum(odds, (1, 2))) - tf.math.log(tf.maximum(right, _LEAST))


def placed(targets: Any) -> Any:
    """Keep of a heatmap's targets those whose place is known: the others become NaN."""
    return tf.where(targets < 0, float("nan"), targets)


def strongest(scores: Any) -> Any:
    """Give the mean of a heatmap's strongest cells, shape (batch, labels)."""
    _, rows, columns, labels = scores.shape
    flat = tf.transpose(tf.reshape(scores, (-1, rows * columns, labels)), (0, 2, 1))
    return tf.reduce_mean(tf.math.top_k(flat, max(1, round(TOP_SHARE * rows * columns))).values, -1)


def _split(targets: Any) -> tuple[Any, Any]:
    """Give 1 where a target is known, else 0, and the targets with 0 where they are not."""
    unknown = tf.math.is_nan(targets)
    return tf.cast(~unknown, tf.float32), tf.where(unknown, 0.0, targets)


def soft_loss_for(head: Head, temperature: float) -> Loss:
    """Make the cross entropy between two networks' answers, both at a temperature.

    Returns:
        A function of the teacher's and the student's scores.

    Source:
        G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531:
        logits divided by the temperature, the loss multiplied by its square. A score gives its logit back
        (of a softmax but for a constant, which does not matter).
    """

    def softmax(teacher: Any, student: Any) -> Any:
        wanted = tf.nn.softmax(_log(teacher) / temperature)
        given = _log(student) / temperature
        return temperature**2 * tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(wanted, given))

    def sigmoid(teacher: Any, student: Any) -> Any:
        wanted = tf.nn.sigmoid((_log(teacher) - _log(1 - teacher)) / temperature)
        given = (_log(student) - _log(1 - student)) / temperature
        return temperature**2 * tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(wanted, given))

    return softmax if head.kind == "softmax" else sigmoid


def _log(scores: Any) -> Any:
    return tf.math.log(tf.maximum(scores, _TINY))
