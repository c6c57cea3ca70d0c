"""The mean of the weights of several trainings from one start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.recipe import Recipe, parse


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A finished training whose weights count as much as those that they are averaged with.

    Attributes:
        path: Its ``model.h5``.
        recipe: Of its network.
        card: What it was made from, and what it answers.
        sha256: Of its weights.
        weights: As Keras orders them.
    """

    path: Path
    recipe: Recipe
    card: model_file.Card
    sha256: str
    weights: Sequence[NDArray[np.float32]]


def open_ingredients(paths: Sequence[Path]) -> tuple[Ingredient, ...]:
    """Open the ``model.h5`` of other runs of ``edgecnn train``; their order does not matter.

    Raises:
        ModelError: If one is something else, or cannot be read.
    """
    return tuple(sorted(map(_open, paths), key=lambda one: (one.recipe.name, one.sha256)))


def _open(path: Path) -> Ingredient:
    model, card = model_file.load(path)
    if card is None:
        raise ModelError(
            f"'{path}' was not trained by edgecnn: what its weights mean is not known.",
            fix="Give the model.h5 of another 'edgecnn train'.",
        )
    return Ingredient(path, parse(card.recipe), card, model_file.weights_sha256(model), model.get_weights())


def refuse_others(
    model: Any, recipe: Recipe, heads: Sequence[Head], data_sha256: str, ingredients: Sequence[Ingredient]
) -> None:
    """Say before the training, not after it, whose weights have no mean with a recipe's.

    Args:
        model: What the recipe builds: an older file of the same recipe may hold another network.
        recipe: What is trained.
        heads: Its answers.
        data_sha256: Of the pictures that it learns from.
        ingredients: The others.

    Raises:
        ModelError: If one is another network, answers something else, or has learned from other pictures:
            what this one's are measured on may be among them.
    """
    own = (recipe.input, recipe.model, tuple(heads), [tuple(weight.shape) for weight in model.weights])
    for one in ingredients:
        shapes = [weight.shape for weight in one.weights]
        if (one.recipe.input, one.recipe.model, one.card.heads, shapes) != own:
            raise ModelError(
                f"'{one.path}' is another network than the recipe's, or answers something else: weights of "
                "the two have no mean.",
                fix="Give the model.h5 of a recipe with the same [input], [model] and heads, trained by this "
                "release.",
            )
        if one.card.data_sha256 != data_sha256:
            raise ModelError(
                f"'{one.path}' was trained on other pictures; some of those that this run is measured on may "
                "be among them.",
                fix="Give a model.h5 that was trained with the same --data and --leave-out.",
            )


def average(model: Any, ingredients: Sequence[Ingredient]) -> None:
    """Give a model the mean of its weights and the ingredients'.

    Source:
        M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
        without increasing inference time", ICML 2022: trainings that start from the same weights end in one
        basin of the loss, and the mean of their weights answers about as their ensemble does.
    """
    columns = zip(model.get_weights(), *(one.weights for one in ingredients), strict=True)
    model.set_weights([np.mean(column, axis=0) for column in columns])
