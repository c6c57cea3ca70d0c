"""Training that can be killed at any moment and goes on where it stood."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head, head_for
from edgecnn.errors import ModelError
from edgecnn.measure.accuracy import decide
from edgecnn.workstation import model_file
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.checkpoint import Epoch, RunState, keep, remove, restore, start
from edgecnn.workstation.data.catalog import Dataset
from edgecnn.workstation.data.pipeline import WaitMeter, codes_of, labels_of, training_batches
from edgecnn.workstation.models.weights import initialise
from edgecnn.workstation.models.zoo import build, features_of
from edgecnn.workstation.recipe import Recipe, TrainSpec

Codes = NDArray[np.uint8]
Labels = NDArray[np.int64]

SAMPLE_COUNT = 256
"""Pictures that give the batch-norm statistics of weights from elsewhere."""


@dataclass(frozen=True, slots=True)
class Split:
    """Pictures as the model eats them, with the index of each label."""

    codes: Codes
    labels: Labels


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
) -> Trained:
    """Train a recipe's network; the best epoch on val is kept.

    Args:
        recipe: What to train.
        text: The recipe as written; goes into the model file.
        dataset: With the splits train and val.
        out: Folder for ``model.h5``, ``history.json``, ``curve.svg`` and, until the end, ``checkpoint/``.
        init: ``imagenet``, or a file with weights to start from.
        resume: Go on with the run that was killed in ``out``.
        progress: Whom to tell.

    Returns:
        Where the model lies and how training went.

    Raises:
        DataError: If a split is missing or a picture is broken.
        ModelError: If the network cannot be built or started, or ``out`` holds another run.
    """
    progress = progress or Progress()
    head = head_for(dataset.labels, recipe.head)
    if len(head.labels) < 2:
        raise ModelError(
            f"Training needs at least two labels; the data has {len(head.labels)}: {', '.join(head.labels)}.",
            fix="Add a folder of pictures that show something else.",
        )
    checkpoint = out / "checkpoint"
    fresh = RunState(text, dataset.digest(), init or "")
    if done := finished(out, fresh, resume):
        return done
    state = start(out, fresh, resume)
    progress.on_note(f"Reading {len(dataset.split('train'))} training pictures")
    training = read_split(dataset, "train", recipe.input, head)
    validation = read_split(dataset, "val", recipe.input, head)
    # The best epoch's weights do not depend on the run before it being in this process.
    keras.utils.set_random_seed(recipe.train.seed)
    model = build(recipe.model, recipe.input, [head])
    if init and not state.history:
        sample = np.random.default_rng(recipe.train.seed).permutation(len(training.codes))[:SAMPLE_COUNT]
        progress.on_note(str(initialise(model, init, training.codes[np.sort(sample)])))
    optimizer = make_optimizer(recipe.train, len(training.codes))
    freeze(model, recipe.train)
    compile_for(model, head, optimizer, recipe.train)
    tracker = tf.train.Checkpoint(model=model, optimizer=optimizer)
    optimizer.build(model.trainable_variables)
    if state.history:
        restore(tracker, checkpoint / state.weights)
    for number in range(state.next_epoch, recipe.train.epochs + 1):
        if number == 0:
            if not recipe.train.head_epochs:
                continue
            row = train_head(model, head, training, validation, recipe)
        else:
            row = train_epoch(model, head, training, validation, recipe, number, progress)
        state = keep(checkpoint, tracker, model, state, row)
        progress.on_epoch(row)
    if not state.history:
        raise ModelError(
            "The recipe trains nothing: epochs and head_epochs are both 0.",
            fix="Set train.epochs to at least 1.",
        )
    model.load_weights(str(checkpoint / f"best-{state.best:04d}.weights.h5"))
    best = next(e for e in state.history if e.number == state.best)
    card = model_file.Card(
        text, (head,), state.data_sha256, sum(e.seconds for e in state.history), best.number, best.val_top1
    )
    # The model comes last: where it lies, the run is finished.
    (out / "history.json").write_bytes(msgspec.json.format(msgspec.json.encode(state.history), indent=1))
    draw_curve(state.history, out / "curve.svg")
    model_file.save(model, out / "model.h5", card)
    remove(checkpoint)
    return Trained(out / "model.h5", card, state.history)


def finished(out: Path, fresh: RunState, resume: bool) -> Trained | None:
    """Find the model that this very run left, when it is resumed after its end.

    Raises:
        ModelError: If another model lies there, which would be lost.
    """
    path = out / "model.h5"
    if not path.exists():
        return None
    card = model_file.read_card(path)
    if not resume or card is None or (card.recipe, card.data_sha256) != (fresh.recipe, fresh.data_sha256):
        raise ModelError(
            f"'{path}' is there already, and training would replace it.",
            fix="Choose another --out, or move that model away.",
        )
    remove(out / "checkpoint")
    history = msgspec.json.decode((out / "history.json").read_bytes(), type=tuple[Epoch, ...])
    return Trained(path, card, history)


def read_split(dataset: Dataset, split: str, spec: InputSpec, head: Head) -> Split:
    """Read one split as the model eats it."""
    pictures = dataset.split(split)
    return Split(codes_of(pictures, spec), labels_of(pictures, head.labels))


def targets_of(labels: Labels, head: Head) -> NDArray[np.float32]:
    """Give the numbers that the last layer should give: shape (count, neurons).

    Example:
        >>> targets_of(np.array([1, 0]), Head("fire", "sigmoid", ("no", "yes"))).tolist()
        [[1.0], [0.0]]
    """
    if head.is_binary:
        return labels[:, None].astype(np.float32)
    return np.eye(len(head.labels), dtype=np.float32)[labels]


def loss_for(head: Head, smoothing: float) -> Any:
    """Cross entropy, for one sigmoid neuron or a softmax."""
    kind = keras.losses.BinaryCrossentropy if head.kind == "sigmoid" else keras.losses.CategoricalCrossentropy
    return kind(label_smoothing=smoothing)


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


def freeze(model: Any, spec: TrainSpec) -> None:
    """Keep what the recipe wants kept: batch norm of a pretrained trunk runs on its old statistics."""
    if spec.freeze == "batch_norm":
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False


def compile_for(model: Any, head: Head, optimizer: Any, spec: TrainSpec) -> None:
    """Tie the model to its loss."""
    model.compile(optimizer, loss=loss_for(head, spec.label_smoothing))


def train_head(model: Any, head: Head, training: Split, validation: Split, recipe: Recipe) -> Epoch:
    """Fit the last layer on the features of the trunk, which are computed once.

    Fine-tuning a pretrained trunk under a random head destroys it in the first steps; and where only
    the head is trained, thirty passes over the features cost less than one over the pictures.

    Returns:
        A row of history with number 0.
    """
    began = time.monotonic()
    trunk = features_of(model)
    logits = model.get_layer(f"{head.name}_logits")
    codes = [training.codes, training.codes[:, :, ::-1]] if recipe.augment.flip else [training.codes]
    features = np.concatenate([predict(trunk, part) for part in codes])
    targets = np.tile(targets_of(training.labels, head), (len(codes), 1))
    entry = keras.Input(features.shape[1:])
    dense = keras.layers.Dense(head.neuron_count)
    activation = "sigmoid" if head.kind == "sigmoid" else "softmax"
    small = keras.Model(entry, keras.layers.Activation(activation)(dense(entry)))
    steps = recipe.train.head_epochs * -(-len(features) // 256)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    small.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-2), loss=loss_for(head, recipe.train.label_smoothing)
    )
    keras.utils.set_random_seed(recipe.train.seed)
    fit = small.fit(
        features, targets, batch_size=256, epochs=recipe.train.head_epochs, verbose=0,
        class_weight=class_weights(training.labels, head, recipe.train),
    )  # fmt: skip
    logits.set_weights(dense.get_weights())
    val_loss, val_top1 = evaluate(model, head, validation)
    return Epoch(0, float(fit.history["loss"][-1]), val_loss, val_top1, time.monotonic() - began, 0.0)


def train_epoch(
    model: Any,
    head: Head,
    training: Split,
    validation: Split,
    recipe: Recipe,
    number: int,
    progress: Progress,
) -> Epoch:
    """Train one epoch and measure it on val."""
    began = time.monotonic()
    spec = recipe.train
    reset_randomness(model, spec.seed, number)
    batches = training_batches(
        training.codes, targets_of(training.labels, head), spec.batch_size, recipe.augment, spec.seed, number
    )
    meter = WaitMeter(batches)
    total = -(-len(training.codes) // spec.batch_size)
    weights = class_weights(training.labels, head, spec)
    loss_sum, picture_count = 0.0, 0
    for position, (pictures, targets) in enumerate(meter):
        loss = model.train_on_batch(pictures, targets, class_weight=weights)
        if not np.isfinite(loss):
            raise ModelError(
                f"Training diverged: the loss became {loss} in epoch {number}.",
                fix="Lower train.learning_rate, or set train.warmup_epochs = 1.",
            )
        loss_sum += float(loss) * len(pictures)
        picture_count += len(pictures)
        progress.on_step(number, spec.epochs, position + 1, total, loss_sum / picture_count)
    val_loss, val_top1 = evaluate(model, head, validation)
    seconds = time.monotonic() - began
    return Epoch(number, loss_sum / picture_count, val_loss, val_top1, seconds, meter.share)


def reset_randomness(model: Any, seed: int, epoch: int) -> None:
    """Let dropout in this epoch depend on nothing but the seed and the epoch."""
    for index, layer in enumerate(model._flatten_layers()):
        generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
        if generator is not None:
            # The index keeps two dropout layers of one shape from dropping the same neurons.
            (own,) = np.random.SeedSequence([seed, epoch, index]).generate_state(1)
            generator.reset_from_seed(int(own))


def class_weights(labels: Labels, head: Head, spec: TrainSpec) -> dict[int, float] | None:
    """Weigh classes by the inverse of their count, with a mean of 1 over the pictures."""
    if spec.class_weights == "none":
        return None
    counts = np.bincount(labels, minlength=len(head.labels))
    return {i: len(labels) / (len(counts) * max(1, int(n))) for i, n in enumerate(counts)}


def predict(model: Any, codes: Codes, batch_size: int = 128) -> NDArray[np.float32]:
    """Run a Keras model on raw codes, in order: shape (count, ...)."""
    starts = range(0, len(codes), batch_size)
    run = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
    return np.concatenate([run(codes[i : i + batch_size].astype(np.float32)).numpy() for i in starts])


def evaluate(model: Any, head: Head, split: Split) -> tuple[float, float]:
    """Give the loss and the share of pictures whose label is right."""
    scores = predict(model, split.codes)
    loss = float(loss_for(head, 0.0)(targets_of(split.labels, head), scores))
    return loss, float(np.mean(decisions(scores, head) == split.labels))


def decisions(scores: NDArray[np.float32], head: Head) -> Labels:
    """Decide for a label by what the last layer gives, shape (count, neurons), as the device does."""
    every = np.concatenate([1 - scores, scores], axis=-1) if head.is_binary else scores
    return np.asarray(np.argmax(decide(every, head, {}), axis=-1), np.int64)


def draw_curve(history: tuple[Epoch, ...], path: Path) -> None:
    """Draw loss and accuracy over the epochs as an SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [e.number for e in history]
    left.plot(numbers, [e.loss for e in history], marker=".", label="train, augmented")
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
