"""Models that a student asks while it learns: of Keras, or ``.tflite`` files, which answer faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import resize
from edgecnn.core.prediction import Head
from edgecnn.core.tensor import TensorSpec
from edgecnn.errors import ModelError
from edgecnn.runtime.predictor import load
from edgecnn.workstation import model_file
from edgecnn.workstation.backend import tf
from edgecnn.workstation.losses import Loss, soft_loss_for
from edgecnn.workstation.models.zoo import listed
from edgecnn.workstation.recipe import Distill, parse

Shape = tuple[int, ...]

Teach = Callable[[Any], tuple[Any, ...]]
"""From a batch of pictures to what teachers answer for each head; none where they do not know the head."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """One model to learn from.

    Attributes:
        name: Of its recipe.
        heads: What it answers.
        shapes: Of each head's answer, without the batch.
        sha256: Of its weights; of a ``.tflite`` of its flatbuffer.
        answer: From a batch of pictures, float32 bytes of shape (batch, height, width, channels), of any
            size, to one answer a head.
    """

    name: str
    heads: tuple[Head, ...]
    shapes: tuple[Shape, ...]
    sha256: str
    answer: Callable[[Any], list[Any]]


def open_teacher(path: Path) -> Teacher:
    """Open a model to learn from.

    Args:
        path: A ``model.h5`` of ``edgecnn train``, or a ``.tflite`` of ``edgecnn convert``. An int8 file
            answers several times as fast as the Keras model that it was made from; a score below half
            a code counts as half a code, so ask it at a temperature of 1.

    Raises:
        ModelError: If it was not made by edgecnn, or cannot be read.
        BundleError: If a ``.tflite`` is damaged.
    """
    return _of_tflite(path) if path.suffix == ".tflite" else _of_keras(path)


def _of_keras(path: Path) -> Teacher:
    model, card = model_file.load(path)
    if card is None:
        raise _foreign(path)
    heads, shapes = card.heads, [tuple(output.shape[1:]) for output in model.outputs]

    def answer(pictures: Any) -> list[Any]:
        shown = tf.image.resize(pictures, model.input_shape[1:3])
        if shown.shape[-1] != model.input_shape[-1]:
            shown = tf.image.rgb_to_grayscale(shown) if shown.shape[-1] == 3 else tf.repeat(shown, 3, -1)
        every = listed(model(shown, training=False))
        return [every[head.output_index] for head in heads]

    return Teacher(
        parse(card.recipe).name,
        heads,
        tuple(shapes[head.output_index] for head in heads),
        model_file.weights_sha256(model),
        answer,
    )


def _of_tflite(path: Path) -> Teacher:
    predictor = load(path)
    if predictor.manifest is None:
        raise _foreign(path)
    heads = predictor.heads
    specs = [predictor.interpreter.outputs[head.output_index] for head in heads]

    def ask(pictures: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        columns: list[list[NDArray[np.float32]]] = [[] for _ in heads]
        for picture in pictures.round().astype(np.uint8):
            # The one resize takes colours; equal ones have the luma that they are made of.
            colours = np.repeat(picture, 3 // picture.shape[-1], axis=-1)
            scores = predictor.scores(resize(colours, predictor.input))
            for column, head, spec in zip(columns, heads, specs, strict=True):
                column.append(_activations(scores[head.name], head, spec))
        return [np.asarray(column, np.float32) for column in columns]

    def answer(pictures: Any) -> list[Any]:
        every = listed(tf.numpy_function(ask, [pictures], [tf.float32] * len(heads), stateful=False))
        for one, spec in zip(every, specs, strict=True):
            one.set_shape((None, *spec.shape[1:]))
        return every

    digest = predictor.manifest.model_sha256
    return Teacher(predictor.name, heads, tuple(spec.shape[1:] for spec in specs), digest, answer)


def _foreign(path: Path) -> ModelError:
    return ModelError(
        f"'{path}' does not say what it answers: edgecnn did not make it.",
        fix="Give a model.h5 of 'edgecnn train', or a .tflite of 'edgecnn convert'.",
    )


def _activations(scores: NDArray[np.float32], head: Head, spec: TensorSpec) -> NDArray[np.float32]:
    """Give what the output layer said; of integers, no surer than the nearest code can tell."""
    own = scores[..., 1:] if head.is_binary else scores
    half_code = spec.scale / 2 if np.dtype(spec.dtype).kind in "iu" else 0.0
    return np.asarray(np.clip(own, half_code, 1 - half_code), np.float32)


def teaching(
    teachers: Sequence[Teacher],
    model: Any,
    heads: Sequence[Head],
    distill: Distill,
    on_note: Callable[[str], None] = lambda _: None,
) -> tuple[Teach, tuple[Loss, ...], float]:
    """Make what a student asks: the teachers, the losses towards their answers, and how much these count.

    A teacher may eat other sizes: it gets the student's pictures, as varied, resized.

    Args:
        teachers: Each must know a head of the student by name, labels and shape; of several that know
            one, the mean answer counts.
        model: The student.
        heads: Its answers.
        distill: How much the teachers say.
        on_note: Hears of heads that a teacher has too and cannot teach.

    Raises:
        ModelError: If a teacher knows none of the heads.

    Source:
        L. Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022:
        both see the same cut-out of the same picture.
    """
    wanted = [
        (head.name, head.labels, tuple(output.shape[1:]))
        for head, output in zip(heads, model.outputs, strict=True)
    ]
    places: list[list[tuple[int, int]]] = [[] for _ in heads]
    for number, teacher in enumerate(teachers):
        known = {
            (head.name, head.labels, shape): index
            for index, (head, shape) in enumerate(zip(teacher.heads, teacher.shapes, strict=True))
        }
        for place, key in zip(places, wanted, strict=True):
            if key in known:
                place.append((number, known[key]))
        if not any(number == n for place in places for n, _ in place):
            raise ModelError(
                f"A teacher answers {', '.join(head.name for head in teacher.heads)}; the recipe asks for "
                f"{', '.join(head.name for head in heads)}, with labels in the same "
                "order and heatmaps of the same grid.",
                fix="Give a model that has a head of that name, those labels and that grid.",
            )
        others = {head.name for head in teacher.heads} & {name for name, *_ in set(wanted) - known.keys()}
        if others:
            on_note(f"{teacher.name} does not teach {', '.join(sorted(others))}: labels or grid are others")

    def teach(pictures: Any) -> tuple[Any, ...]:
        every = [teacher.answer(pictures) for teacher in teachers]
        return tuple(
            tf.add_n([every[number][index] for number, index in place]) / len(place) if place else None
            for place in places
        )

    soft = tuple(soft_loss_for(head, distill.temperature) for head in heads)
    return teach, soft, distill.weight
