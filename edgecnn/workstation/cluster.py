"""Weight clustering: every kernel gets by with a few different values, which gzip finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.backend import keras, tfmot
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.prune import fine_tune, gzip_size, is_prunable, open_parent
from edgecnn.workstation.quality import evaluate
from edgecnn.workstation.split import read_split, read_training
from edgecnn.workstation.train import Progress

LEARNING_RATE_SHARE = 0.1
"""Values move together with all the weights that share them: a tenth of the recipe's learning rate."""


@dataclass(frozen=True, slots=True)
class LayerValues:
    """How many different values the kernel of a layer holds."""

    layer: str
    weight_count: int
    value_count: int


@dataclass(frozen=True, slots=True)
class Clustered:
    """What clustering did.

    Attributes:
        path: The clustered model.
        layers: Values of every kernel that was clustered.
        gzip_bytes: What gzip makes of the file.
        parent_gzip_bytes: And of the one that it was made from.
        val_top1: Accuracy on val after clustering.
        parent_val_top1: And before.
    """

    path: Path
    layers: tuple[LayerValues, ...]
    gzip_bytes: int
    parent_gzip_bytes: int
    val_top1: float
    parent_val_top1: float


def cluster(
    source: Path,
    dataset: Dataset,
    out: Path,
    count: int,
    epochs: int = 2,
    progress: Progress | None = None,
) -> Clustered:
    """Let the weights of each kernel share a few values, and fine-tune these; zeros stay zeros.

    Args:
        source: An ``.h5`` that ``edgecnn train`` or ``edgecnn prune`` made.
        dataset: The data that it was trained on.
        out: The ``.h5`` to write.
        count: Values of each kernel, at least 2.
        epochs: Of fine-tuning.
        progress: Whom to tell.

    Returns:
        Values by layer, sizes and accuracies.

    Raises:
        ModelError: If the model was not made by edgecnn, or ``count`` is below 2.

    Source:
        S. Han, H. Mao, W. J. Dally, "Deep Compression", ICLR 2016, section 3: k-means, then gradients
        summed over the weights of a value.
    """
    if count < 2:
        raise ModelError(f"--clusters must be at least 2; found {count}.", fix="Try --clusters 32.")
    model_file.refuse_other_suffix(out)
    progress = progress or Progress()
    model, card, recipe, heads = open_parent(source, dataset, progress)
    training = read_training(dataset, recipe, heads, model, progress.on_note)
    validation = read_split(dataset, "val", recipe, heads, model)
    parent_val_top1 = evaluate(model, heads, validation).top1
    keras.utils.set_random_seed(recipe.train.seed)  # the first values are drawn
    wrapped = _wrap(model, count)
    rate = recipe.train.learning_rate * LEARNING_RATE_SHARE
    fine_tune(wrapped, heads, training, recipe, epochs, rate, [], progress)
    clustered = tfmot().clustering.keras.strip_clustering(wrapped)
    val_top1 = evaluate(clustered, heads, validation).top1
    how = f"--clusters {count} --epochs {epochs}"
    model_file.save(clustered, out, replace(card, val_top1=val_top1, pruned=(*card.pruned, how)))
    rows = tuple(
        LayerValues(layer.name, kernel.size, len(np.unique(kernel)))
        for layer in clustered.layers
        if is_prunable(layer)
        for kernel in [np.asarray(layer.get_weights()[0])]
    )
    return Clustered(out, rows, gzip_size(out), gzip_size(source), val_top1, parent_val_top1)


def _wrap(model: Any, count: int) -> Any:
    """Put TFMOT's clustering around the layers that magnitude pruning takes weights from."""
    tfmot()  # the first import is loud
    # Keeping zeros is what TFMOT calls experimental: it is not in its public names.
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as toolkit

    def wrap(layer: Any) -> Any:
        if not is_prunable(layer):
            return layer
        return toolkit.cluster_weights(layer, number_of_clusters=count, preserve_sparsity=True)

    return keras.models.clone_model(model, clone_function=wrap)
