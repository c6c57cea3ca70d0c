"""Training that can be killed at any moment and goes on where it stood."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.prediction import Head
from edgecnn.errors import EdgecnnError, ModelError
from edgecnn.measure.accuracy import is_exclusive
from edgecnn.workstation import model_file
from edgecnn.workstation.averages import Averages
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.checkpoint import Epoch, RunState, keep, remove, restore, start
from edgecnn.workstation.data.archive import file_sha256
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.pipeline import WaitMeter, training_batches
from edgecnn.workstation.data.targets import Targets
from edgecnn.workstation.losses import Loss, loss_for
from edgecnn.workstation.models.fitting import is_head
from edgecnn.workstation.models.frozen import with_batch_norm_folded
from edgecnn.workstation.models.weights import InitReport, initialise
from edgecnn.workstation.models.zoo import LOGITS, build, features_of
from edgecnn.workstation.platt import centre_scores
from edgecnn.workstation.quality import answers, evaluate, predict, unmeasured
from edgecnn.workstation.recipe import Recipe, TrainSpec, as_learned, parse
from edgecnn.workstation.soup import Ingredient, average, open_ingredients, refuse_others
from edgecnn.workstation.split import Split, heads_of, read_split, read_training, split_to_centre_on
from edgecnn.workstation.step import Step, batch_loss, make_step, refuse_uncut, weights_of
from edgecnn.workstation.teachers import open_teacher, teaching

MOST_LOST = 0.05
"""What a mean of weights may lose on val by chance, where val is small. From several starts it loses far
more: three small networks of our tests, which name all blobs alone, lose 30 percentage points."""

SAMPLE_COUNT = 256
"""Pictures that give the batch-norm statistics of weights from elsewhere."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Whom to tell how far training is; the defaults tell nobody."""

    on_step: Callable[[int, int, int, int, float], None] = field(default=lambda *_: None)
    on_epoch: Callable[[Epoch], None] = field(default=lambda _: None)
    on_note: Callable[[str], None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training run leaves behind."""

    path: Path
    card: model_file.Card
    history: tuple[Epoch, ...]


def train(
    recipe: Recipe,
    text: str,
    dataset: Dataset,
    out: Path,
    init: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    teachers: Sequence[Path] = (),
    averaged: Sequence[Path] = (),
) -> Trained:
    """Train a recipe's network; the best epoch on val is kept, or the last if the recipe says so.

    Args:
        recipe: What to train.
        text: The recipe as written; goes into the model file.
        dataset: With the splits train and val.
        out: Folder for ``model.h5``, ``history.json``, ``curve.svg`` and, until the end, ``checkpoint/``.
        init: ``imagenet``, or a file with weights to start from.
        resume: Go on with the run that was killed in ``out``.
        progress: Whom to tell.
        teachers: Models to learn from, ``.h5`` or ``.tflite``; of several, the mean answer.
        averaged: Finished trainings from the same start, ``.h5``: the model is the mean of their weights and
            this one's.

    Returns:
        Where the model lies and how training went.

    Raises:
        DataError: If a split is missing or a picture is broken.
        ModelError: If the network cannot be built or started, or ``out`` holds another run, or the mean of
            the weights is clearly worse on val than this run's own; resumed without the others, that is kept.
    """
    progress = progress or Progress()
    heads = heads_of(recipe, dataset)
    checkpoint = out / "checkpoint"
    opened = [open_teacher(path) for path in teachers]
    teachers_sha256 = model_file.digests_of((one.name, one.sha256) for one in opened)
    ingredients = open_ingredients(averaged)
    averaged_sha256 = model_file.digests_of((one.recipe.name, one.sha256) for one in ingredients)
    boxes_sha256 = boxes_sha256_of(dataset)
    start_sha256 = digest_of_start(init) if init else {}
    fresh = RunState(text, dataset.digest(), start_sha256, teachers_sha256, boxes_sha256)
    if done := finished(out, fresh, averaged_sha256, resume):
        return done
    state = start(checkpoint, fresh, resume)
    # The best epoch's weights do not depend on the run before it being in this process.
    keras.utils.set_random_seed(recipe.train.seed)
    learned = as_learned(recipe)
    model = build(recipe.model, learned.input, heads)
    at_input_size(model, recipe, heads)  # refuses before it learns what could not be used
    refuse_uncut(model, heads, recipe)
    refuse_others(model, recipe, heads, fresh.data_sha256, ingredients)
    judge_start(recipe, init, progress)
    progress.on_note(f"Reading {len(dataset.split('train'))} training pictures")
    training = read_training(dataset, learned, heads, model, progress.on_note)
    validation = read_split(dataset, "val", learned, heads, model)
    tell_unmeasured(heads, training, validation, progress)
    keras.utils.set_random_seed(recipe.train.seed)
    if init and not state.history:
        progress.on_note(str(started(model, heads, recipe, init, training)))
    optimizer = make_optimizer(recipe.train, len(training.codes))
    freeze(model, heads, recipe.train)
    averages = Averages(model.trainable_variables, recipe.train.ema)
    tracker = tf.train.Checkpoint(model=model, optimizer=optimizer, averages=averages)
    optimizer.build(model.trainable_variables)
    if state.history:
        restore(tracker, checkpoint / state.weights)
    losses = losses_for(heads, training, recipe.train)
    teach = teaching(opened, model, heads, recipe.distill, progress.on_note) if opened else None
    learner = with_batch_norm_folded(model) if recipe.train.freeze != "none" else model
    step = make_step(learner, batch_loss(learner, recipe, heads, losses, teach), optimizer, averages)
    for number in range(state.next_epoch, recipe.train.epochs + 1):
        if number == 0:
            if not recipe.train.head_epochs:
                continue
            row = train_head(model, heads, training, validation, recipe)
            averages.restart()
        else:
            row = train_epoch(model, heads, step, averages, training, validation, recipe, number, progress)
        state = keep(checkpoint, tracker, model, averages, state, row, recipe.train.keep)
        progress.on_epoch(row)
    if not state.history:
        raise ModelError(
            "The recipe trains nothing: epochs and head_epochs are both 0.",
            fix="Set train.epochs to at least 1.",
        )
    model.load_weights(str(checkpoint / f"best-{state.best:04d}.weights.h5"))
    best = next(e for e in state.history if e.number == state.best)
    used = at_input_size(model, recipe, heads)
    if used is not model:
        model, validation = used, read_split(dataset, "val", recipe, heads, used)
        best = measured_again(model, heads, validation, best, progress)
    judged = split_to_centre_on(validation, dataset, recipe, heads)
    centre(model, heads, judged)
    thaw(model, recipe.train)
    val_top1 = best.val_top1
    if ingredients:
        # The others are centred: this run had to be, too, for its logits to count as much as theirs.
        val_top1 = mean_with(model, ingredients, heads, validation, best, progress)
        centre(model, heads, judged)
    card = model_file.Card(
        text,
        heads,
        state.data_sha256,
        sum(e.seconds for e in state.history),
        best.number,
        val_top1,
        teachers_sha256,
        averaged_sha256,
        state.init_sha256,
        boxes_sha256=boxes_sha256,
    )
    # The model comes last: where it lies, the run is finished.
    (out / "history.json").write_bytes(msgspec.json.format(msgspec.json.encode(state.history), indent=1))
    draw_curve(state.history, out / "curve.svg")
    model_file.save(model, out / "model.h5", card)
    remove(checkpoint)
    return Trained(out / "model.h5", card, state.history)


def tell_unmeasured(heads: Sequence[Head], training: Split, validation: Split, progress: Progress) -> None:
    """Say which labels the epochs are chosen without."""
    if missing := unmeasured(heads, training, validation):
        progress.on_note(f"Note: no val picture shows {', '.join(missing)}: val says nothing about that.")


def digest_of_start(init: str) -> dict[str, str]:
    """Give the digest of what a network starts from, by its recipe's name or the file's; none of no file."""
    path = Path(init)
    if not path.is_file():
        return {init: ""}
    name = path.name
    # What keeps a card from being read need not keep the weights from it, and is said where they are.
    with contextlib.suppress(EdgecnnError, OSError, msgspec.MsgspecError):
        name = parse(card.recipe).name if (card := model_file.read_card(path)) else name
    return {name: file_sha256(path)}


def at_input_size(model: Any, recipe: Recipe, heads: Sequence[Head]) -> Any:
    """Give the network for pictures of the input's size, with the weights that it learned at another's.

    Returns:
        Another one, or the same if it learned at that size.

    Raises:
        ModelError: If the number of its weights depends on the size.
    """
    if as_learned(recipe).input == recipe.input:
        return model
    resized = build(recipe.model, recipe.input, heads)
    before, after = ([tuple(weight.shape) for weight in one.weights] for one in (model, resized))
    if before != after:
        raise ModelError(
            f"A network of topology {recipe.model.topology} has other weights at {_sides(model)} than at "
            f"{_sides(resized)}: it cannot learn at the one and be used at the other.",
            fix="Leave train.height_px and train.width_px out, or take a network that ends in a mean over "
            "the picture, as MobileNets do.",
        )
    resized.set_weights(model.get_weights())
    for layer, learned in zip(resized.layers, model.layers, strict=True):
        layer.trainable = learned.trainable
    return resized


def measured_again(
    model: Any, heads: Sequence[Head], validation: Split, epoch: Epoch, progress: Progress
) -> Epoch:
    """Give an epoch with what its weights reach on val at the input's size."""
    found = evaluate(model, heads, validation)
    by_head = _beside(found.heads, epoch.heads)
    progress.on_note(f"At {_sides(model)}, on val, and at the size that it learned at: {by_head}")
    return replace(epoch, val_loss=found.loss, val_top1=found.top1, heads=found.heads)


def _beside(found: Mapping[str, float], before: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {100 * value:.2f} % ({100 * before[name]:.2f})" for name, value in found.items()
    )


def _sides(model: Any) -> str:
    return " x ".join(str(side) for side in model.input_shape[1:3])


def mean_with(
    model: Any,
    ingredients: Sequence[Ingredient],
    heads: Sequence[Head],
    validation: Split,
    best: Epoch,
    progress: Progress,
) -> float:
    """Average a model's weights with other trainings', and give the accuracy on val.

    Raises:
        ModelError: If it is clearly lower than this run's own.
    """
    average(model, ingredients)
    found = evaluate(model, heads, validation)
    names = ", ".join(str(one.path) for one in ingredients)
    by_head = _beside(found.heads, best.heads)
    if found.top1 < best.val_top1 - MOST_LOST:
        raise ModelError(
            f"The mean of the weights with {names} is worse on val than this run alone: {by_head}.",
            fix="Average with trainings that started from the same --init only; with --resume and without "
            "--average this run alone becomes the model.",
        )
    progress.on_note(f"Mean of the weights with {names}, on val, and this run alone: {by_head}")
    return found.top1


def finished(out: Path, fresh: RunState, averaged_sha256: Mapping[str, str], resume: bool) -> Trained | None:
    """Find the model that this very run left, when it is resumed after its end.

    Raises:
        ModelError: If another model lies there, which would be lost.
    """
    path = out / "model.h5"
    if not path.exists():
        return None
    card = model_file.read_card(path)
    asked = (*_made_of(fresh), averaged_sha256)
    own = (*_made_of(card), card.averaged_sha256) if card else None
    if not resume or card is None or own != asked:
        raise ModelError(
            f"'{path}' is there already, and training would replace it.",
            fix="Choose another --out, or move that model away.",
        )
    remove(out / "checkpoint")
    history = msgspec.json.decode((out / "history.json").read_bytes(), type=tuple[Epoch, ...])
    return Trained(path, card, history)


def boxes_sha256_of(dataset: Dataset) -> dict[str, str]:
    """Give digests of the files of boxes that were given with data, by their names."""
    return model_file.digests_of((boxes.name, boxes.sha256) for boxes in dataset.boxes)


def tell_other_data(card: model_file.Card, dataset: Dataset, progress: Progress) -> None:
    """Say so if a model was trained on other pictures than these, or with boxes that were not given now."""
    if card.data_sha256 != dataset.digest():
        progress.on_note("Note: these are not the pictures that the model was trained on.")
    given = {boxes.sha256 for boxes in dataset.boxes}
    if missing := [name for name, sha256 in card.boxes_sha256.items() if sha256 not in given]:
        names = ", ".join(sorted(missing))
        progress.on_note(f"Note: the model was trained with the boxes of {names}; give them by --boxes.")


def _made_of(run: RunState | model_file.Card) -> tuple[object, ...]:
    return run.recipe, run.data_sha256, run.init_sha256, run.teachers_sha256, run.boxes_sha256


def centre(model: Any, heads: Sequence[Head], split: Split) -> None:
    """Let 0.5 be the operating point of every label that does not exclude the others; see ``platt``.

    Args:
        model: Trained; its last layers are changed in place.
        heads: Its answers.
        split: As ``split_to_centre_on`` gives it.
    """
    if not all(is_exclusive(head) for head in heads):
        centre_scores(model, heads, answers(model, split.codes), split.targets)


def label_weights(targets: Targets, head: Head, spec: TrainSpec) -> NDArray[np.float32] | None:
    """Weigh labels by the inverse of their count, with a mean of 1 over the pictures that are known.

    Returns:
        Shape (labels,) for a softmax, else (neurons, 2): of absence and presence.
    """
    if spec.class_weights == "none" or head.kind == "heatmap":
        return None
    values = targets.values
    if head.kind == "softmax":
        counts = np.nansum(values, axis=0)
    else:
        counts = np.stack([np.nansum(1 - values, axis=0), np.nansum(values, axis=0)], axis=-1)
    every = counts.sum(axis=-1, keepdims=True)
    return np.asarray(every / (counts.shape[-1] * np.maximum(counts, 1)), np.float32)


def losses_for(heads: Sequence[Head], training: Split, spec: TrainSpec) -> tuple[Loss, ...]:
    """Make the loss of each head, which weighs labels as they are in the training pictures."""
    return tuple(
        loss_for(head, spec.label_smoothing, label_weights(targets, head, spec))
        for head, targets in zip(heads, training.targets, strict=True)
    )


def make_optimizer(spec: TrainSpec, picture_count: int) -> Any:
    """Make the optimizer with its half cosine, after a linear warm-up.

    Source: I. Loshchilov, F. Hutter, "SGDR", ICLR 2017 (without restarts); decoupled weight decay by the
    same authors, ICLR 2019, kernels only.
    """
    steps = -(-picture_count // spec.batch_size)
    warmup_steps = int(spec.warmup_epochs * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else spec.learning_rate,
        decay_steps=max(1, spec.epochs * steps - warmup_steps),
        warmup_target=spec.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    if spec.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(
            rate, momentum=0.9, nesterov=True, weight_decay=spec.weight_decay or None
        )
    else:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=spec.weight_decay)
    if spec.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def freeze(model: Any, heads: Sequence[Head], spec: TrainSpec) -> None:
    """Keep what the recipe wants kept: the old statistics of a pretrained trunk, or all but the heatmaps."""
    for layer in model.layers:
        if spec.freeze == "all_but_heatmaps":
            layer.trainable = is_of_heatmap(layer, heads)
        elif spec.freeze == "batch_norm" and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def thaw(model: Any, spec: TrainSpec) -> None:
    """Let what was frozen learn again but for batch norm, since a saved model keeps it: pruning tunes all."""
    if spec.freeze == "all_but_heatmaps":
        for layer in model.layers:
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)


def is_of_heatmap(layer: Any, heads: Sequence[Head]) -> bool:
    """Say whether a layer serves heatmaps alone."""
    others = {f"{head.name}{LOGITS}" for head in heads if head.kind != "heatmap"}
    return is_head(layer) and layer.name not in others


def started(model: Any, heads: Sequence[Head], recipe: Recipe, init: str, training: Split) -> InitReport:
    """Fill a network with weights from elsewhere.

    Raises:
        ModelError: If they cannot be read or do not fit, or leave a layer to chance that will be frozen.
    """
    rows = np.random.default_rng(recipe.train.seed).permutation(len(training.codes))[:SAMPLE_COUNT]
    report = initialise(model, init, training.codes[np.sort(rows)])
    left = [name for name in report.left if not is_of_heatmap(model.get_layer(name), heads)]
    if recipe.train.freeze == "all_but_heatmaps" and left:
        raise _unlearned(", ".join(left))
    return report


def judge_start(recipe: Recipe, init: str | None, progress: Progress) -> None:
    """Refuse to freeze what nothing taught, and tell of a recipe for weights that know something.

    Raises:
        ModelError: If all but heatmaps is frozen, and there is nothing to start from.
    """
    if init or recipe.train.freeze == "none":
        return
    if recipe.train.freeze == "all_but_heatmaps":
        raise _unlearned("everything but its heatmaps")
    progress.on_note("Note: the recipe is made to start from trained weights, and there is no --init.")


def _unlearned(what: str) -> ModelError:
    return ModelError(
        f'With train.freeze = "all_but_heatmaps" the network stays as it starts, and --init gives no weights '
        f"for {what}.",
        fix="Start from a trained model of the same answers: --init model.h5, or its .tflite.",
    )


def train_head(
    model: Any, heads: Sequence[Head], training: Split, validation: Split, recipe: Recipe
) -> Epoch:
    """Fit the last layers on the features of the trunk, which are computed once; heatmaps learn later.

    Fine-tuning a pretrained trunk under a random head destroys it in the first steps; and where only
    the head is trained, thirty passes over the features cost less than one over the pictures.

    Returns:
        A row of history with number 0.
    """
    began = time.monotonic()
    trunk = features_of(model)
    features = predict(trunk, training.codes)
    if recipe.augment.flip:
        features = np.concatenate([features, predict(trunk, training.codes, flipped=True)])
    flat = [place for place, head in enumerate(heads) if head.kind != "heatmap"]
    copies = len(features) // len(training.codes)
    targets = [np.tile(training.targets[place].values, (copies, 1)) for place in flat]
    entry = keras.Input(features.shape[1:])
    dense = [keras.layers.Dense(heads[place].neuron_count) for place in flat]
    kinds = ["softmax" if heads[place].kind == "softmax" else "sigmoid" for place in flat]
    small = keras.Model(
        entry, [keras.layers.Activation(k)(d(entry)) for k, d in zip(kinds, dense, strict=True)]
    )
    steps = recipe.train.head_epochs * -(-len(features) // 256)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    losses, weights = losses_for(heads, training, recipe.train), weights_of(recipe, heads)
    small.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-2),
        loss=[losses[place] for place in flat],
        loss_weights=[weights[place] for place in flat],
    )
    keras.utils.set_random_seed(recipe.train.seed)
    fit = small.fit(features, targets, batch_size=256, epochs=recipe.train.head_epochs, verbose=0)
    for place, layer in zip(flat, dense, strict=True):
        model.get_layer(f"{heads[place].name}{LOGITS}").set_weights(layer.get_weights())
    found = evaluate(model, heads, validation)
    seconds = time.monotonic() - began
    return Epoch(0, float(fit.history["loss"][-1]), found.loss, found.top1, seconds, 0.0, found.heads)


def train_epoch(
    model: Any,
    heads: Sequence[Head],
    step: Step,
    averages: Averages,
    training: Split,
    validation: Split,
    recipe: Recipe,
    number: int,
    progress: Progress,
) -> Epoch:
    """Train one epoch and measure it on val."""
    began = time.monotonic()
    reset_randomness(model, recipe.train.seed, number)
    tell = functools.partial(progress.on_step, number, recipe.train.epochs)
    loss, share = learn(step, training, recipe, number, tell)
    with averages.applied():
        found = evaluate(model, heads, validation)
    seconds = time.monotonic() - began
    return Epoch(number, loss, found.loss, found.top1, seconds, share, found.heads)


def learn(
    step: Step,
    training: Split,
    recipe: Recipe,
    number: int,
    tell: Callable[[int, int, float], None],
) -> tuple[float, float]:
    """Show every training picture once.

    Args:
        step: Learns from a batch and gives its loss.
        training: The pictures.
        recipe: Batch size, augmentation and seed are taken from it.
        number: Of the epoch.
        tell: Hears the number of each batch, how many there are, and the mean loss so far.

    Returns:
        The mean loss, and the share of the time that was spent waiting for pictures.

    Raises:
        ModelError: If the loss is no number any more.
    """
    spec = recipe.train
    batches = training_batches(
        training.codes, training.targets, spec.batch_size, recipe.augment, spec.seed, number
    )
    meter = WaitMeter(batches)
    total = -(-len(training.codes) // spec.batch_size)
    loss_sum, picture_count = 0.0, 0
    for position, (pictures, targets) in enumerate(meter):
        loss = float(step(pictures, targets))
        if not np.isfinite(loss):
            raise ModelError(
                f"Training diverged: the loss became {loss} in epoch {number}.",
                fix="Lower train.learning_rate, or set train.warmup_epochs = 1; a model that is "
                "fine-tuned takes it from its own training ('prune --channels' has --learning-rate).",
            )
        loss_sum += loss * len(pictures)
        picture_count += len(pictures)
        tell(position + 1, total, loss_sum / picture_count)
    return loss_sum / picture_count, meter.share


def reset_randomness(model: Any, seed: int, epoch: int) -> None:
    """Let dropout in this epoch depend on nothing but the seed and the epoch."""
    for index, layer in enumerate(model._flatten_layers()):
        generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
        if generator is not None:
            # The index keeps two dropout layers of one shape from dropping the same neurons.
            (own,) = np.random.SeedSequence([seed, epoch, index]).generate_state(1)
            generator.reset_from_seed(int(own))


def draw_curve(history: tuple[Epoch, ...], path: Path) -> None:
    """Draw loss and accuracy over the epochs as an SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [e.number for e in history]
    left.plot(numbers, [e.loss for e in history], marker=".", label="all that a batch teaches, augmented")
    left.plot(numbers, [e.val_loss for e in history], marker=".", label="val")
    left.set(xlabel="epoch", ylabel="cross entropy")
    left.legend(frameon=False)
    right.plot(numbers, [100 * e.val_top1 for e in history], marker=".", color="tab:orange")
    right.set(xlabel="epoch", ylabel="val accuracy (%)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, metadata={"Date": None})
