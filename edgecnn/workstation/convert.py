"""Conversion of a Keras model into the one file that crosses to the device."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn import __version__
from edgecnn.bundle import file as bundle_file
from edgecnn.bundle.file import Bundle, Golden
from edgecnn.bundle.manifest import Manifest, Measured, Precision, Provenance
from edgecnn.core.frame import InputSpec, resize
from edgecnn.core.prediction import Head, decode, head_for
from edgecnn.errors import ModelError
from edgecnn.measure.accuracy import Drop, accuracy_drop, wilson
from edgecnn.runtime.interpreter import Interpreter, open_interpreter
from edgecnn.workstation import calibration, model_file
from edgecnn.workstation.backend import quietly, tf
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.procedural import render_scene
from edgecnn.workstation.quantize import aware_trunk_of, is_aware, quantization_aware
from edgecnn.workstation.recipe import Recipe, parse
from edgecnn.workstation.train import Progress, Split, decisions, predict, read_split

GOLDEN_COUNT = 4
"""Pictures whose outputs travel with the model; rendered by edgecnn, so they belong to nobody else."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is converted: a network, and what must be known about it beyond its weights.

    Attributes:
        model: A Keras model or a SavedModel.
        name: Short.
        input: What it eats.
        head: What it answers.
        recipe: If edgecnn trained it.
        card: Likewise.
        mean_std: Of ``(byte - mean) / std``, if the trunk must be given normalised pictures.
        has_normalisation: Whether the model's own first layer does that; else it is put in front.
    """

    model: Any
    name: str
    input: InputSpec
    head: Head
    recipe: Recipe | None
    card: model_file.Card | None
    mean_std: tuple[float, float] | None
    has_normalisation: bool


@dataclass(frozen=True, slots=True)
class Check:
    """How the file compares with the Keras model that it was made from, on the val split."""

    keras_top1: float
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
    subject = _subject(source, labels, normalization, dataset)
    if qat_epochs and precision != "int8":
        raise ModelError(
            f"Quantization-aware training prepares for int8; found --precision {precision}.",
            fix="Leave --qat-epochs out.",
        )
    entries: tuple[calibration.Entry, ...] = ()
    representative: NDArray[np.uint8] | None = None
    if precision in ("int8", "int16x8"):
        if dataset is None:
            raise ModelError(
                f"{precision} needs pictures to find the ranges of the activations.",
                fix="Give the training data by --data PATH, or convert with --precision float32.",
            )
        count = subject.recipe.calibration_count if subject.recipe else 200
        seed = subject.recipe.train.seed if subject.recipe else 1
        if calibration_list:
            entries = calibration.read(calibration_list)
        else:
            entries = calibration.draw(dataset, count, seed)
        pictures = calibration.resolve(entries, dataset)
        progress.on_note(f"Calibrating on {len(pictures)} training pictures")
        representative = calibration.codes_for(pictures, subject.input)
    if qat_epochs:
        subject = _made_aware(subject, dataset, qat_epochs, progress)
    flatbuffer = to_flatbuffer(subject, precision, representative)
    check = _check(flatbuffer, subject, dataset)
    manifest = _manifest(subject, precision, entries, check)
    out.parent.mkdir(parents=True, exist_ok=True)
    bundle = bundle_file.write(out, flatbuffer, manifest, _golden(flatbuffer, subject.input))
    drawn = None
    if entries and calibration_list is None:
        drawn = out.with_suffix(".calibration.txt")
        calibration.write(entries, drawn)
    return Converted(bundle, drawn, check)


def _subject(
    source: Path,
    labels: Sequence[str] | None,
    normalization: tuple[float, float] | None,
    dataset: Dataset | None,
) -> Subject:
    model, card = model_file.load(source)
    if card is not None:
        recipe = parse(card.recipe)
        return Subject(
            model,
            recipe.name,
            recipe.input,
            card.heads[0],
            recipe,
            card,
            model_file.normalisation(model),
            True,
        )
    spec, neuron_count = _shape_of(model, source)
    names = tuple(labels or (dataset.labels if dataset else ()))
    if not names:
        raise ModelError(
            f"'{source}' does not say what its {neuron_count} outputs mean.",
            fix="Give --labels FILE with one label a line, or --data PATH whose folders are the labels.",
        )
    head = head_for(names)
    if head.neuron_count != neuron_count:
        # Two labels with two outputs are a softmax over two.
        head = Head("label", "softmax", names)
    if len(head.labels) != neuron_count and head.neuron_count != neuron_count:
        raise ModelError(
            f"'{source}' has {neuron_count} outputs; {len(names)} labels were given.",
            fix="Give as many labels as the model has outputs, in their order.",
        )
    own = model_file.normalisation(model)
    first = type(model_file.first_layer(model)).__name__
    normalises = own is not None or first in ("Rescaling", "Normalization")
    if not normalises and normalization is None:
        raise ModelError(
            f"'{source}' does not say how it wants its pictures normalised: its first layer is {first}.",
            fix="Give --normalization MEAN STD of (byte - MEAN) / STD: for instance 0 255 for [0, 1], "
            "127.5 127.5 for [-1, 1], 0 1 for raw bytes.",
        )
    if normalises and normalization is not None:
        raise ModelError(
            f"'{source}' normalises its pictures itself (its first layer is {first}).",
            fix="Leave --normalization out.",
        )
    return Subject(model, source.stem, spec, head, None, None, own or normalization, normalises)


def _shape_of(model: Any, source: Path) -> tuple[InputSpec, int]:
    if hasattr(model, "input_shape"):
        shapes = model.input_shape, model.output_shape
    else:
        signature = _signature(model, source)
        outputs = list(signature.structured_outputs.values())
        (_, keywords) = signature.structured_input_signature
        inputs = list(keywords.values())
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(
                f"'{source}' has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each.",
                fix="Export a model with one picture in and one row of scores out.",
            )
        shapes = tuple(inputs[0].shape), tuple(outputs[0].shape)
    picture, scores = shapes
    if not isinstance(picture, tuple) or len(picture) != 4 or None in picture[1:] or picture[3] not in (1, 3):
        raise ModelError(
            f"'{source}' has an input of shape {picture}; expected (batch, height, width, 1 or 3).",
            fix="Build the model with a fixed input size, channels last.",
        )
    if not isinstance(scores, tuple) or len(scores) != 2 or scores[1] is None:
        raise ModelError(
            f"'{source}' has an output of shape {scores}; expected (batch, labels).",
            fix="End the model in a dense layer with one output per label.",
        )
    return InputSpec(picture[1], picture[2], picture[3]), int(scores[1])


def _signature(model: Any, source: Path) -> Any:
    signatures = getattr(model, "signatures", {})
    if "serving_default" not in signatures:
        raise ModelError(
            f"The SavedModel '{source}' has no signature 'serving_default'.",
            fix="Save it with model.export(FOLDER) or tf.saved_model.save with a signature.",
        )
    return signatures["serving_default"]


def _made_aware(subject: Subject, dataset: Dataset | None, epochs: int, progress: Progress) -> Subject:
    if subject.recipe is None or dataset is None:
        raise ModelError(
            "Quantization-aware fine-tuning needs a model that 'edgecnn train' made, and its data.",
            fix="Train it with 'edgecnn train', or leave --qat-epochs out.",
        )
    training = read_split(dataset, "train", subject.input, subject.head)
    aware = quantization_aware(subject.model, subject.head, training, subject.recipe, epochs, progress)
    return replace(subject, model=aware)


def to_flatbuffer(subject: Subject, precision: Precision, representative: NDArray[np.uint8] | None) -> bytes:
    """Convert, with a batch of one and fixed shapes.

    An int8 file takes the raw bytes as its codes where the normalisation allows it: then it has no
    operation for the normalisation at all. A float file keeps it as its first layer.

    Args:
        subject: What to convert.
        precision: What to convert to.
        representative: Calibration pictures, shape (count, height, width, channels).

    Returns:
        The flatbuffer; the same subject and pictures give the same bytes.

    Raises:
        ModelError: If the converter refuses.
    """
    bytes_are_codes = precision == "int8" and subject.mean_std is not None and _is_exact(subject.mean_std)
    network = _network(subject, eats_bytes=not bytes_are_codes)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([network], _trackable(subject.model))
    if precision == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    elif precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if not is_aware(subject.model):
            mean, std = subject.mean_std if bytes_are_codes and subject.mean_std else (0.0, 1.0)
            converter.representative_dataset = lambda: _normalised(representative, mean, std)
            converter.target_spec.supported_ops = _operations(precision)
        if precision == "int8":
            converter.inference_input_type = tf.uint8
            converter.inference_output_type = tf.uint8
    flatbuffer = _run(converter, subject.name)
    if bytes_are_codes and subject.mean_std:
        _expect_raw_bytes(open_interpreter(flatbuffer, threads=1), subject.mean_std)
    return flatbuffer


def _operations(precision: Precision) -> list[Any]:
    """Allow integer kernels first; an operation that has none, such as LRN, stays float."""
    sets = tf.lite.OpsSet
    integer = (
        sets.TFLITE_BUILTINS_INT8
        if precision == "int8"
        else sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    )
    return [integer, sets.TFLITE_BUILTINS]


def _is_exact(mean_std: tuple[float, float]) -> bool:
    """Whether a byte can be its own code: the zero point is a whole number only if the mean is."""
    mean, _ = mean_std
    return abs(mean - round(mean)) < 1e-6 and 0 <= round(mean) <= 255


def _network(subject: Subject, eats_bytes: bool) -> Any:
    """Make the function that is converted: from raw bytes, or from normalised numbers, to scores."""
    model, mean_std = subject.model, subject.mean_std
    if isinstance(getattr(model, "signatures", None), dict) or not hasattr(model, "layers"):
        signature = _signature(model, Path(subject.name))
        (name,) = signature.structured_input_signature[1]

        def run(x: Any) -> Any:
            return next(iter(signature(**{name: x}).values()))
    elif subject.has_normalisation and not eats_bytes:
        trunk = aware_trunk_of(model) if is_aware(model) else model_file.trunk_of(model)

        def run(x: Any) -> Any:
            return trunk(x, training=False)
    else:

        def run(x: Any) -> Any:
            return model(x, training=False)

    def network(x: Any) -> Any:
        if eats_bytes and mean_std is not None and not subject.has_normalisation:
            x = (x - mean_std[0]) / mean_std[1]
        return _as_scores(run(x), subject)

    spec = subject.input
    shape = (1, spec.height_px, spec.width_px, spec.channels)
    return tf.function(network).get_concrete_function(tf.TensorSpec(shape, tf.float32, name="picture"))


def _as_scores(output: Any, subject: Subject) -> Any:
    """Add the softmax or sigmoid that a model of somebody else left to its loss function."""
    last = getattr(subject.model, "layers", [None])[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    if subject.card is None and activation == "linear":
        return tf.nn.softmax(output) if subject.head.kind == "softmax" else tf.nn.sigmoid(output)
    return output


def _trackable(model: Any) -> Any:
    """Give the converter something that holds the variables; a Keras 3 model is no tf.Module."""
    return model if isinstance(model, tf.Module) else tf.Module()


def _normalised(
    codes: NDArray[np.uint8] | None, mean: float, std: float
) -> Iterator[list[NDArray[np.float32]]]:
    for row in () if codes is None else codes:
        yield [(row[None].astype(np.float32) - np.float32(mean)) / np.float32(std)]


def _run(converter: Any, name: str) -> bytes:
    try:
        with quietly():
            flatbuffer: bytes = converter.convert()
    except Exception as error:  # the converter raises its own ConverterError, ValueError, RuntimeError ...
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(
            f"TensorFlow Lite cannot convert '{name}': {lines[0][:300]}",
            fix="Try --precision float32; if that works, one operation has no int8 form.",
        ) from error
    return flatbuffer


def _expect_raw_bytes(interpreter: Interpreter, mean_std: tuple[float, float]) -> None:
    (spec,) = interpreter.inputs
    mean, std = mean_std
    if abs(spec.scale * std - 1) > 1e-5 or spec.zero_point != round(mean):
        raise ModelError(
            f"The converted input has scale {spec.scale} and zero point {spec.zero_point}; raw bytes need "
            f"{1 / std} and {round(mean)}.",
            fix="Calibrate on pictures that hold the bytes 0 and 255.",
        )


def _check(flatbuffer: bytes, subject: Subject, dataset: Dataset | None) -> Check | None:
    """Compare the file with its parent on val; without data, or without a val split, there is no check."""
    if dataset is None or not any(p.split == "val" for p in dataset.pictures) or subject.card is None:
        return None
    split = read_split(dataset, "val", subject.input, subject.head)
    parent = decisions(predict(subject.model, split.codes), subject.head) == split.labels
    own = file_decisions(flatbuffer, subject.head, split) == split.labels
    low, high = wilson(int(own.sum()), len(own))
    measured = Measured(subject.head.name, "top1", float(own.mean()), low, high, len(own), "val")
    return Check(float(parent.mean()), measured, accuracy_drop(parent, own))


def file_decisions(flatbuffer: bytes, head: Head, split: Split) -> NDArray[np.int64]:
    """Decide for every picture of a split by the file's own interpreter."""
    interpreter = open_interpreter(flatbuffer)
    dtype, spec = interpreter.inputs[0].dtype, interpreter.outputs[head.output_index]
    rows = (interpreter.invoke(row[None].astype(dtype))[head.output_index] for row in split.codes)
    return np.array([np.argmax(decode(row, spec, head)) for row in rows], np.int64)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a label file: one label a line.

    Raises:
        ModelError: If it cannot be read or names a label twice.
    """
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"The labels '{path}' cannot be read: {error}.", fix="Check the path.") from error
    if len(set(names)) != len(names) or not names:
        raise ModelError(
            f"'{path}' names a label twice, or none at all.", fix="Write each label once, one a line."
        )
    return names


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
    codes = np.stack([resize(_golden_picture(i), spec) for i in range(GOLDEN_COUNT)])
    interpreter = open_interpreter(flatbuffer, threads=1)
    rows = [interpreter.invoke(row[None].astype(interpreter.inputs[0].dtype)) for row in codes]
    return Golden(codes, tuple(np.concatenate(column) for column in zip(*rows, strict=True)))


def _golden_picture(index: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(index)
    scene = render_scene(rng, flames=index % 2 == 1, height_px=256, width_px=256)
    # A little noise makes every code occur, so that a wrong byte anywhere shows.
    noise = rng.integers(0, 40, scene.shape, dtype=np.uint8)
    return np.asarray(cv2.add(scene, noise), np.uint8)
