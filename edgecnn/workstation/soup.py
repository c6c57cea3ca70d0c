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
from edgecnn.workstation.recipe import parse


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A finished training whose weights count as much as those that they are averaged with.

    Attributes:
        path: Its ``model.h5``.
        name: Of its recipe.
        heads: What it answers.
        sha256: Of its weights.
        weights: As Keras orders them.
    """

    path: Path
    name: str
    heads: tuple[Head, ...]
    sha256: str
    weights: Sequence[NDArray[np.float32]]


def open_ingredient(path: Path) -> Ingredient:
    """Open a ``model.h5`` of ``edgecnn train``.

    Raises:
        ModelError: If it is something else, or cannot be read.
    """
    model, card = model_file.load(path)
    if card is None:
        raise ModelError(
            f"'{path}' was not trained by edgecnn: what its weights mean is not known.",
            fix="Give the model.h5 of another 'edgecnn train'.",
        )
    return Ingredient(
        path, parse(card.recipe).name, card.heads, model_file.weights_sha256(model), model.get_weights()
    )


def refuse_others(model: Any, heads: Sequence[Head], ingredients: Sequence[Ingredient]) -> None:
    """Say before the training, not after it, whose weights have no mean with a network's.

    Raises:
        ModelError: If one answers something else, or is another network.
    """
    shapes = [weight.shape for weight in model.get_weights()]
    for one in ingredients:
        if one.heads != tuple(heads) or [weight.shape for weight in one.weights] != shapes:
            raise ModelError(
                f"'{one.path}' is another network than the recipe's, or answers something else: weights of "
                "the two have no mean.",
                fix="Give the model.h5 of a recipe with the same [input], [model] and heads.",
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
