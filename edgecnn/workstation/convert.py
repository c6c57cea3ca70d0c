"""Conversion of a Keras model into the one file that crosses to the device."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecnn import __version__
from edgecnn.bundle import file as bundle_file
from edgecnn.bundle.file import Bundle, Golden
from edgecnn.bundle.manifest import Manifest, Measured, OperatingPoints, Precision, Provenance
from edgecnn.core.frame import InputSpec, resize
from edgecnn.core.prediction import Head, decode
from edgecnn.errors import ModelError
from edgecnn.measure.accuracy import Drop, accuracy_drop, decide, is_exclusive, wilson
from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.targets.graph import Target
from edgecnn.workstation import calibration, delivery, model_file
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.pipeline import Codes, Stack, codes_of
from edgecnn.workstation.data.procedural import render_scene
from edgecnn.workstation.data.targets import Targets, targets_of
from edgecnn.workstation.quantize import quantization_aware
from edgecnn.workstation.recipe import Recipe, folders_of
from edgecnn.workstation.subject import Subject, read_subject
from edgecnn.workstation.tflite import float_operators, to_flatbuffer
from edgecnn.workstation.train import Progress, Scores, answers, labels_in, peaks_inside, read_split

MOSAIC_PX = 8
"""Side of a tile in the pictures whose outputs travel with the model; edgecnn makes them all itself."""


MOST_FALSE_ALARMS = 0.01
"""Share of the val pictures without a label that may pass the threshold of few false alarms."""

LEAST_RECALL = 0.95
"""Share of the val pictures with a label that pass the threshold of high recall."""


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


@dataclass(frozen=True, slots=True)
class Converted:
    """What conversion made.

    Attributes:
        bundle: The file.
        calibration: The list that was drawn; None where one was given or none was needed.
        checks: How it compares with its parent.
        fit: What the target makes of it.
        beside: What was written beside it for the target.
    """

    bundle: Bundle
    calibration: Path | None
    checks: tuple[Check, ...]
    fit: delivery.Fit
    beside: tuple[Path, ...]

    @property
    def check(self) -> Check | None:
        """The head that lost most, if anything could be compared."""
        return max(self.checks, key=lambda check: check.drop.drop_pp, default=None)


def convert(
    source: Path,
    out: Path,
    precision: Precision = "int8",
    dataset: Dataset | None = None,
    calibration_list: Path | None = None,
    qat_epochs: int = 0,
    labels: Sequence[str] | None = None,
    normalization: tuple[float, float] | None = None,
    progress: Progress | None = None,
    target: Target = "cpu",
) -> Converted:
    """Convert a model, check it against its parent on val, and write it with all that explains it.

    Args:
        source: ``.h5``, ``.keras`` or SavedModel folder.
        out: The ``.tflite`` to write.
        precision: What weights and activations become.
        dataset: Needed for calibration and for the check; without it only float files can be made.
        calibration_list: Which pictures calibrate; without it a list is drawn from train and written
            beside ``out``.
        qat_epochs: Epochs of quantization-aware fine-tuning before int8; 0 calibrates only.
        labels: Of a model that edgecnn did not train.
        normalization: (mean, std) of ``(byte - mean) / std``, of a model that edgecnn did not train and
            that does not normalise by itself.
        progress: Whom to tell.
        target: What is to run it; it is asked before anything is written.

    Returns:
        The file, the calibration list that was drawn, and the check of each head.

    Raises:
        ModelError: If the model cannot be converted or something about it is not known.
        DataError: If calibration pictures are missing or belong to val or test.
        CheckFailed: If the target cannot run it.
    """
    progress = progress or Progress()
    names = tuple(labels or (dataset.labels if dataset else ()))
    parent = read_subject(source, names, normalization)
    if qat_epochs and precision != "int8":
        raise ModelError(
            f"Quantization-aware training prepares for int8; found --precision {precision}.",
            fix="Leave --qat-epochs out.",
        )
    if calibration_list and (qat_epochs or precision not in ("int8", "int16x8")):
        raise ModelError(
            "A calibration list was given, but nothing is calibrated: "
            + ("quantization-aware training learns the ranges." if qat_epochs else f"{precision} has none."),
            fix="Leave --calibration out.",
        )
    known = set(folders_of(parent.recipe)) if parent.recipe and parent.recipe.heads else None
    if dataset and set(dataset.labels) != (known or set(parent.heads[0].labels)):
        raise ModelError(
            f"'{parent.name}' knows {_listed(sorted(known or parent.heads[0].labels))}; "
            f"the data shows {_listed(dataset.labels)}.",
            fix="Give the data that the model was trained on.",
        )
    if dataset and parent.card and parent.card.data_sha256 != dataset.digest():
        progress.on_note("Note: these are not the pictures that the model was trained on.")
    subject, representative = parent, None
    entries: tuple[calibration.Entry, ...] = ()
    if qat_epochs:
        subject = _made_aware(parent, dataset, qat_epochs, progress)
    elif precision in ("int8", "int16x8"):
        entries, representative = _calibration(parent, precision, dataset, calibration_list, progress)
    flatbuffer = to_flatbuffer(subject, precision, representative)
    fit = delivery.examine(flatbuffer, target)
    checks = _checks(flatbuffer, parent, dataset)
    if precision in ("int8", "int16x8") and (islands := float_operators(flatbuffer)):
        progress.on_note(f"Note: without an integer form, {len(islands)} stay float: {_listed(islands)}")
    if not checks:
        progress.on_note("Note: not compared with its parent: no --data with a val split was given.")
    manifest = _manifest(parent, precision, entries, checks)
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn = None
    if entries and calibration_list is None:
        drawn = out.with_suffix(".calibration.txt")
        calibration.write(entries, drawn)
    bundle = bundle_file.write(out, flatbuffer, manifest, _golden(flatbuffer, parent.input))
    return Converted(bundle, drawn, checks, fit, delivery.deliver(bundle, fit))


def _calibration(
    subject: Subject,
    precision: Precision,
    dataset: Dataset | None,
    calibration_list: Path | None,
    progress: Progress,
) -> tuple[tuple[calibration.Entry, ...], NDArray[np.uint8]]:
    """Read the list or draw one, and read its pictures."""
    if dataset is None:
        raise ModelError(
            f"{precision} needs pictures to find the ranges of the activations.",
            fix="Give the training data by --data PATH, or convert with --precision float32.",
        )
    if calibration_list:
        entries = calibration.read(calibration_list)
    elif subject.recipe:
        entries = calibration.draw(dataset, subject.recipe.calibration_count, subject.recipe.train.seed)
    else:
        entries = calibration.draw(dataset, calibration.COUNT, seed=1)
    pictures = calibration.resolve(entries, dataset)
    progress.on_note(f"Calibrating on {len(pictures)} training pictures")
    return entries, calibration.codes_for(pictures, subject.input)


def _listed(names: Sequence[str]) -> str:
    shown = sorted(set(names))
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def _made_aware(subject: Subject, dataset: Dataset | None, epochs: int, progress: Progress) -> Subject:
    if subject.recipe is None or dataset is None:
        raise ModelError(
            "Quantization-aware fine-tuning needs a model that 'edgecnn train' made, and its data.",
            fix="Train it with 'edgecnn train', or leave --qat-epochs out.",
        )
    training = read_split(dataset, "train", subject.recipe, subject.heads, subject.model)
    aware = quantization_aware(subject.model, subject.heads, training, subject.recipe, epochs, progress)
    return replace(subject, model=aware)


def _checks(flatbuffer: bytes, parent: Subject, dataset: Dataset | None) -> tuple[Check, ...]:
    """Compare the file with its parent on val, head by head; without val pictures there is no check."""
    if dataset is None or "val" not in dataset.splits():
        return ()
    pictures = dataset.split("val")
    if parent.card and parent.recipe:
        split = read_split(dataset, "val", parent.recipe, parent.heads, parent.model)
        codes, targets = split.codes, split.targets
        parents = tuple(map(_by_label, answers(parent.model, codes), parent.heads))
    else:
        # A model of somebody else may want its pictures in a way that only the float file knows.
        codes = codes_of(pictures, parent.input)
        targets = tuple(targets_of(pictures, head) for head in parent.heads)
        parents = file_scores(to_flatbuffer(parent, "float32", None), parent.heads, codes)
    own = file_scores(flatbuffer, parent.heads, codes)
    data = f"val of {dataset.name}"
    columns = zip(parent.heads, targets, parents, own, strict=True)
    return tuple(
        check for column in columns for check in [_check_head(*column, data)] if check.file_top1.count
    )


def _check_head(head: Head, targets: Targets, before: Scores, after: Scores, data: str) -> Check:
    points = _points(head, targets, after)
    right = _right(head, targets, before, _thresholds([head], _points(head, targets, before)))
    own = _right(head, targets, after, _thresholds([head], points))
    low, high = wilson(int(own.sum()), len(own))
    share = float(own.mean()) if own.size else 0.0
    metric = "top1" if is_exclusive(head) else "peak in a box" if head.kind == "heatmap" else "all labels"
    measured = Measured(head.name, metric, share, low, high, len(own), data)
    return Check(float(right.mean()) if right.size else 0.0, measured, accuracy_drop(right, own), points)


def _right(
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


def _points(head: Head, targets: Targets, scores: Scores) -> dict[str, OperatingPoints]:
    """Find where the thresholds of a sigmoid's labels could lie, on pictures of which the label is known."""
    if head.kind != "sigmoid":
        return {}
    columns = {head.labels[1]: (0, 1)} if head.is_binary else {x: (i, i) for i, x in enumerate(head.labels)}
    found = {}
    for label, (column, place) in columns.items():
        known = ~np.isnan(targets.values[:, column])
        shown = targets.values[known, column] > 0.5
        if shown.any() and not shown.all():
            found[label] = operating_points(scores[known, place], shown)
    return found


def operating_points(scores: Scores, shown: NDArray[np.bool_]) -> OperatingPoints:
    """Find the lowest threshold of few false alarms, and the highest that misses little.

    Args:
        scores: Of one label, shape (count,).
        shown: Whether each picture shows it; some do and some do not.

    Example:
        >>> operating_points(np.float32([0.1, 0.3, 0.2, 0.9]), np.array([False, False, True, True]))
        OperatingPoints(low_false_alarms=0.6, high_recall=0.2)
    """
    absent, present = np.sort(scores[~shown])[::-1], np.sort(scores[shown])[::-1]
    loudest = float(absent[int(MOST_FALSE_ALARMS * len(absent))])
    above = scores[scores > loudest]
    # Half way up to the next score: the threshold does not stand on the very pictures that it was found by.
    quiet = (loudest + float(above.min())) / 2 if above.size else 1.0
    needed = int(np.ceil(LEAST_RECALL * len(present)))
    return OperatingPoints(round(quiet, 6), round(float(present[needed - 1]), 6))


def _thresholds(heads: Sequence[Head], points: Mapping[str, OperatingPoints]) -> dict[str, float]:
    """Choose the thresholds: few false alarms, because an alarm that cries wolf is switched off.

    Of two labels that exclude each other none is an alarm: there 0.5 makes the fewest errors.
    """
    chosen = {}
    for head in heads:
        if head.is_binary:
            chosen[head.labels[1]] = 0.5
        elif head.kind == "sigmoid":
            chosen |= {x: points[x].low_false_alarms if x in points else 0.5 for x in head.labels}
    return chosen


def _folders(recipe: Recipe) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Say by label which folders show it, and which do not; the latter only where there are several heads."""
    if not recipe.heads:
        return dict(recipe.classes), {}
    classes: dict[str, tuple[str, ...]] = {}
    negatives: dict[str, tuple[str, ...]] = {}
    for head in recipe.heads:
        classes |= head.classes
        negatives |= head.negatives
    return classes, negatives


def file_scores(flatbuffer: bytes, heads: Sequence[Head], codes: Codes | Stack) -> tuple[Scores, ...]:
    """Score every picture by the file's own interpreter: of each head, by label, one picture a row."""
    interpreter = open_interpreter(flatbuffer)
    dtype = interpreter.inputs[0].dtype
    columns: list[list[Scores]] = [[] for _ in heads]
    for row in range(len(codes)):
        outputs = interpreter.invoke(codes[row : row + 1].astype(dtype))
        for column, head in zip(columns, heads, strict=True):
            spec = interpreter.outputs[head.output_index]
            column.append(decode(outputs[head.output_index], spec, head))
    return tuple(np.stack(column) for column in columns)


def _by_label(scores: Scores, head: Head) -> Scores:
    """Give one score a label, as a device does, of what a Keras model's last layer gives."""
    return np.concatenate([1 - scores, scores], axis=-1) if head.is_binary else scores


def _manifest(
    subject: Subject, precision: Precision, entries: Sequence[calibration.Entry], checks: Sequence[Check]
) -> Manifest:
    recipe, card = subject.recipe, subject.card
    points = {label: found for check in checks for label, found in check.points.items()}
    classes, negatives = _folders(recipe) if recipe else ({}, {})
    return Manifest(
        name=subject.name,
        precision=precision,
        input=subject.input,
        heads=subject.heads,
        classes=classes,
        negatives=negatives,
        thresholds=_thresholds(subject.heads, points),
        operating_points=points,
        provenance=Provenance(
            recipe=card.recipe if card else "",
            parent_sha256=model_file.weights_sha256(subject.model)
            if hasattr(subject.model, "weights")
            else "",
            data_sha256=card.data_sha256 if card else "",
            calibration_sha256=calibration.digest(entries) if entries else "",
            tools={"edgecnn": __version__, "tensorflow": importlib.metadata.version("tensorflow")},
        ),
        measured=tuple(check.file_top1 for check in checks),
        description=recipe.description if recipe else "",
        licence=recipe.licence if recipe else "",
    )


def _golden(flatbuffer: bytes, spec: InputSpec) -> Golden:
    """Render a few pictures and run the new file on them."""
    codes = golden_codes(spec)
    interpreter = open_interpreter(flatbuffer, threads=1)
    rows = [interpreter.invoke(row[None].astype(interpreter.inputs[0].dtype)) for row in codes]
    return Golden(codes, tuple(np.concatenate(column) for column in zip(*rows, strict=True)))


def golden_codes(spec: InputSpec) -> NDArray[np.uint8]:
    """Render two scenes, one on fire, and two mosaics of random colours; they compress to little.

    Returns:
        Shape (4, height, width, channels), uint8: the pictures as the model sees them.
    """
    scenes = [render_scene(np.random.default_rng(i), i == 1, 256, 256) for i in range(2)]
    coarse = [resize(scene, spec) // 16 * 16 for scene in scenes]
    rng = np.random.default_rng(0)
    rows, columns = -(-spec.height_px // MOSAIC_PX), -(-spec.width_px // MOSAIC_PX)
    tiles = rng.integers(0, 256, (2, rows, columns, spec.channels), dtype=np.uint8)
    mosaics = tiles.repeat(MOSAIC_PX, axis=1).repeat(MOSAIC_PX, axis=2)
    return np.concatenate([np.stack(coarse), mosaics[:, : spec.height_px, : spec.width_px]])
