"""What is converted: a network, and what must be known about it beyond its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head, head_for
from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.recipe import Recipe, parse


@dataclass(frozen=True, slots=True)
class Subject:
    """What is converted: a network, and what must be known about it beyond its weights.

    Attributes:
        model: A Keras model or a SavedModel.
        name: Short.
        input: What it eats.
        heads: What it answers.
        recipe: If edgecnn trained it.
        card: Likewise.
        mean_std: Of ``(byte - mean) / std``, if the trunk must be given normalised pictures.
        has_normalisation: Whether the model's own first layer does that; else it is put in front.
    """

    model: Any
    name: str
    input: InputSpec
    heads: tuple[Head, ...]
    recipe: Recipe | None
    card: model_file.Card | None
    mean_std: tuple[float, float] | None
    has_normalisation: bool


def read_subject(
    source: Path,
    labels: Sequence[str] = (),
    normalization: tuple[float, float] | None = None,
) -> Subject:
    """Read a model and find out, or be told, what it eats and answers.

    Args:
        source: ``.h5``, ``.keras`` or SavedModel folder.
        labels: Of a model that edgecnn did not train.
        normalization: (mean, std) of ``(byte - mean) / std``, likewise.

    Returns:
        All that conversion must know.

    Raises:
        ModelError: If something is not known; nothing is guessed.
    """
    model, card = model_file.load(source)
    if card is not None:
        recipe = parse(card.recipe)
        return Subject(
            model,
            recipe.name,
            recipe.input,
            card.heads,
            recipe,
            card,
            model_file.normalisation(model),
            True,
        )
    spec, neuron_count = _shape_of(model, source)
    if not labels:
        raise ModelError(
            f"'{source}' does not say what its {neuron_count} outputs mean.",
            fix="Give --labels FILE with one label a line, or --data PATH whose folders are the labels.",
        )
    head = head_for(labels)
    if head.neuron_count != neuron_count:
        # Two labels with two outputs are a softmax over two.
        head = Head("label", "softmax", tuple(labels))
    if head.neuron_count != neuron_count:
        raise ModelError(
            f"'{source}' has {neuron_count} outputs; {len(labels)} labels were given.",
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
    return Subject(model, source.stem, spec, (head,), None, None, own or normalization, normalises)


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


def _shape_of(model: Any, source: Path) -> tuple[InputSpec, int]:
    if hasattr(model, "input_shape"):
        shapes = model.input_shape, model.output_shape
    else:
        signature = signature_of(model, source)
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


def signature_of(model: Any, source: str | Path) -> Any:
    """Give the function of a SavedModel.

    Raises:
        ModelError: If it has none by the usual name.
    """
    signatures = getattr(model, "signatures", {})
    if "serving_default" not in signatures:
        raise ModelError(
            f"The SavedModel '{source}' has no signature 'serving_default'.",
            fix="Save it with model.export(FOLDER) or tf.saved_model.save with a signature.",
        )
    return signatures["serving_default"]
