"""Training pictures that edgecnn renders: what only looks like fire, and fire whose place is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgecnn.core.frame import Pixels, resize
from edgecnn.core.prediction import Head
from edgecnn.errors import DataError
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.picture import Picture, listed
from edgecnn.workstation.data.pipeline import Codes, keep_made
from edgecnn.workstation.data.targets import Targets, targets_of_generated
from edgecnn.workstation.recipe import Recipe

BACKGROUND_COUNT = 2000
"""Pictures that flames are put into, at most: they are held in memory."""

Made = tuple[Codes, tuple[Targets, ...]]


def generated(
    dataset: Dataset, recipe: Recipe, heads: Sequence[Head], grids: Sequence[tuple[int, int] | None]
) -> Iterator[Made]:
    """Render what a recipe asks for; pixels are kept in the cache, and the same seeds give the same pictures.

    Args:
        dataset: Whose train split flames are put into.
        recipe: Says how many of which.
        heads: The answers.
        grids: Rows and columns of those that are heatmaps.

    Yields:
        Pictures as the model eats them, and what each head should answer.

    Raises:
        DataError: If there is no picture that flames can be put into.
    """
    if recipe.lookalikes.count:
        yield _lookalikes(recipe, heads, grids)
    if recipe.pasted.count:
        yield _pasted(dataset, recipe, heads, grids)


def _lookalikes(recipe: Recipe, heads: Sequence[Head], grids: Sequence[tuple[int, int] | None]) -> Made:
    from edgecnn.workstation.data.lookalikes import lookalikes

    spec, wanted = recipe.input, recipe.lookalikes

    def make() -> Iterator[Pixels]:
        return (pixels for pixels, _ in lookalikes(wanted.count, wanted.seed, spec.height_px, spec.width_px))

    codes = keep_made(f"lookalikes {wanted}", wanted.count, spec, make)
    nothing: list[dict[str, np.ndarray]] = [{} for _ in range(wanted.count)]
    targets = (
        targets_of_generated([()] * wanted.count, nothing, head, grid, spec)
        for head, grid in zip(heads, grids, strict=True)
    )
    return codes, tuple(targets)


def _pasted(
    dataset: Dataset, recipe: Recipe, heads: Sequence[Head], grids: Sequence[tuple[int, int] | None]
) -> Made:
    from edgecnn.workstation.data.lookalikes import pasted

    spec, wanted = recipe.input, recipe.pasted
    onto = _backgrounds(dataset, wanted.onto, wanted.seed)
    every = list(pasted([picture.read() for picture in onto], wanted.count, wanted.seed))
    codes = np.stack([resize(one.pixels, spec) for one in every])
    shown, masks = [one.labels for one in every], [one.masks for one in every]
    targets = (
        targets_of_generated(shown, masks, head, grid, spec) for head, grid in zip(heads, grids, strict=True)
    )
    return codes, tuple(targets)


def _backgrounds(dataset: Dataset, folders: Sequence[str], seed: int) -> list[Picture]:
    found = [picture for picture in dataset.split("train") if picture.folder in folders]
    if not found:
        raise DataError(
            f"'{dataset.name}' has no training picture in {listed(folders)} to put flames into.",
            fix="Correct pasted.onto in the recipe.",
        )
    chosen = np.random.default_rng(seed).permutation(len(found))[:BACKGROUND_COUNT]
    return [found[place] for place in np.sort(chosen)]
