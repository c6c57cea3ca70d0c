"""What a model says about one frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.tensor import TensorSpec, dequantize
from edgecnn.errors import BundleError

Scores = NDArray[np.float32]
"""One score per label, each in [0, 1]; a heatmap has two leading axes, rows and columns."""


@dataclass(frozen=True, slots=True)
class Head:
    """One answer of a model; a model may have several.

    Attributes:
        name: For instance ``scene`` or ``fire``.
        kind: ``softmax``: exactly one label holds. ``sigmoid``: with one neuron and two labels, the
            second label against the first; else each label by itself. ``heatmap``: a sigmoid per cell.
        labels: In the order of the output.
        output_index: Which output tensor of the model holds it.
        independent: Whether the two labels of a sigmoid are judged each by itself, by two neurons.
    """

    name: str
    kind: Literal["softmax", "sigmoid", "heatmap"]
    labels: tuple[str, ...]
    output_index: int = 0
    independent: bool = False

    @property
    def neuron_count(self) -> int:
        """How many numbers the network's last layer gives for it.

        Example:
            >>> Head("fire", "sigmoid", ("no_fire", "fire")).neuron_count
            1
        """
        return 1 if self.is_binary else len(self.labels)

    @property
    def is_binary(self) -> bool:
        """Whether one sigmoid neuron decides between two labels."""
        return self.kind == "sigmoid" and len(self.labels) == 2 and not self.independent


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Where the milliseconds of one prediction went."""

    resize_ms: float
    invoke_ms: float
    decode_ms: float

    @property
    def total_ms(self) -> float:
        """Pixels to scores."""
        return self.resize_ms + self.invoke_ms + self.decode_ms


@dataclass(frozen=True, slots=True)
class Prediction:
    """The scores of one frame, by head.

    Attributes:
        heads: Scores by name of the head, in the order of the head's labels.
        frame_index: Of the frame.
        captured_at_s: Of the frame.
        times: Where the time went.
    """

    heads: Mapping[str, Scores]
    frame_index: int
    captured_at_s: float
    times: StageTimes

    def by_label(self, heads: Sequence[Head]) -> dict[str, dict[str, float]]:
        """Scores by head and label, for printing; a heatmap gives its highest cell."""
        return {
            head.name: {
                label: float(self.heads[head.name][..., column].max())
                for column, label in enumerate(head.labels)
            }
            for head in heads
        }


def head_for(labels: Sequence[str], name: str = "label") -> Head:
    """Choose the output that fits the labels: one sigmoid neuron for two, else a softmax.

    Example:
        >>> head_for(["cat", "dog"]).kind, head_for(["cat", "dog", "eel"]).kind
        ('sigmoid', 'softmax')
    """
    return Head(name, "sigmoid" if len(labels) == 2 else "softmax", tuple(labels))


def decode(codes: NDArray[Any], spec: TensorSpec, head: Head) -> Scores:
    """Turn a head's raw output into one score per label.

    Args:
        codes: The output tensor, shape ``spec.shape``, batch of 1 first, in ``spec.dtype``.
        spec: What the codes mean; from the file.
        head: Which labels they belong to.

    Returns:
        Scores of shape (label_count,), or (rows, columns, label_count) for a heatmap.

    Raises:
        BundleError: If the last axis of ``codes`` does not fit the labels.

    Example:
        >>> fire = Head("fire", "sigmoid", ("no_fire", "fire"))
        >>> decode(np.uint8([[64]]), TensorSpec((1, 1), "uint8", scale=1 / 256), fire).tolist()
        [0.75, 0.25]
    """
    # Codes at the end of a scale stand for slightly more than 1; int16's for less than 0.
    real: Scores = np.minimum(np.maximum(dequantize(codes, spec)[0], np.float32(0)), np.float32(1))
    if real.shape[-1] != head.neuron_count:
        raise BundleError(
            f"Head '{head.name}' has {len(head.labels)} labels and needs "
            f"{head.neuron_count} outputs; the model gives {real.shape[-1]}.",
            fix="Give as many labels as the model has outputs, or convert the model again.",
        )
    if head.is_binary:
        return np.concatenate([np.float32(1) - real, real], axis=-1)
    return real


def highest(scores: Scores) -> Scores:
    """Give one score per label: of a heatmap, what its strongest cell says of the whole picture.

    Args:
        scores: Shape (labels,), or with leading axes.

    Example:
        >>> highest(np.float32([[0.1, 0.9], [0.4, 0.2]])).tolist() == np.float32([0.4, 0.9]).tolist()
        True
    """
    return scores.reshape(-1, scores.shape[-1]).max(axis=0) if scores.ndim > 1 else scores


def tempered(scores: NDArray[Any], temperature: float, head: Head) -> Scores:
    """Divide the logits that gave a head's scores by a temperature.

    For whoever takes a score for a probability. The order of the scores stays, and so does every decision
    that a threshold makes: those of the manifest belong to the scores as the file gives them.

    Args:
        scores: Of any shape; a softmax's labels on the last axis.
        temperature: The manifest's; above 1 makes the scores less sure of themselves.
        head: Softmax or sigmoid.

    Example:
        >>> tempered(np.float32([[0.9, 0.1]]), 2.0, Head("x", "softmax", ("a", "b", "c"))).round(2).tolist()
        [[0.75, 0.25]]
    """
    # Half a code of int8: a score of 0 lies somewhere below it.
    kept = np.clip(np.asarray(scores, np.float64), 1 / 512, 1 - 1 / 512)
    if head.kind == "softmax":
        powered = kept ** (1 / temperature)
        return np.asarray(powered / powered.sum(axis=-1, keepdims=True), np.float32)
    return np.asarray(1 / (1 + (1 / kept - 1) ** (1 / temperature)), np.float32)
