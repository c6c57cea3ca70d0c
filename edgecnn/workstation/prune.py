"""Magnitude pruning: the smallest weights become zero, the rest is fine-tuned around them."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.averages import Averages
from edgecnn.workstation.backend import keras, tf, tfmot
from edgecnn.workstation.data.catalog import Dataset, open_dataset
from edgecnn.workstation.quality import evaluate
from edgecnn.workstation.recipe import Recipe, folders_of, parse
from edgecnn.workstation.split import Split, read_split, read_training, split_to_centre_on
from edgecnn.workstation.step import Step, batch_loss, make_step
from edgecnn.workstation.train import (
    Progress,
    boxes_sha256_of,
    centre,
    learn,
    losses_for,
    make_optimizer,
    reset_randomness,
    tell_other_data,
)

LEARNING_RATE_SHARE = 0.2
"""Fine-tuning starts from a fifth of the recipe's learning rate: the network has converged once already."""


Retarget = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]
"""From a batch of pictures and the targets of each head to other targets."""


class Checkpoints(Protocol):
    """Keeps a fine-tuning on disk; a tracker has the network and its optimizer."""

    def restore(self, tracker: Any) -> int:
        """Bring both to where they stood when the run was killed; the number of the last epoch, or 0."""

    def keep(self, tracker: Any, epoch: int) -> None:
        """Keep both after an epoch."""


@dataclass(frozen=True, slots=True)
class LayerSparsity:
    """How many weights of a layer's kernel are zero."""

    layer: str
    weight_count: int
    zero_count: int

    @property
    def share(self) -> float:
        """Zeros among all weights, in [0, 1]."""
        return self.zero_count / self.weight_count


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning did.

    Attributes:
        path: The pruned model.
        layers: Sparsity of every layer that has a kernel.
        size_bytes: Of the file.
        gzip_bytes: What gzip makes of it.
        parent_gzip_bytes: What gzip makes of the file that it was made from.
        val_top1: Accuracy on val after pruning.
        parent_val_top1: And before.
    """

    path: Path
    layers: tuple[LayerSparsity, ...]
    size_bytes: int
    gzip_bytes: int
    parent_gzip_bytes: int
    val_top1: float
    parent_val_top1: float


def prune(
    source: Path,
    dataset: Dataset,
    out: Path,
    sparsity: float,
    epochs: int = 2,
    progress: Progress | None = None,
) -> Pruned:
    """Prune a trained model to a sparsity, along a cubic ramp, while fine-tuning it.

    Args:
        source: An ``.h5`` that ``edgecnn train`` made.
        dataset: The data that it was trained on.
        out: The ``.h5`` to write.
        sparsity: Share of the weights of convolutions and dense layers that become zero, in (0, 1).
        epochs: Of fine-tuning; the ramp takes the first half of them.
        progress: Whom to tell.

    Returns:
        Sparsity by layer, sizes and accuracies.

    Raises:
        ModelError: If the model was not made by ``edgecnn train``, or ``sparsity`` is out of range.

    Source:
        M. Zhu, S. Gupta, "To prune, or not to prune", 2017: polynomial decay, power 3.
    """
    if not 0 < sparsity < 1:
        raise ModelError(
            f"--sparsity is a share above 0 and below 1; found {sparsity}.", fix="Try --sparsity 0.8."
        )
    model_file.refuse_other_suffix(out)
    progress = progress or Progress()
    model, card, recipe, heads = open_parent(source, dataset, progress)
    training = read_training(dataset, recipe, heads, model, progress.on_note)
    validation = read_split(dataset, "val", recipe, heads, model)
    parent_val_top1 = evaluate(model, heads, validation).top1
    wrapped = _wrap(model, sparsity, epochs * -(-len(training.codes) // recipe.train.batch_size))
    fine_tune(
        wrapped,
        heads,
        training,
        recipe,
        epochs,
        recipe.train.learning_rate * LEARNING_RATE_SHARE,
        [tfmot().sparsity.keras.UpdatePruningStep()],
        progress,
    )
    pruned = tfmot().sparsity.keras.strip_pruning(wrapped)
    centre(pruned, heads, split_to_centre_on(validation, dataset, recipe, heads))
    val_top1 = evaluate(pruned, heads, validation).top1
    how = f"--sparsity {sparsity:g} --epochs {epochs}"
    model_file.save(pruned, out, replace(card, val_top1=val_top1, pruned=(*card.pruned, how)))
    return Pruned(
        out,
        sparsity_of(pruned),
        out.stat().st_size,
        gzip_size(out),
        gzip_size(source),
        val_top1,
        parent_val_top1,
    )


def open_parent(
    path: Path, dataset: Dataset, progress: Progress
) -> tuple[Any, model_file.Card, Recipe, tuple[Head, ...]]:
    """Open the model that something is taken out of, with its card, its recipe and its answers.

    Fine-tuning learns from the boxes that are given now, too: the card names them from here on.

    Raises:
        ModelError: If it was not made by edgecnn, so that its labels are not known, or cannot be read.
    """
    model, card = model_file.load(path)
    if card is None:
        raise ModelError(
            f"'{path}' was not made by 'edgecnn train': it does not say what its labels and input are.",
            fix=f"Train it with 'edgecnn train RECIPE --init {path}', which starts from its weights.",
        )
    tell_other_data(card, dataset, progress)
    card = replace(card, boxes_sha256={**card.boxes_sha256, **boxes_sha256_of(dataset)})
    return model, card, parse(card.recipe), card.heads


def open_data_of(model: Path, data: Path | Sequence[Path], boxes: Sequence[Path] = ()) -> Dataset:
    """Open data as they were opened to train a model: its folders, its labels, its pictures left out.

    Args:
        model: The ``.h5``.
        data: What ``open_dataset`` takes, as ``boxes``.
        boxes: Files that say where pictures show something.

    Raises:
        DataError: If the data do not fit.
    """
    card = model_file.read_card(model)
    if card is None:
        return open_dataset(data, boxes=boxes)
    recipe = parse(card.recipe)
    return open_dataset(data, folders_of(recipe), leave_out=recipe.leave_out, boxes=boxes)


def fine_tune(
    model: Any,
    heads: Sequence[Head],
    training: Split,
    recipe: Recipe,
    epochs: int,
    learning_rate: float,
    callbacks: Sequence[Any],
    progress: Progress,
    retarget: Retarget | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train a converged model a little more, in place, with a learning rate that falls to 0.

    Args:
        model: What is trained.
        heads: Its answers.
        training: Pictures of the train split.
        recipe: Says what a batch teaches, as in training but without teachers; how long and how fast is
            said below.
        epochs: How many.
        learning_rate: At the start.
        callbacks: Of Keras: told when it begins and at the end of each epoch.
        progress: Whom to tell.
        retarget: From a batch of varied pictures and its targets of each head to those that are learned.
        checkpoints: Who keeps each epoch, and says where a killed run goes on.
    """
    spec = recipe.train
    keras.utils.set_random_seed(spec.seed)
    gentle = replace(spec, epochs=epochs, learning_rate=learning_rate, warmup_epochs=0.0, weight_decay=0.0)
    optimizer = make_optimizer(gentle, len(training.codes))
    optimizer.build(model.trainable_variables)
    loss = batch_loss(model, recipe, heads, losses_for(heads, training, spec))
    if retarget is not None:
        loss = _towards(retarget, loss)
    step = make_step(model, loss, optimizer, Averages((), 0.0))
    told = keras.callbacks.CallbackList(list(callbacks), model=model)
    told.on_train_begin()
    tracker = tf.train.Checkpoint(model=model, optimizer=optimizer)
    done = checkpoints.restore(tracker) if checkpoints else 0
    for number in range(done + 1, epochs + 1):
        reset_randomness(model, spec.seed, number)
        learn(step, training, recipe, number, functools.partial(progress.on_step, number, epochs))
        told.on_epoch_end(number - 1)
        if checkpoints:
            checkpoints.keep(tracker, number)


def _towards(retarget: Retarget, loss: Step) -> Step:
    return lambda pictures, targets: loss(pictures, retarget(pictures, targets))


def _wrap(model: Any, sparsity: float, step_count: int) -> Any:
    """Put TFMOT's pruning around every layer that has a kernel worth pruning.

    Depthwise kernels are left: they are a few per cent of the weights and the first to hurt.
    """
    schedule = tfmot().sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=sparsity,
        begin_step=0,
        end_step=max(1, step_count // 2),
        frequency=max(1, step_count // 50),
    )

    def wrap(layer: Any) -> Any:
        if not is_prunable(layer):
            return layer
        return tfmot().sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)

    return keras.models.clone_model(model, clone_function=wrap)


def is_prunable(layer: Any) -> bool:
    """Whether magnitude pruning takes weights from this layer."""
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) and not depthwise


def sparsity_of(model: Any) -> tuple[LayerSparsity, ...]:
    """Count the zeros in the kernel of every convolution and dense layer."""
    rows = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            kernel = np.asarray(layer.get_weights()[0])
            rows.append(LayerSparsity(layer.name, kernel.size, int(np.sum(kernel == 0))))
    return tuple(rows)


def gzip_size(path: Path) -> int:
    """Size in bytes after gzip at level 9."""
    return len(gzip.compress(path.read_bytes(), 9, mtime=0))
