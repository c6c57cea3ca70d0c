"""A budget for what int8 may cost: the ladder is climbed on val, and its end is measured once on test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle.manifest import Budget, Manifest, Measured, Precision
from edgecnn.core.prediction import Head, Scores
from edgecnn.errors import ModelError
from edgecnn.measure.accuracy import Drop, accuracy_drop, wilson
from edgecnn.targets.graph import Target
from edgecnn.workstation.check import answers_of, file_scores, right_at
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.targets import Targets
from edgecnn.workstation.ladder.climb import RETRAINED, WIDENED, Climb, Rung, climb, ladder, timed
from edgecnn.workstation.ladder.judge import Answers, Judge
from edgecnn.workstation.ladder.metric import fit_temperature, parse_metric
from edgecnn.workstation.subject import Subject
from edgecnn.workstation.tflite import to_flatbuffer, to_network
from edgecnn.workstation.thresholds import points_of, thresholds_of
from edgecnn.workstation.train import Progress


@dataclass(frozen=True, slots=True)
class Final:
    """What the file that held the budget is worth on pictures that chose nothing.

    Attributes:
        parent: The metric of the model that it was made from.
        file: That of the file.
        drop: From the model to the file.
    """

    parent: float
    file: Measured
    drop: Drop


@dataclass(frozen=True, slots=True)
class Kept:
    """What the ladder chose.

    Attributes:
        climb: All that was tried, on val.
        precision: Of the chosen file.
        thresholds: By label of the judged head, refitted on val.
        temperatures: By head, likewise.
        budget: For the manifest.
        on_val: What the model and the chosen file say of val.
        final: The chosen file on test, which chose nothing; None without such a split.
    """

    climb: Climb
    precision: Precision
    thresholds: dict[str, float]
    temperatures: dict[str, float]
    budget: Budget
    on_val: tuple[Answers, Answers]
    final: Final | None

    def on(self, manifest: Manifest) -> Manifest:
        """Write it into a manifest."""
        return replace(
            manifest,
            thresholds={**manifest.thresholds, **self.thresholds},
            temperatures=self.temperatures,
            provenance=replace(manifest.provenance, budget=self.budget),
            measured=(*manifest.measured, *((self.final.file,) if self.final else ())),
        )


def judge_for(parent: Subject, precision: Precision, dataset: Dataset | None, metric: str) -> Judge:
    """Make what judges the files of the ladder.

    Raises:
        ModelError: If there is nothing that it could judge by.
    """
    if precision != "int8":
        raise ModelError(
            f"A budget is for int8, which the ladder starts from; found --precision {precision}.",
            fix="Leave --precision out; the ladder ends in int16x8 if it must.",
        )
    if dataset is None or "val" not in dataset.splits():
        raise ModelError(
            "A budget is judged on val pictures, and there are none.",
            fix="Give --data with the splits train and val.",
        )
    judge = Judge(parse_metric(metric), parent.heads, _thresholds, right_at)
    if len(parent.heads) == 1 or judge.metric.name:
        return judge
    # Of several heads it must be said which one kept to the budget.
    return replace(judge, metric=replace(judge.metric, name=judge.head.name))


def _thresholds(head: Head, targets: Targets, scores: Scores) -> dict[str, float]:
    return thresholds_of([head], points_of(head, targets, scores))


def keep_to(
    max_drop_pp: float,
    judge: Judge,
    parent: Subject,
    dataset: Dataset,
    representative: NDArray[np.uint8],
    retrain: Callable[[], Subject],
    target: Target,
    progress: Progress,
) -> Kept:
    """Climb until the upper end of the drop's interval on val keeps to the budget, or the ladder ends.

    Args:
        max_drop_pp: What the drop may be, percentage points.
        judge: Of ``judge_for``.
        parent: What is converted.
        dataset: With val.
        representative: Calibration pictures, shape (count, height, width, channels).
        retrain: Fine-tunes the network under quantization.
        target: What is to run the file; only the CPU runs islands of float and 16 bits.
        progress: Whom to tell.

    Returns:
        The best rung with what fits it; its climb says whether it held.

    Raises:
        ModelError: If val does not tell what the metric counts.
    """
    codes, before = answers_of(parent, dataset, "val")
    if not len(judge.hits(before, judge.thresholds(before))):
        raise ModelError(
            f"No val picture says whether '{judge.head.name}' is right, so nothing can be judged by "
            f"{judge.metric}.",
            fix="Name another head or label by --metric, or add val pictures (to a heatmap, boxes).",
        )

    def after(flat: bytes) -> Answers:
        return replace(before, scores=file_scores(flat, parent.heads, codes))

    steps = ladder(
        lambda: to_network(parent, representative),
        representative,
        lambda: _or_none(lambda: to_flatbuffer(retrain(), "int8", None), RETRAINED, progress),
        lambda: _or_none(lambda: to_flatbuffer(parent, "int16x8", representative), WIDENED, progress),
        target != "cpu",
        progress.on_note,
    )
    climbed = climb(
        steps,
        lambda flat: judge.drop(before, after(flat)),
        max_drop_pp,
        lambda rung: progress.on_note(_told(rung)),
    )
    best, own = climbed.best, after(climbed.best.flat)
    drop = best.drop
    columns = zip(parent.heads, own.real.scores, own.real.targets, strict=True)
    return Kept(
        climb=timed(climbed, representative),
        precision="int16x8" if best.name == WIDENED else "int8",
        thresholds=judge.thresholds(own),
        temperatures={
            head.name: fit_temperature(scores, targets.values, head)
            for head, scores, targets in columns
            if head.kind != "heatmap"
        },
        budget=Budget(best.name, str(judge.metric), max_drop_pp, drop.drop_pp, drop.low_pp, drop.high_pp),
        on_val=(before, own),
        final=_final(best.flat, parent, dataset, judge, (before, own)),
    )


def _told(rung: Rung) -> str:
    drop = rung.drop
    return f"{rung.name}: drop on val {drop.drop_pp:+.2f} pp ({drop.low_pp:+.2f} to {drop.high_pp:+.2f})"


def _or_none(make: Callable[[], bytes], name: str, progress: Progress) -> bytes | None:
    """Leave out a rung that a network does not allow; the rungs before it are not lost."""
    try:
        return make()
    except ModelError as error:
        progress.on_note(f"Note: no {name}: {error.message}")
        return None


def _final(
    flat: bytes, parent: Subject, dataset: Dataset, judge: Judge, on_val: tuple[Answers, Answers]
) -> Final | None:
    """Measure parent and file on test, with the thresholds that each has from val."""
    if "test" not in dataset.splits():
        return None
    codes, test = answers_of(parent, dataset, "test")
    own = Answers(test.targets, file_scores(flat, parent.heads, codes))
    before, after = (
        judge.hits(answers, judge.thresholds(val)) for answers, val in zip((test, own), on_val, strict=True)
    )
    low, high = wilson(int(after.sum()), len(after))
    measured = Measured(
        judge.head.name,
        str(judge.metric),
        float(after.mean()) if len(after) else 0.0,
        low,
        high,
        len(after),
        f"test of {dataset.name}",
    )
    return Final(float(before.mean()) if len(before) else 0.0, measured, accuracy_drop(before, after))
