"""Conversion of a Keras model into the one file that crosses to the device."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecnn import __version__
from edgecnn.bundle import file as bundle_file
from edgecnn.bundle.file import Bundle, Golden
from edgecnn.bundle.manifest import Manifest, Precision, Provenance
from edgecnn.core.frame import InputSpec, resize
from edgecnn.errors import ModelError
from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.targets.graph import Target
from edgecnn.workstation import calibration, delivery, model_file
from edgecnn.workstation.budget import Kept, judge_for, keep_to
from edgecnn.workstation.check import Check, check
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.procedural import render_scene
from edgecnn.workstation.quantize import quantization_aware
from edgecnn.workstation.recipe import Recipe, folders_of
from edgecnn.workstation.split import read_training
from edgecnn.workstation.subject import Subject, read_subject
from edgecnn.workstation.tflite import float_operators, heads_in, to_flatbuffer
from edgecnn.workstation.thresholds import thresholds_of
from edgecnn.workstation.train import Progress, tell_other_data

MOSAIC_PX = 8
"""Side of a tile in the pictures whose outputs travel with the model; edgecnn makes them all itself."""


QAT_EPOCHS = 2
"""Of the ladder's rung of training, where no other number was given."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What conversion made.

    Attributes:
        bundle: The file.
        calibration: The list that was drawn; None where one was given or none was needed.
        checks: How it compares with its parent.
        fit: What the target makes of it.
        beside: What was written beside it for the target.
        kept: What the quantization ladder chose; None where no budget was given.
    """

    bundle: Bundle
    calibration: Path | None
    checks: tuple[Check, ...]
    fit: delivery.Fit
    beside: tuple[Path, ...]
    kept: Kept | None = None

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
    max_drop_pp: float | None = None,
    metric: str = "top1",
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
        max_drop_pp: What int8 may cost: with it, the steps of the quantization ladder are taken until the
            upper end of the drop's interval on val keeps to it. If none does, the best file is written,
            and ``Converted.kept`` says so.
        metric: What that is counted in: ``top1``, or ``recall@fpr=0.05`` of a label.

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
    if parent.card and (labels or normalization):
        raise ModelError(
            f"'{source}' says itself what it answers and how its pictures are normalised.",
            fix="Leave --labels and --normalization out.",
        )
    judge = None if max_drop_pp is None else judge_for(parent, precision, dataset, metric)
    _refuse_contradictions(parent, precision, dataset, calibration_list, qat_epochs, judge is not None)
    if dataset and parent.card:
        tell_other_data(parent.card, dataset, progress)
    subject, representative = parent, None
    entries: tuple[calibration.Entry, ...] = ()
    if qat_epochs and not judge:
        subject = _made_aware(parent, dataset, qat_epochs, progress)
    elif precision in ("int8", "int16x8"):
        entries, representative = _calibration(parent, precision, dataset, calibration_list, progress)
    kept = None
    if judge and dataset and representative is not None and max_drop_pp is not None:
        kept = keep_to(
            max_drop_pp,
            judge,
            parent,
            dataset,
            representative,
            lambda: _made_aware(parent, dataset, qat_epochs or QAT_EPOCHS, progress),
            target,
            progress,
        )
        flatbuffer, precision = kept.climb.best.flat, kept.precision
    else:
        flatbuffer = to_flatbuffer(subject, precision, representative)
    fit = delivery.examine(flatbuffer, target)
    checks = check(flatbuffer, parent, dataset, kept.on_val if kept else None, judge)
    if precision in ("int8", "int16x8") and (islands := float_operators(flatbuffer)):
        progress.on_note(f"Note: without an integer form, {len(islands)} stay float: {_listed(islands)}")
    if not checks:
        progress.on_note("Note: not compared with its parent: no --data with a val split was given.")
    manifest = _manifest(
        replace(parent, heads=heads_in(flatbuffer, parent.heads)), precision, entries, checks
    )
    manifest = kept.on(manifest) if kept else manifest
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn = None
    if entries and calibration_list is None:
        drawn = out.with_suffix(".calibration.txt")
        calibration.write(entries, drawn)
    bundle = bundle_file.write(out, flatbuffer, manifest, _golden(flatbuffer, parent.input))
    return Converted(bundle, drawn, checks, fit, delivery.deliver(bundle, fit), kept)


def _refuse_contradictions(
    parent: Subject,
    precision: Precision,
    dataset: Dataset | None,
    calibration_list: Path | None,
    qat_epochs: int,
    has_budget: bool,
) -> None:
    if qat_epochs and precision != "int8":
        raise ModelError(
            f"Quantization-aware training prepares for int8; found --precision {precision}.",
            fix="Leave --qat-epochs out.",
        )
    if calibration_list and ((qat_epochs and not has_budget) or precision not in ("int8", "int16x8")):
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
    training = read_training(dataset, subject.recipe, subject.heads, subject.model, progress.on_note)
    aware = quantization_aware(subject.model, subject.heads, training, subject.recipe, epochs, progress)
    return replace(subject, model=aware)


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
        thresholds=thresholds_of(subject.heads, points),
        operating_points=points,
        provenance=Provenance(
            recipe=card.recipe if card else "",
            parent_sha256=model_file.weights_sha256(subject.model)
            if hasattr(subject.model, "weights")
            else "",
            data_sha256=card.data_sha256 if card else "",
            calibration_sha256=calibration.digest(entries) if entries else "",
            tools={"edgecnn": __version__, "tensorflow": importlib.metadata.version("tensorflow")},
            teachers_sha256=card.teachers_sha256 if card else {},
            averaged_sha256=card.averaged_sha256 if card else {},
            init_sha256=card.init_sha256 if card else {},
            boxes_sha256=card.boxes_sha256 if card else {},
            pruned=card.pruned if card else (),
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
