"""Every rung of the quantization ladder on planted faults and on trained models, in one table.

The climb does not stop at the rung that holds, to show what each costs; quantization-aware training, which
takes an epoch's time, is left out. Test pictures choose nothing: the first file and the chosen one are
measured on them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import planted

from edgecnn.measure.accuracy import Drop, accuracy_drop
from edgecnn.workstation import calibration
from edgecnn.workstation.budget import judge_for
from edgecnn.workstation.check import answers_of, file_scores
from edgecnn.workstation.ladder.activations import scores_of
from edgecnn.workstation.ladder.climb import climb, ladder, timed
from edgecnn.workstation.prune import open_data_of
from edgecnn.workstation.subject import Subject, read_subject
from edgecnn.workstation.tflite import to_flatbuffer, to_network

NOTHING_HOLDS = -100.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A model on the ladder; ``drop`` measures a file on ``val`` or ``test``."""

    name: str
    subject: Subject
    codes: NDArray[np.uint8]
    drop: Callable[[bytes, str], Drop]


def planted_trials(folder: Path) -> Iterator[Trial]:
    for make in (planted.outlier_channels, planted.dead_concat, planted.saturated_output):
        fault = make()
        subject = read_subject(fault.save(folder / f"{make.__name__}.h5"), planted.LABELS)
        pictures = {"val": fault.val, "test": fault.test}

        def drop(flat: bytes, split: str, pictures=pictures, subject=subject) -> Drop:  # type: ignore[no-untyped-def]
            codes, labels = pictures[split]
            before = subject.model.predict(codes.astype(np.float32), verbose=0).argmax(axis=1)
            return accuracy_drop(before == labels, scores_of(flat, codes)[0].argmax(axis=1) == labels)

        yield Trial(make.__name__, subject, fault.train[0][:200], drop)


def real_trial(model: Path, data: Path, listed: Path) -> Trial:
    dataset = open_data_of(model, [data])
    subject = read_subject(model, dataset.labels)
    judge = judge_for(subject, "int8", dataset, "top1")
    pictures = calibration.resolve(calibration.read(listed), dataset)
    answers = {split: answers_of(subject, dataset, split) for split in ("val", "test")}

    def drop(flat: bytes, split: str) -> Drop:
        codes, before = answers[split]
        return judge.drop(before, replace(before, scores=file_scores(flat, subject.heads, codes)))

    return Trial(model.parent.name, subject, calibration.codes_for(pictures, subject.input), drop)


def show(trial: Trial, budget_pp: float) -> bool:
    """Climb to the end, print each rung, and say whether one held."""

    def widen() -> bytes:
        return to_flatbuffer(trial.subject, "int16x8", trial.codes)

    steps = ladder(lambda: to_network(trial.subject, trial.codes), trial.codes, lambda: None, widen)
    climbed = timed(climb(steps, lambda flat: trial.drop(flat, "val"), NOTHING_HOLDS), trial.codes)
    held = next((rung for rung in climbed.rungs if rung.drop.high_pp <= budget_pp), None)
    table = Table("rung", "drop on val, pp", "95 %", "made in", "bytes", "p50", title=trial.name)
    for column in table.columns[1:]:
        column.justify = "right"
    first = climbed.rungs[0].p50_ms or 1.0
    for rung in climbed.rungs:
        table.add_row(
            f"{rung.name} (holds)" if rung is held else rung.name,
            f"{rung.drop.drop_pp:+.2f}",
            f"{rung.drop.low_pp:+.2f} to {rung.drop.high_pp:+.2f}",
            f"{rung.seconds:.1f} s",
            f"{len(rung.flat):,}",
            f"{(rung.p50_ms or 0) / first:.2f}x",
        )
    Console(width=100).print(table)
    for name, rung in (("first", climbed.rungs[0]), ("chosen", held or climbed.best)):
        drop = trial.drop(rung.flat, "test")
        print(
            f"{name} rung on test, {rung.name}: drop {drop.drop_pp:+.2f} pp "
            f"({drop.low_pp:+.2f} to {drop.high_pp:+.2f})"
        )
    print(flush=True)
    return held is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=1.0, help="percentage points")
    parser.add_argument(
        "--model", nargs=3, action="append", default=[], type=Path, metavar=("MODEL", "DATA", "LIST")
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        held = [show(trial, options.budget) for trial in planted_trials(Path(folder))]
    for model, data, listed in options.model:
        show(real_trial(model, data, listed), options.budget)
    return 0 if all(held) else 3


if __name__ == "__main__":
    sys.exit(main())
