"""Pictures as a network eats them, read or rendered, with what it should answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgecnn.core.prediction import Head, head_for
from edgecnn.errors import ModelError
from edgecnn.measure.accuracy import is_exclusive
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.generated import generated, lookalikes_for_thresholds
from edgecnn.workstation.data.pipeline import Codes, Stack, codes_of
from edgecnn.workstation.data.targets import Targets, join, targets_of
from edgecnn.workstation.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Split:
    """Pictures as the model eats them, with what each head should answer."""

    codes: Codes | Stack
    targets: tuple[Targets, ...]


def heads_of(recipe: Recipe, dataset: Dataset) -> tuple[Head, ...]:
    """Say what a recipe's network answers about data.

    Raises:
        ModelError: If there is only one label.
    """
    if recipe.heads:
        return tuple(
            Head(spec.name, spec.kind, tuple(spec.classes), index, spec.kind == "sigmoid")
            for index, spec in enumerate(recipe.heads)
        )
    head = head_for(dataset.labels, recipe.head)
    if len(head.labels) < 2:
        raise ModelError(
            f"Training needs at least two labels; the data has {len(head.labels)}: {', '.join(head.labels)}.",
            fix="Add a folder of pictures that show something else.",
        )
    return (head,)


def read_split(dataset: Dataset, split: str, recipe: Recipe, heads: Sequence[Head], model: Any) -> Split:
    """Read one split as the model eats it, and what it should answer."""
    pictures = dataset.split(split)
    specs = {spec.name: spec for spec in recipe.heads}
    return Split(
        codes_of(pictures, recipe.input),
        tuple(
            targets_of(pictures, head, specs.get(head.name), grid, recipe.input)
            for head, grid in zip(heads, grids_of(model, heads), strict=True)
        ),
    )


def read_training(
    dataset: Dataset, recipe: Recipe, heads: Sequence[Head], model: Any, on_note: Callable[[str], None]
) -> Split:
    """Read what a model learns from: the train split, and the pictures that the recipe has rendered.

    What is fine-tuned later needs the rendered ones again: it would unlearn what only they taught.
    """
    training = read_split(dataset, "train", recipe, heads, model)
    made = recipe.lookalikes.count + recipe.pasted.count
    if not made:
        return training
    on_note(f"Rendering {made} training pictures")
    return with_generated(training, dataset, recipe, heads)


def with_generated(training: Split, dataset: Dataset, recipe: Recipe, heads: Sequence[Head]) -> Split:
    """Add the pictures that the recipe has rendered."""
    grids = [target.grid for target in training.targets]
    return _joined([training, *(Split(*made) for made in generated(dataset, recipe, heads, grids))])


def with_threshold_lookalikes(
    validation: Split, dataset: Dataset, recipe: Recipe, heads: Sequence[Head]
) -> tuple[Split, int]:
    """Add the look-alikes that thresholds are chosen with; give their number too."""
    made = lookalikes_for_thresholds(dataset, recipe, heads, [target.grid for target in validation.targets])
    if made is None:
        return validation, 0
    return _joined([validation, Split(*made)]), len(made[0])


def split_to_centre_on(validation: Split, dataset: Dataset, recipe: Recipe, heads: Sequence[Head]) -> Split:
    """Give the val split, with look-alikes painted into its pictures where a label has a threshold."""
    if all(is_exclusive(head) for head in heads):
        return validation
    return with_threshold_lookalikes(validation, dataset, recipe, heads)[0]


def grids_of(model: Any, heads: Sequence[Head]) -> list[tuple[int, int] | None]:
    """Give rows and columns of each head that is a heatmap; none for the others."""
    shapes = [tuple(output.shape) for output in model.outputs]
    return [
        (shape[1], shape[2]) if head.kind == "heatmap" else None
        for head, shape in zip(heads, shapes, strict=True)
    ]


def _joined(parts: Sequence[Split]) -> Split:
    codes = [part.codes for part in parts if not isinstance(part.codes, Stack)]
    return Split(
        Stack(*codes), tuple(join(column) for column in zip(*(p.targets for p in parts), strict=True))
    )
