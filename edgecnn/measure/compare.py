"""One model held against another: how much faster it is, what that costs, and which decisions changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.prediction import Head
from edgecnn.measure import latency as clock
from edgecnn.measure.accuracy import accuracy_drop, decide, is_right
from edgecnn.measure.evaluate import Evaluation, Hits, Model
from edgecnn.measure.parity import flipped, parity
from edgecnn.measure.report import Comparison, Flip


@dataclass(frozen=True, slots=True)
class Trial:
    """One model with what was measured of it.

    Attributes:
        model: The model.
        name: Unique among the models.
        heads: Those that the pictures can test.
        scores: By head, shape (picture_count, label_count).
        times: Milliseconds, shape (calls, 3).
        memory: Peak memory.
        hits: Whether the peaks of its heatmaps lie in boxes.
    """

    model: Model
    name: str
    heads: tuple[Head, ...]
    scores: Mapping[str, NDArray[np.float32]]
    times: NDArray[np.float64]
    memory: clock.Memory | None
    hits: Hits

    @property
    def thresholds(self) -> Mapping[str, float]:
        """By label; those of the manifest."""
        return self.model.manifest.thresholds if self.model.manifest else {}


def compare(trial: Trial, against: Trial, found: Evaluation | None, seed: int) -> Iterator[Comparison]:
    """Hold one model against another.

    Args:
        trial: The model under test.
        against: The other one, timed in the same rounds.
        found: On which pictures; ``None`` where only time was measured.
        seed: Of the resampling.

    Yields:
        A row for each head that both have; where they share none, one that tells the speed.
    """
    faster = clock.speedup(trial.times.sum(axis=1), against.times.sum(axis=1))
    timed = Comparison(
        model=trial.name,
        against=against.name,
        speedup_p50=faster.of_p50,
        speedup_pairwise=faster.pairwise,
        speedup_low=faster.low,
        speedup_high=faster.high,
    )
    shared = _shared_heads(trial.model, against.model) if found else []
    if not found or not shared:
        yield timed
    else:
        yield from (_compare_head(timed, trial, against, head, found, seed) for head in shared)


def _shared_heads(model: Model, against: Model) -> list[Head]:
    """Choose the heads that ask the same; where they lie in the file does not matter."""
    others = {(head.name, head.kind, head.labels) for head in against.heads}
    return [head for head in model.heads if (head.name, head.kind, head.labels) in others]


def _compare_head(
    timed: Comparison, trial: Trial, against: Trial, head: Head, found: Evaluation, seed: int
) -> Comparison:
    scores, other_scores = trial.scores[head.name], against.scores[head.name]
    decided = decide(scores, head, trial.thresholds)
    other_decided = decide(other_scores, head, against.thresholds)
    places = flipped(scores, other_scores, head, trial.thresholds, against.thresholds)
    row = replace(
        timed,
        head=head.name,
        flipped_count=len(places),
        parity=parity(scores, other_scores, head, trial.thresholds, against.thresholds),
        place={
            label: accuracy_drop(np.array(before), np.array(after), seed)
            for label, before, after in _hits_of(against, trial, head)
        },
        flipped=tuple(
            Flip(
                picture=found.items[place].path,
                truth=found.items[place].label,
                model_label=_named(decided[place], head),
                model_score=_score(decided[place], scores[place]),
                against_label=_named(other_decided[place], head),
                against_score=_score(other_decided[place], other_scores[place]),
            )
            for place in places.tolist()
        ),
    )
    if head.name not in {tested.name for tested in trial.heads}:
        return row
    holds, known = found.truth(head, trial.model)
    rows = known.any(axis=1)
    before, after = (is_right(each & known, holds & known)[rows] for each in (other_decided, decided))
    drop = accuracy_drop(before, after, seed)
    return replace(
        row,
        accuracy_drop_pp=drop.drop_pp,
        drop_low_pp=drop.low_pp,
        drop_high_pp=drop.high_pp,
        drop_method=drop.method,
        mcnemar_p=drop.mcnemar_p,
    )


def _hits_of(one: Trial, other: Trial, head: Head) -> Iterator[tuple[str, list[bool], list[bool]]]:
    """Give label by label whether two models' peaks lie in the boxes of the same pictures."""
    for label, hits in one.hits.get(head.name, {}).items():
        others = other.hits.get(head.name, {}).get(label, [])
        if hits and len(hits) == len(others):
            yield label, hits, others


def _named(decided: NDArray[np.bool_], head: Head) -> str:
    return " + ".join(label for label, yes in zip(head.labels, decided, strict=True) if yes) or "none"


def _score(decided: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """Give the score of what was decided; where nothing was, the highest that was not enough."""
    return round(float(scores[decided].max() if decided.any() else scores.max()), 4)
