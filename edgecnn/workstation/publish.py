"""Puts a model on a shelf of the zoo, with its figures and its card; or holds a new one against them."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from edgecnn.bundle import file as files
from edgecnn.bundle import flatbuffer
from edgecnn.bundle.file import Bundle
from edgecnn.bundle.manifest import Manifest, Provenance
from edgecnn.errors import DataError, ModelError
from edgecnn.measure.accuracy import HeadAccuracy, LabelAccuracy, auc_interval, wilson
from edgecnn.measure.place import Place
from edgecnn.measure.report import Comparison, Report
from edgecnn.measure.watched import alarm_in_words
from edgecnn.targets import micro
from edgecnn.workstation import calibration as calibrations
from edgecnn.workstation.card import card
from edgecnn.workstation.checkpoint import Epoch
from edgecnn.workstation.data.catalog import LEFT_OUT, Dataset
from edgecnn.workstation.failures import failures, sheet
from edgecnn.workstation.recipe import parse
from edgecnn.zoo import figures as measured
from edgecnn.zoo import shelf as shelves
from edgecnn.zoo.figures import (
    ClipFigures,
    Figure,
    Figures,
    HeadFigures,
    LabelFigures,
    PictureSet,
    Speed,
    Training,
)

MODEL: Final = "int8.tflite"
"""The file in a folder of ``train`` and ``convert`` that is put on the shelf."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An accuracy of a model that was made again, beside that on the card.

    Attributes:
        what: Answer and pictures.
        promised: What the card says.
        found: What was found now.
    """

    what: str
    promised: Figure
    found: Figure

    @property
    def missed_pp(self) -> float:
        """Percentage points below the card; 0 where the card is reached."""
        return max(0.0, 100 * (self.promised.value - self.found.value))

    @property
    def is_beyond_chance(self) -> bool:
        """Whether it lies below the interval on the card."""
        return self.found.value < self.promised.low


def publish(name: str, folder: Path, dataset: Dataset, calibration: Path, shelf: Path) -> Path:
    """Put a model on a shelf, whole or not at all; one of that name is replaced.

    Args:
        name: What the zoo calls it.
        folder: Where ``train``, ``convert`` and ``bench`` left ``int8.tflite`` and reports: ``report.json``
            there, and of further pictures in folders below.
        dataset: What it was trained on.
        calibration: The list that it was converted with.
        shelf: Gets the folder ``name``.

    Returns:
        That folder.

    Raises:
        DataError: If a report is missing or about another file, or ``dataset`` or ``calibration`` is not
            what the model file says that it was made from.
        BundleError: If the model file is damaged.
    """
    bundle, manifest = _open(folder)
    if dataset.digest() != manifest.provenance.data_sha256:
        raise DataError(
            f"'{bundle.path}' was not trained on '{dataset.name}': the digest of its pictures is another.",
            fix="Give all the --data that the model was trained on, under the names that it had then.",
        )
    entries = calibrations.read(calibration)
    if calibrations.digest(entries) != manifest.provenance.calibration_sha256:
        raise DataError(
            f"'{bundle.path}' was not calibrated with '{calibration}'.",
            fix="Give the list that 'edgecnn convert' took or wrote.",
        )
    return _shelve(name, bundle, gather(folder, dataset), entries, shelf)


def add_left_out(name: str, folder: Path, shelf: Path) -> Path:
    """Put onto the card of a model what one like it does with a source that it was trained without.

    Args:
        name: What the zoo calls it.
        folder: Where ``bench`` left the ``report.json`` of the other one, on the split ``left_out``.
        shelf: Where the model stands.

    Returns:
        Its folder on the shelf.

    Raises:
        DataError: If the report is about other pictures, or about what another recipe was trained without.
        BundleError: If the model is not on the shelf, or is damaged.
    """
    resident = shelves.resident(name, shelf)
    report, own = _report(folder / "report.json"), resident.manifest.provenance
    found = _left_out_set(report, parse(own.recipe).leave_out if own.recipe else ())
    made_from = report.models[0].provenance
    if found is None or made_from is None:
        raise DataError(
            f"The report in '{folder}' is not about what a model was trained without, and only that.",
            fix=f"Train with --leave-out GLOB, then run 'edgecnn bench MODEL --data DATA --split {LEFT_OUT} "
            f"--only GLOB --out {folder}'.",
        )
    if _method(made_from) != _method(own):
        raise DataError(
            f"The report about the pictures of {', '.join(found.left_out)} in '{folder}' is of another "
            f"recipe than '{name}'.",
            fix="Train its recipe without them, prune it as the model was, if it was, and bench it again.",
        )
    if keeps_its_start(own) and made_from.init_sha256 == own.init_sha256:
        raise DataError(
            f"The network of the report in '{folder}' has seen these pictures: it started from the same one "
            f"as '{name}', and all but its heatmaps stayed as they were.",
            fix="Train what it starts from without them first, as 'make left-out' does.",
        )
    kept = (one for one in resident.figures.sets if one.left_out != found.left_out)
    figures = replace(resident.figures, sets=(*kept, found))
    entries = calibrations.read(shelf / name / "calibration.txt")
    return _shelve(name, files.read(resident.path), figures, entries, shelf)


def _shelve(
    name: str, bundle: Bundle, figures: Figures, entries: Sequence[calibrations.Entry], shelf: Path
) -> Path:
    """Put a model and all that belongs to it on a shelf, whole or not at all."""
    shown = failures(bundle.path)
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=shelf, prefix=".publishing-") as beside:
            new, old = Path(beside, "new"), Path(beside, "old")
            new.mkdir()
            shutil.copyfile(bundle.path, new / f"{name}.tflite")
            (new / "figures.json").write_bytes(measured.to_json(figures))
            calibrations.write(entries, new / "calibration.txt")
            (new / "card.md").write_text(card(name, bundle, figures, shown), encoding="utf-8")
            if shown and shown.worst:
                (new / "failures.jpg").write_bytes(sheet(shown.worst))
            if (shelf / name).exists():
                (shelf / name).rename(old)
            new.rename(shelf / name)
    except OSError as error:
        raise DataError(
            f"'{name}' cannot be put on the shelf '{shelf}': {error.strerror or error}.",
            fix="Choose another folder with --into, or make room there.",
        ) from error
    return shelf / name


def compare(promised: Figures, found: Sequence[PictureSet]) -> tuple[Verdict, ...]:
    """Hold the accuracies of a model that was made again against those on a card.

    Args:
        promised: What the card says.
        found: What was measured now; see ``sets_of``.

    Raises:
        DataError: If they have no pictures in common.
    """
    new = {(s.data, s.split, h.head): h.accuracy for s in found for h in s.heads}
    verdicts = tuple(
        Verdict(f"{head.head} on {pictures.data}, {pictures.split}", head.accuracy, accuracy)
        for pictures in promised.sets
        if not pictures.left_out
        for head in pictures.heads
        if (accuracy := new.get((pictures.data, pictures.split, head.head)))
    )
    if not verdicts:
        raise DataError(
            "The model was not measured on any of the pictures that its card names: "
            f"{', '.join(sorted({f'{s.data}, {s.split}' for s in promised.sets}))}.",
            fix="Run 'edgecnn bench' on these with --out in the model's folder.",
        )
    return verdicts


def gather(folder: Path, dataset: Dataset) -> Figures:
    """Collect what was measured of the model in a folder.

    Raises:
        DataError: If a report is missing, cannot be read or is about another file.
    """
    bundle, _ = _open(folder)
    first = _report(folder / "report.json")
    took = first.models[0].latency
    floats = [model for model in first.models[1:] if model.precision == "float32"]
    return Figures(
        sha256=bundle.sha256,
        sets=sets_of(folder),
        training=_training(folder, dataset),
        speed=Speed(
            took.p50_ms,
            took.p90_ms,
            took.p99_ms,
            took.calls,
            took.warmup_calls,
            took.threads,
            first.host.cpu,
            first.host.runtime or "",
            floats[0].latency.p50_ms if floats and floats[0].latency else None,
        )
        if took
        else None,
        float_size_bytes=floats[0].size_bytes if floats else None,
        arena_bytes=micro.check(flatbuffer.parse(bundle.model), bundle.model).arena_bytes,
        clips=_clips(first),
    )


def sets_of(folder: Path) -> tuple[PictureSet, ...]:
    """Read the reports about the model in a folder: the one beside it first, then those in folders below.

    Raises:
        DataError: If the first is missing, cannot be read, or is about another file.
    """
    bundle, _ = _open(folder)
    reports = [_report(path) for path in (folder / "report.json", *sorted(folder.glob("*/report.json")))]
    if reports[0].models[0].sha256 != bundle.sha256:
        raise DataError(
            f"'{folder / 'report.json'}' is about another file than '{bundle.path}'.",
            fix=f"Run 'edgecnn bench {bundle.path} --data DATA --out {folder}' again.",
        )
    own = (
        report
        for report in reports
        if report.models[0].sha256 == bundle.sha256 and not (report.data and report.data.only)
    )
    return tuple(found for report in own if (found := _picture_set(report)))


def _method(provenance: Provenance) -> tuple[object, ...]:
    """Give how a model was trained, by which boxes, averaged and pruned, whatever pictures were left out."""
    recipe = replace(parse(provenance.recipe), leave_out=())
    averaged = frozenset(provenance.averaged_sha256)
    return recipe, provenance.boxes_sha256, averaged, provenance.pruned


def keeps_its_start(provenance: Provenance) -> bool:
    """Say whether all that a model answers, but where things are, was learned by what it started from."""
    return parse(provenance.recipe).train.freeze == "all_but_heatmaps"


def _open(folder: Path) -> tuple[Bundle, Manifest]:
    bundle = files.read(folder / MODEL)
    if bundle.manifest is None:
        raise ModelError(
            f"edgecnn did not make '{bundle.path}'; the zoo takes files that say what they were made from.",
            fix="Convert the model with 'edgecnn convert'.",
        )
    return bundle, bundle.manifest


def _report(path: Path) -> Report:
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(
            f"The report '{path}' cannot be read: {error}.",
            fix=f"Run 'edgecnn bench MODEL --data DATA --out {path.parent}'.",
        ) from error
    return report


def _left_out_set(report: Report, known_left_out: Sequence[str]) -> PictureSet | None:
    """Keep what a card shows of a report on pictures that its model never saw; None if it is on others."""
    found, made_from = _picture_set(report), report.models[0].provenance
    if found is None or found.split != LEFT_OUT or made_from is None or not made_from.recipe:
        return None
    every = parse(made_from.recipe).leave_out
    globs = tuple(glob for glob in every if glob not in known_left_out)
    covered = report.data.only if report.data and report.data.only else every
    return replace(found, left_out=globs) if globs and set(covered) == set(globs) else None


def _picture_set(report: Report) -> PictureSet | None:
    """Keep of a report what a card shows; None where no accuracy was measured."""
    model = report.models[0]
    if report.data is None or not model.accuracy:
        return None
    parents = {other.name for other in report.models[1:] if other.precision == "float32"}
    drops = {row.head: row for row in reversed(report.comparison) if row.head and row.against in parents}
    return PictureSet(
        report.data.name,
        report.data.split,
        report.data.count,
        tuple(
            _head(name, found, drops.get(name), model.place.get(name, {}))
            for name, found in model.accuracy.items()
        ),
    )


def _head(
    name: str, found: HeadAccuracy, drop: Comparison | None, places: Mapping[str, Place]
) -> HeadFigures:
    is_whole = found.confusion is not None and len(found.per_label) > 2
    return HeadFigures(
        name,
        Figure(found.top1, found.low, found.high, found.count),
        tuple(
            replace(
                _label(label, each, is_whole),
                place=_place(places.get(label)),
                unknown=_share(each.unknown_rate, each.unknown_count),
            )
            for label, each in found.per_label.items()
        ),
        _drop(drop, found.count) if drop else None,
    )


def _drop(row: Comparison, count: int) -> Figure | None:
    if row.accuracy_drop_pp is None or row.drop_low_pp is None or row.drop_high_pp is None:
        return None
    return Figure(row.accuracy_drop_pp, row.drop_low_pp, row.drop_high_pp, count)


def _label(label: str, found: LabelAccuracy, is_whole: bool) -> LabelFigures:
    recall = _share(found.recall, found.count)
    false_alarms = _share(found.false_alarm_rate, found.absent_count)
    if is_whole or found.auc is None or recall is None or false_alarms is None:
        return LabelFigures(label, recall, false_alarms)
    count = found.count + found.absent_count
    right = recall.value * found.count + (1 - false_alarms.value) * found.absent_count
    low, high = auc_interval(found.auc, found.count, found.absent_count)
    return LabelFigures(
        label, recall, false_alarms, _share(right / count, count), Figure(found.auc, low, high, count)
    )


def _share(value: float | None, count: int) -> Figure | None:
    return None if value is None else Figure(value, *wilson(round(value * count), count), count)


def _training(folder: Path, dataset: Dataset) -> Training:
    pictures = {
        split: dict(sorted(Counter(picture.label for picture in dataset.split(split)).items()))
        for split in dataset.splits()
    }
    history = folder / "history.json"
    if not history.is_file():
        return Training(tuple(dataset.name.split("+")), pictures)
    epochs = msgspec.json.decode(history.read_bytes(), type=tuple[Epoch, ...])
    return Training(
        tuple(dataset.name.split("+")),
        pictures,
        sum(e.seconds for e in epochs),
        sum(e.number > 0 for e in epochs),
    )


def _clips(report: Report) -> tuple[ClipFigures, ...]:
    name = report.models[0].name
    return tuple(
        ClipFigures(clip.clip, seen.label, seen.shows, clip.seconds, alarm_in_words(seen), _place(seen.place))
        for clip in (report.clips.clips if report.clips else ())
        for seen in clip.watched
        if seen.model == name
    )


def _place(found: Place | None) -> Figure | None:
    return Figure(found.share, found.low, found.high, found.count) if found else None
