"""Channel pruning from end to end: judge, cut, learn again, a few times over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.channels.allocation import Cost, allocate
from edgecnn.workstation.channels.graph import analyse
from edgecnn.workstation.channels.importance import importance
from edgecnn.workstation.channels.rounds import CutState, Rounds, rounds_of
from edgecnn.workstation.channels.surgery import cut
from edgecnn.workstation.checkpoint import remove
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.models.zoo import listed, summary
from edgecnn.workstation.prune import Retarget, fine_tune, gzip_size, open_parent
from edgecnn.workstation.quality import evaluate
from edgecnn.workstation.split import read_split, read_training, split_to_centre_on
from edgecnn.workstation.train import Progress, centre

TEACHER_SHARE = 0.5
"""How much of the target is the parent's answer; the rest is the label."""


@dataclass(frozen=True, slots=True)
class LayerWidth:
    """How many output channels of a convolution or dense layer are left."""

    layer: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Size:
    """What a model costs.

    Attributes:
        macs: Multiplications with accumulation for one picture.
        parameters: Weights, moving statistics included.
        size_bytes: Of the ``.h5``.
        gzip_bytes: What gzip makes of it.
        val_top1: Accuracy on val.
    """

    macs: int
    parameters: int
    size_bytes: int
    gzip_bytes: int
    val_top1: float


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What channel pruning did.

    Attributes:
        path: The smaller model.
        layers: Widths of convolutions and dense layers, in their order.
        before: The parent.
        after: The smaller model.
    """

    path: Path
    layers: tuple[LayerWidth, ...]
    before: Size
    after: Size


def shrink(
    source: Path,
    dataset: Dataset,
    out: Path,
    share: float,
    epochs: int = 8,
    cost: Cost = "macs",
    distil: bool = True,
    learning_rate: float | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> Shrunk:
    """Cut whole channels out of a trained model, and let it learn again.

    The cut is made in a few rounds of equal ratio with an epoch between them. The last fine-tuning has
    the rest of the epochs. The one that was best on val is kept, or the last if the recipe says so.

    Args:
        source: An ``.h5`` that ``edgecnn train`` made, or this function.
        dataset: The data that it was trained on.
        out: The ``.h5`` to write.
        share: Of the cost that goes, in (0, 1); a little more may go, since channels go in eights.
        epochs: Of fine-tuning, all rounds together.
        cost: What is to become less: ``macs`` makes a network faster, ``parameters`` makes it smaller.
        distil: Whether the parent's answers are half of the target.
        learning_rate: At the start of each fine-tuning; that of the recipe if left out, since what
            was cut out must be learned again.
        progress: Whom to tell.
        resume: Go on with a pruning that was killed; until its end it lies beside ``out``, in
            ``NAME.checkpoint``.

    Returns:
        What is left of each layer, and both models' costs and accuracies.

    Raises:
        ModelError: If ``share`` is out of range or cannot be reached, or the model is not of edgecnn,
            or another pruning was killed there, or there is no room for its checkpoints.
    """
    if not 0 < share < 1:
        raise ModelError(
            f"--channels is a share above 0 and below 1; found {share}.", fix="Try --channels 0.5."
        )
    model_file.refuse_other_suffix(out)
    progress = progress or Progress()
    parent, card, recipe, heads = open_parent(source, dataset, progress)
    rate = recipe.train.learning_rate if learning_rate is None else learning_rate
    how = f"--channels {share:g} --cost {cost} --epochs {epochs} --learning-rate {rate:g}"
    how += "" if distil else " --no-distil"
    pruned = replace(card, pruned=(*card.pruned, how))
    folder = out.with_suffix(".checkpoint")
    if resume and (found := _finished(out, pruned)):
        remove(folder)
        return _shrunk(source, parent, card.val_top1, out, *found)
    whole = analyse(parent)
    # What can go at all does not depend on what it is worth: say before the first cut that it is too little.
    allocate(whole, np.zeros(whole.unit_count), 1 - share, cost)
    weights_sha256 = model_file.weights_sha256(parent)
    fresh = CutState(weights_sha256, dataset.digest(), how, boxes_sha256=card.boxes_sha256)
    validation = read_split(dataset, "val", recipe, heads, parent)
    rounds = Rounds(folder, fresh, resume, recipe, heads, validation, progress)
    training = read_training(dataset, recipe, heads, parent, progress.on_note)
    retarget = distilled(parent) if distil else None
    model, counts = parent, rounds_of(epochs)
    for number, round_epochs in enumerate(counts, 1):
        if number < rounds.state.cut:
            continue
        if number > rounds.state.cut:
            graph = analyse(model)
            worth = importance(model, graph, heads, training, recipe)
            target = _cost_of(parent, cost) * (1 - share) ** (number / len(counts))
            stays = allocate(graph, worth, min(1.0, target / _cost_of(model, cost)), cost)
            rounds.begin(number, cut(model, graph, stays), card)
        model = rounds.network()
        top1 = evaluate(model, heads, validation).top1
        progress.on_note(
            f"Cut {number} of {len(counts)}: {_in_words(model)}; val accuracy {100 * top1:.2f} %"
        )
        fine_tune(model, heads, training, recipe, round_epochs, rate, [], progress, retarget, rounds)
        rounds.restore_best(model)
    centre(model, heads, split_to_centre_on(validation, dataset, recipe, heads))
    val_top1 = evaluate(model, heads, validation).top1
    parent_val_top1 = evaluate(parent, heads, validation).top1
    model_file.save(model, out, replace(pruned, val_top1=val_top1))
    rounds.finish()
    return _shrunk(source, parent, parent_val_top1, out, model, val_top1)


def distilled(parent: Any) -> Retarget:
    """Give the function that mixes a batch's targets with the parent's answers to the same pictures.

    Cross entropy is linear in its target, so that the mean of two losses is the loss of the mean. Where
    the target is not known, the parent's answer is the whole of it. A heatmap of which only the picture
    is known keeps saying so. Of a mosaic, whose targets are the largest of four, this holds by picture
    only.

    Source:
        G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531,
        at temperature 1; the parent sees the picture as it was varied for the child, as in L. Beyer et
        al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022.
    """

    def retarget(pictures: Any, targets: tuple[Any, ...]) -> tuple[Any, ...]:
        answers = listed(parent(pictures, training=False))
        return tuple(
            _mixed(target, tf.reshape(answer, tf.shape(target)))
            for target, answer in zip(targets, answers, strict=True)
        )

    return retarget


def _mixed(target: Any, answer: Any) -> Any:
    mean = (1 - TEACHER_SHARE) * target + TEACHER_SHARE * answer
    return tf.where(tf.math.is_nan(target), answer, tf.where(target < 0, target, mean))


def _finished(out: Path, pruned: model_file.Card) -> tuple[Any, float] | None:
    """Find the network that this very pruning left, and its accuracy on val: it was resumed after its end."""
    card = model_file.read_card(out) if out.exists() else None
    if card is None or replace(card, val_top1=pruned.val_top1) != pruned:
        return None
    return model_file.load(out)[0], card.val_top1


def _shrunk(
    source: Path, parent: Any, parent_val_top1: float, out: Path, child: Any, val_top1: float
) -> Shrunk:
    return Shrunk(
        out,
        tuple(_widths(parent, child)),
        _size(parent, source, parent_val_top1),
        _size(child, out, val_top1),
    )


def _cost_of(model: Any, cost: Cost) -> int:
    total = summary(model)[-1]
    return total.macs if cost == "macs" else total.parameters


def _in_words(model: Any) -> str:
    total = summary(model)[-1]
    return f"{total.macs / 1e6:.1f} million MACs, {total.parameters:,} parameters"


def _widths(parent: Any, child: Any) -> list[LayerWidth]:
    def channels(model: Any, name: str) -> int:
        return int(np.shape(model.get_layer(name).kernel)[-1])

    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    names = [
        layer.name
        for layer in parent.layers
        if isinstance(layer, kinds) and not isinstance(layer, keras.layers.DepthwiseConv2D)
    ]
    return [LayerWidth(name, channels(parent, name), channels(child, name)) for name in names]


def _size(model: Any, path: Path, val_top1: float) -> Size:
    total = summary(model)[-1]
    return Size(total.macs, total.parameters, path.stat().st_size, gzip_size(path), val_top1)
