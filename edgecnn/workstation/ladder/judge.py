"""What a file loses against its parent, in the user's own metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.prediction import Head, Scores
from edgecnn.measure.accuracy import Drop, accuracy_drop
from edgecnn.workstation.data.targets import Targets
from edgecnn.workstation.ladder.metric import Metric, place_of, threshold_at

Thresholds = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says of pictures, head by head.

    Attributes:
        targets: The truth.
        scores: By label.
        lookalike_count: Of the last pictures: rendered, for the thresholds that a file gets; nothing is
            counted on them.
    """

    targets: tuple[Targets, ...]
    scores: tuple[Scores, ...]
    lookalike_count: int = 0

    @property
    def real(self) -> Answers:
        """Those about real pictures."""
        count = len(self.scores[0]) - self.lookalike_count
        return Answers(
            tuple(targets.first(count) for targets in self.targets),
            tuple(scores[:count] for scores in self.scores),
        )


@dataclass(frozen=True, slots=True)
class Judge:
    """A metric on a model's heads.

    Attributes:
        metric: Which one.
        heads: Of the model.
        choose: Gives the thresholds of a head, from its scores on val.
        right: Says of each picture whether a head is right at its thresholds.
    """

    metric: Metric
    heads: Sequence[Head]
    choose: Callable[[Head, Targets, Scores], Thresholds]
    right: Callable[[Head, Targets, Scores, Thresholds], NDArray[np.bool_]]

    def __post_init__(self) -> None:
        """Refuse a metric that the heads do not have."""
        place_of(self.metric, self.heads)

    @property
    def head(self) -> Head:
        """The one that is judged."""
        return self.heads[place_of(self.metric, self.heads)[0]]

    def thresholds(self, val: Answers) -> dict[str, float]:
        """Choose the thresholds of the judged head on val; a rate that was asked for is of real pictures."""
        number, column = place_of(self.metric, self.heads)
        head, targets, scores = self.heads[number], val.targets[number], val.scores[number]
        found = dict(self.choose(head, targets, scores))
        if self.metric.false_positive_rate is not None:
            own, truth = val.real.scores[number], val.real.targets[number]
            known, shown = self._truth(truth)
            rate = self.metric.false_positive_rate
            found[head.labels[column]] = threshold_at(own[known, column], shown[known], rate)
        return found

    def hits(self, answers: Answers, thresholds: Thresholds) -> NDArray[np.bool_]:
        """Say of each picture that counts whether the model is right; of a recall, those with the label."""
        number, column = place_of(self.metric, self.heads)
        answers = answers.real
        head, targets, scores = self.heads[number], answers.targets[number], answers.scores[number]
        if self.metric.false_positive_rate is None:
            return self.right(head, targets, scores, thresholds)
        known, shown = self._truth(targets)
        return np.asarray(scores[known & shown, column] >= thresholds[head.labels[column]])

    def drop(self, before: Answers, after: Answers) -> Drop:
        """Compare two models on val, each at thresholds of its own."""
        return accuracy_drop(
            self.hits(before, self.thresholds(before)), self.hits(after, self.thresholds(after))
        )

    def _truth(self, targets: Targets) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        number, column = place_of(self.metric, self.heads)
        values = targets.values[:, 0 if self.heads[number].is_binary else column]
        known = ~np.isnan(values)
        return np.asarray(known), np.asarray(known & (values > 0.5))
