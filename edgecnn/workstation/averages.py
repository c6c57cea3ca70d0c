"""A moving average of the weights, which is steadier than the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from edgecnn.workstation.backend import tf


class Averages(tf.Module):  # type: ignore[misc]  # TensorFlow comes without types
    """Follows weights with a memory of ``1 / (1 - momentum)`` steps; a momentum of 0 follows nothing.

    Args:
        weights: Variables that training changes.
        momentum: In [0, 1).

    Source:
        B. T. Polyak, A. B. Juditsky, SIAM J. Control Optim. 30 (1992) 838-855; the rise of the momentum over
        the first steps as in ``tf.train.ExponentialMovingAverage``.
    """

    def __init__(self, weights: Sequence[Any], momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.weights = list(weights) if momentum else []
        self.averages = [tf.Variable(weight, trainable=False) for weight in self.weights]

    def restart(self) -> None:
        """Forget: take the weights as they are."""
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.assign(weight)

    def follow(self, step: Any) -> None:
        """Take the weights after a step, counted from 1, into the average."""
        step = tf.cast(step, tf.float32)
        momentum = tf.minimum(self.momentum, (1 + step) / (10 + step))
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.assign(momentum * average + (1 - momentum) * weight)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averages for a while."""
        own = [weight.numpy() for weight in self.weights]
        for average, weight in zip(self.averages, self.weights, strict=True):
            weight.assign(average)
        try:
            yield
        finally:
            for weight, value in zip(self.weights, own, strict=True):
                weight.assign(value)
