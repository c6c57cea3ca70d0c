"""What a network learns from one batch: from the pictures, from mosaics of them, and from teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.measure.accuracy import is_exclusive
from edgecnn.workstation.averages import Averages
from edgecnn.workstation.backend import tf
from edgecnn.workstation.losses import Loss, loss_for, placed
from edgecnn.workstation.models.zoo import listed
from edgecnn.workstation.mosaics import SIDE, any_of, cut, joined, shrunk
from edgecnn.workstation.recipe import Recipe
from edgecnn.workstation.teachers import Teach

Taught = tuple[Teach, tuple[Loss, ...], float]
"""Whom to ask, the losses towards what it answers, and how much these count."""

Step = Callable[[Any, Any], Any]
"""From a batch of pictures and the targets of each head to one number."""

MOSAIC_SHARE = 0.5
"""How much the loss of independent labels on mosaics counts beside that on the pictures themselves."""


def weights_of(recipe: Recipe, heads: Sequence[Head]) -> tuple[float, ...]:
    """Give the weight of each head's loss."""
    weights = {spec.name: spec.weight for spec in recipe.heads}
    return tuple(weights.get(head.name, 1.0) for head in heads)


def mosaic_shares(heads: Sequence[Head], mosaic: bool) -> tuple[float, ...]:
    """Say how much each head learns from mosaics.

    Beside other heads a heatmap does in any case: asked for places in whole pictures of which only the
    label is known, a trunk lets one cell answer for all, wherever the fire is.

    Args:
        heads: Of one network.
        mosaic: Whether independent labels, and heatmaps that stand alone, do too.
    """
    alone = all(head.kind == "heatmap" for head in heads)
    return tuple(
        float(mosaic or not alone)
        if head.kind == "heatmap"
        else MOSAIC_SHARE * (mosaic and not is_exclusive(head))
        for head in heads
    )


def refuse_uncut(model: Any, heads: Sequence[Head], recipe: Recipe) -> None:
    """Refuse a network that learns from mosaics and cannot be shown any.

    Raises:
        ModelError: If its pictures or heatmaps have no halves, or a batch holds fewer pictures than a mosaic.
    """
    shares = mosaic_shares(heads, recipe.augment.mosaic)
    if not any(shares):
        return
    maps = [
        (f"cells of the heatmap '{head.name}'", output.shape[1:3])
        for head, output in zip(heads, model.outputs, strict=True)
        if head.kind == "heatmap"
    ]
    for what, (rows, columns) in [("pixels", model.input_shape[1:3]), *maps]:
        if rows % SIDE or columns % SIDE:
            raise ModelError(
                f"The network learns from mosaics of four pictures, and {rows} x {columns} {what} have no "
                "halves.",
                fix="Choose height_px and width_px so that pictures and heatmaps have even sides: for a "
                "MobileNet with a heatmap, multiples of 32, or of 16 with top_down.",
            )
    if recipe.train.batch_size < SIDE**2:
        raise ModelError(
            f"The network learns from mosaics of four pictures, and a batch has {recipe.train.batch_size}.",
            fix="Set train.batch_size to at least 4.",
        )


def batch_loss(
    model: Any,
    recipe: Recipe,
    heads: Sequence[Head],
    losses: Sequence[Loss],
    taught: Taught | None = None,
    training: bool = True,
) -> Step:
    """Make the function that says how wrong a network is about a batch.

    Pictures and mosaics go through the network together: what counts its calls, batch norm and TFMOT's
    pruning, counts one.

    Args:
        model: The network.
        recipe: Says how much each head counts, and whether mosaics are made.
        heads: Its answers.
        losses: One a head; on mosaics labels are not weighed.
        taught: What teachers add, on pictures and mosaics alike.
        training: Whether dropout drops and batch norm follows.

    Raises:
        ModelError: As ``refuse_uncut`` does.
    """
    refuse_uncut(model, heads, recipe)
    weights, shares = weights_of(recipe, heads), mosaic_shares(heads, recipe.augment.mosaic)
    plain = [loss_for(head, recipe.train.label_smoothing) for head in heads]
    in_parts = [head.kind == "heatmap" and share > 0 for head, share in zip(heads, shares, strict=True)]
    teach, soft, teacher_share = taught or (None, (), 0.0)

    def one(place: int, hard: Loss, wanted: Any, given: Any, said: Any) -> Any:
        if said is None:
            return hard(wanted, given)
        return (1 - teacher_share) * hard(wanted, given) + teacher_share * soft[place](said, given)

    def on_pictures(place: int, wanted: Any, given: Any, said: Any) -> Any:
        return one(place, losses[place], placed(wanted) if in_parts[place] else wanted, given, said)

    def on_mosaics(place: int, wanted: Any, given: Any, said: Any) -> Any:
        if in_parts[place]:
            said = None if said is None else cut(said)
            return one(place, plain[place], shrunk(wanted), cut(given), said)
        return one(place, plain[place], any_of(wanted), given, said)

    def loss(pictures: Any, targets: Any) -> Any:
        shown = tf.concat([pictures, joined(pictures)], 0) if any(shares) else pictures
        answers = listed(model(shown, training=training))
        says = teach(shown) if teach else (None,) * len(heads)
        # Whole, an answer still knows its logits, and its loss is exact where a score is 0 or 1.
        count = tf.shape(pictures)[0] if any(shares) else None
        parts = []
        for place, (wanted, given, said) in enumerate(zip(targets, answers, says, strict=True)):
            (given, of_mosaics), (said, about_mosaics) = _divided(given, count), _divided(said, count)
            parts.append(weights[place] * on_pictures(place, wanted, given, said))
            if shares[place]:
                found = on_mosaics(place, wanted, of_mosaics, about_mosaics)
                parts.append(weights[place] * shares[place] * found)
        return tf.add_n(parts)

    return loss


def _divided(batch: Any, count: Any) -> tuple[Any, Any]:
    """Give what concerns the first so many rows and what concerns the others."""
    return (batch, None) if batch is None or count is None else (batch[:count], batch[count:])


def make_step(model: Any, loss: Step, optimizer: Any, averages: Averages) -> Step:
    """Make the function that learns from one batch and gives its loss."""
    variables = model.trainable_variables

    def step(pictures: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(pictures, targets)
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        averages.follow(optimizer.iterations)
        return value

    compiled: Step = tf.function(step, reduce_retracing=True)
    return compiled
