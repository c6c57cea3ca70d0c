"""Pictures that edgecnn renders for training: what only looks like fire, and fire whose place is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgecnn.core.alarm import Box
from edgecnn.core.frame import InputSpec, Pixels, resize
from edgecnn.core.prediction import Head
from edgecnn.errors import DataError
from edgecnn.workstation.data.boxes import boxes_of
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.flames import Cutout, cut_flames, pasted
from edgecnn.workstation.data.lookalikes import lookalikes
from edgecnn.workstation.data.picture import Picture, in_pixels, in_threads, listed
from edgecnn.workstation.data.pipeline import Codes
from edgecnn.workstation.data.targets import Targets, targets_of_generated
from edgecnn.workstation.recipe import Lookalikes, Recipe

BACKGROUND_COUNT = 2000
"""Pictures that flames are put into, at most: they are held in memory."""

ON_VAL_COUNT = 600
"""Look-alikes on val, at most; as many as a quarter of the val pictures that the models that ship have."""

_LEAST_FLAME_PX = 8

_ON_VAL_SEEDS = 2**31  # where they begin: recipes count theirs from 0, and the stress set from 2**32

Grid = tuple[int, int]

Made = tuple[Codes, tuple[Targets, ...]]


def generated(
    dataset: Dataset, recipe: Recipe, heads: Sequence[Head], grids: Sequence[Grid | None]
) -> Iterator[Made]:
    """Render what a recipe asks for, some hundred pictures a second; the same seeds give the same pictures.

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
        yield _lookalikes(dataset, "train", recipe.lookalikes, recipe.input, heads, grids)
    if recipe.pasted.count:
        yield _pasted(dataset, recipe, heads, grids)


def threshold_count(recipe: Recipe) -> int:
    """Say how many look-alikes a recipe's thresholds are found with."""
    return min(recipe.lookalikes.count, ON_VAL_COUNT)


def lookalikes_for_thresholds(
    dataset: Dataset, recipe: Recipe, heads: Sequence[Head], grids: Sequence[Grid | None]
) -> Made | None:
    """Paint look-alikes into val pictures, for thresholds: scenery holds too few of what is met in life.

    Returns:
        Never a picture that is trained on or tested with; over rendered scenery where val has no picture of
        the folders that the recipe paints into; None where the recipe asks for no look-alikes.
    """
    own, count = recipe.lookalikes, threshold_count(recipe)
    if not count:
        return None
    onto = own.onto if any(picture.folder in own.onto for picture in dataset.split("val")) else ()
    wanted = replace(own, count=count, seed=own.seed + _ON_VAL_SEEDS, onto=onto)
    return _lookalikes(dataset, "val", wanted, recipe.input, heads, grids)


def _lookalikes(
    dataset: Dataset,
    split: str,
    wanted: Lookalikes,
    spec: InputSpec,
    heads: Sequence[Head],
    grids: Sequence[Grid | None],
) -> Made:
    over = _read(_backgrounds(dataset, split, wanted.onto, wanted.seed)) if wanted.onto else ()
    every = lookalikes(wanted.count, wanted.seed, spec.height_px, spec.width_px, over, nights=wanted.nights)
    codes = np.stack([resize(pixels, spec) for pixels, _ in every])
    shown: list[tuple[str, ...]] = [() for _ in range(wanted.count)]
    rows = zip(heads, grids, strict=True)
    return codes, tuple(targets_of_generated(shown, [{} for _ in shown], *row, spec) for row in rows)


def real_flames(dataset: Dataset) -> list[Cutout]:
    """Cut flames out of the boxes of training pictures, but for those of a few blurred pixels."""
    pictures = dataset.split("train")
    boxes = {path: boxed.shares().get("fire", ()) for path, boxed in boxes_of(pictures).items()}

    def cut(picture: Picture) -> list[Cutout]:
        pixels = picture.read()
        return [
            cut_flames(pixels, (left, top, right - left, bottom - top))
            for left, top, right, bottom in (_inside(box, pixels) for box in boxes[picture.path])
            if round(min(right - left, bottom - top)) >= _LEAST_FLAME_PX
        ]

    burning = [picture for picture in pictures if boxes.get(picture.path)]
    return [flame for flames in in_threads(cut, burning) for flame in flames]


def _inside(share: Box, pixels: Pixels) -> Box:
    """Bring a box in shares of a picture to its pixels, without what lies beyond its edges."""
    left, top, right, bottom = np.clip(share, 0, 1)
    return in_pixels((left, top, right, bottom), *pixels.shape[:2])


def _pasted(dataset: Dataset, recipe: Recipe, heads: Sequence[Head], grids: Sequence[Grid | None]) -> Made:
    spec, wanted = recipe.input, recipe.pasted
    onto = _backgrounds(dataset, "train", wanted.onto, wanted.seed)
    flames = real_flames(dataset) if wanted.real else []
    every = list(pasted(_read(onto), wanted.count, wanted.seed, flames))
    codes = np.stack([resize(one.pixels, spec) for one in every])
    shown, masks = [one.labels for one in every], [one.masks for one in every]
    rows = zip(heads, grids, strict=True)
    return codes, tuple(targets_of_generated(shown, masks, *row, spec) for row in rows)


def _backgrounds(dataset: Dataset, split: str, folders: Sequence[str], seed: int) -> list[Picture]:
    found = [picture for picture in dataset.split(split) if picture.folder in folders]
    if not found:
        raise DataError(
            f"'{dataset.name}' has no {split} picture in {listed(folders)} to paint into.",
            fix="Correct onto in [lookalikes] and [pasted] of the recipe.",
        )
    chosen = np.random.default_rng(seed).permutation(len(found))[:BACKGROUND_COUNT]
    return [found[place] for place in np.sort(chosen)]


def _read(pictures: Sequence[Picture]) -> list[Pixels]:
    return in_threads(Picture.read, pictures)
