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
from edgecnn.bundle.manifest import Manifest, Measured, Precision, Provenance
from edgecnn.core.frame import InputSpec, resize
from edgecnn.core.prediction import Head, decode
from edgecnn.errors import ModelError
from edgecnn.measure.accuracy import Drop, accuracy_drop, decide, wilson
from edgecnn.runtime.interpreter import open_interpreter
from edgecnn.workstation import calibration, model_file
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.procedural import render_scene
from edgecnn.workstation.quantize import quantization_aware
from edgecnn.workstation.subject import Subject, read_subject
from edgecnn.workstation.tflite import float_operators, to_flatbuffer
from edgecnn.workstation.train import Progress, Split, decisions, predict, read_split

MOSAIC_PX = 8
"""Side of a tile in the pictures whose outputs travel with the model; edgecnn makes them all itself."""


@dataclass(frozen=True, slots=True)
class Check:
    """How the file compares with the model that it was made from, on the val split."""

    parent_top1: float
    file_top1: Measured
    drop: Drop


@dataclass(frozen=True, slots=True)
class Converted:
    """What conversion made."""

    bundle: Bundle
    calibration: Path | None
    check: Check | None


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

    Returns:
        The file, the calibration list that was drawn, and the check.

    Raises:
        ModelError: If the model cannot be converted or something about it is not known.
        DataError: If calibration pictures are missing or belong to val or test.
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
    if dataset and set(dataset.labels) != set(parent.head.labels):
        raise ModelError(
            f"'{parent.name}' knows {_listed(parent.head.labels)}; the data shows {_listed(dataset.labels)}.",
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
    check = _check(flatbuffer, parent, dataset)
    if precision in ("int8", "int16x8") and (islands := float_operators(flatbuffer)):
        progress.on_note(f"Note: without an integer form, {len(islands)} stay float: {_listed(islands)}")
    if check is None:
        progress.on_note("Note: not compared with its parent: no --data with a val split was given.")
    manifest = _manifest(parent, precision, entries, check)
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn = None
    if entries and calibration_list is None:
        drawn = out.with_suffix(".calibration.txt")
        calibration.write(entries, drawn)
    bundle = bundle_file.write(out, flatbuffer, manifest, _golden(flatbuffer, parent.input))
    return Converted(bundle, drawn, check)


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
    training = read_split(dataset, "train", subject.input, subject.head)
    aware = quantization_aware(subject.model, subject.head, training, subject.recipe, epochs, progress)
    return replace(subject, model=aware)


def _check(flatbuffer: bytes, parent: Subject, dataset: Dataset | None) -> Check | None:
    """Compare the file with its parent on val; without val pictures there is no check."""
    if dataset is None or "val" not in dataset.splits():
        return None
    split = read_split(dataset, "val", parent.input, parent.head)
    if parent.card:
        parents = decisions(predict(parent.model, split.codes), parent.head)
    else:
        # A model of somebody else may want its pictures in a way that only the float file knows.
        parents = file_decisions(to_flatbuffer(parent, "float32", None), parent.head, split)
    right, own = parents == split.labels, file_decisions(flatbuffer, parent.head, split) == split.labels
    low, high = wilson(int(own.sum()), len(own))
    data = f"val of {dataset.name}"
    measured = Measured(parent.head.name, "top1", float(own.mean()), low, high, len(own), data)
    return Check(float(right.mean()), measured, accuracy_drop(right, own))


def file_decisions(flatbuffer: bytes, head: Head, split: Split) -> NDArray[np.int64]:
    """Decide for every picture of a split by the file's own interpreter."""
    interpreter = open_interpreter(flatbuffer)
    dtype, spec = interpreter.inputs[0].dtype, interpreter.outputs[head.output_index]
    rows = (interpreter.invoke(row[None].astype(dtype))[head.output_index] for row in split.codes)
    scores = np.stack([decode(row, spec, head) for row in rows])
    return np.asarray(np.argmax(decide(scores, head, {}), axis=-1), np.int64)


def _manifest(
    subject: Subject, precision: Precision, entries: Sequence[calibration.Entry], check: Check | None
) -> Manifest:
    recipe, card = subject.recipe, subject.card
    thresholds = {subject.head.labels[1]: 0.5} if subject.head.is_binary else {}
    return Manifest(
        name=subject.name,
        precision=precision,
        input=subject.input,
        heads=(subject.head,),
        classes=dict(recipe.classes) if recipe else {},
        thresholds=thresholds,
        provenance=Provenance(
            recipe=card.recipe if card else "",
            parent_sha256=model_file.weights_sha256(subject.model)
            if hasattr(subject.model, "weights")
            else "",
            data_sha256=card.data_sha256 if card else "",
            calibration_sha256=calibration.digest(entries) if entries else "",
            tools={"edgecnn": __version__, "tensorflow": importlib.metadata.version("tensorflow")},
        ),
        measured=(check.file_top1,) if check else (),
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
