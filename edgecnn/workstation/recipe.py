"""The recipe: everything that decides how a model comes out, in one TOML file."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.resources
import json
import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgecnn.core import settings
from edgecnn.core.frame import InputSpec
from edgecnn.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:  # tomllib came with 3.11
    import tomli as tomllib

Topology = Literal["layers", "lenet", "resnet8", "alexnet", "vgg16", "mobilenet_v1", "mobilenet_v2"]
Activation = Literal["linear", "relu", "relu6", "tanh", "sigmoid"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a ``layers`` network, as a student writes it.

    Attributes:
        kind: What it does.
        filters: Output channels of a ``conv``.
        units: Neurons of a ``dense``.
        kernel: Side of the window in pixels, of ``conv``, ``depthwise`` and the pools.
        stride: Step of the window; 0 stands for 1, and for the kernel in a pool.
        padding: ``same`` keeps the size (at stride 1), ``valid`` adds nothing at the border.
        activation: Applied to the output of ``conv``, ``depthwise``, ``dense`` and ``batch_norm``.
        rate: Share of ``dropout``.
    """

    kind: Literal[
        "conv", "depthwise", "max_pool", "average_pool", "global_average_pool",
        "flatten", "dense", "dropout", "batch_norm",
    ]  # fmt: skip
    filters: int = 0
    units: int = 0
    kernel: int = 3
    stride: int = 0
    padding: Literal["same", "valid"] = "same"
    activation: Activation = "linear"
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which network.

    Attributes:
        topology: Its name; ``layers`` builds what ``layers`` lists.
        width: Multiplier of the channels, of every topology but ``layers``.
        dropout: Share dropped before the last layer, where the topology has dropout.
        normalization: Of AlexNet: ``batch_norm`` unless it is its own ``lrn``, which int8 cannot hold. Of
            VGG-16: ``batch_norm``, or none as in the paper.
        dense_units: Of AlexNet's and VGG-16's two hidden dense layers; 4096 in the papers.
        layers: For ``topology = "layers"``, without the output layer, which follows from the labels.
        top_down: Whether a heatmap of a MobileNet reads finer maps and a coarser one beside its own.
    """

    topology: Topology
    width: float = 1.0
    dropout: float = 0.2
    normalization: Literal["lrn", "batch_norm"] | None = None
    dense_units: int = 4096
    layers: tuple[Layer, ...] = ()
    top_down: bool = False


@dataclass(frozen=True, slots=True)
class Augment:
    """How far training pictures are varied; 0 leaves them alone.

    Attributes:
        flip: Mirror every second picture left to right.
        rotate_degrees: Largest turn either way.
        zoom: Largest relative change of scale: 0.2 gives 0.8 to 1.2.
        shift: Largest move, as a share of the side.
        brightness: Largest relative change.
        contrast: Largest relative change.
        saturation: Largest relative change.
        hue_degrees: Largest turn of the colour wheel.
        blur_px: Largest standard deviation of a Gaussian blur.
        noise: Largest standard deviation of Gaussian noise, in byte values.
        jpeg: Recompress every second picture at a quality drawn from 30 to 95.
        erase: Largest share of the picture that a grey rectangle covers.
        crop: Least share of the area that a random cut-out keeps; it is then enlarged to the full picture.
        exposure: Largest gamma either way, as a natural logarithm: 0.5 gives a gamma of 0.61 to 1.65.
        white_balance: Largest gain of red and blue either way, likewise.
        grey: Share of the pictures that lose their colour, as a camera does at night under infrared light.
        shrink: Largest share of the resolution that is lost, as of a small picture of something far away.
        motion_px: Longest way that the camera moves while the shutter is open.
        mosaic: Show every four pictures as one too, each at half its size: independent labels, and
            heatmaps that stand alone, learn from them too; a heatmap beside other heads does in any case.
    """

    flip: bool = False
    rotate_degrees: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue_degrees: float = 0.0
    blur_px: float = 0.0
    noise: float = 0.0
    jpeg: bool = False
    erase: float = 0.0
    crop: float = 0.0
    exposure: float = 0.0
    white_balance: float = 0.0
    grey: float = 0.0
    shrink: float = 0.0
    motion_px: float = 0.0
    mosaic: bool = False


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """How it is trained.

    Attributes:
        epochs: Passes over the training pictures with all thawed layers; 0 trains the head alone.
        head_epochs: First train only the last layers, but those of heatmaps, on the features of a frozen
            trunk, computed once.
        batch_size: Pictures a step.
        optimizer: ``adam`` or ``sgd`` (momentum 0.9, Nesterov).
        learning_rate: At the start; falls to 0 along a half cosine.
        warmup_epochs: Epochs over which the rate first rises from 0.
        weight_decay: Decoupled, on kernels only.
        label_smoothing: Share of the target spread over the other labels.
        freeze: ``batch_norm`` keeps the statistics of a pretrained trunk; ``all_but_heatmaps`` all that its
            other answers come from.
        class_weights: ``balanced`` weighs classes by the inverse of their count.
        ema: Momentum of the moving average of the weights that becomes the model; 0 takes the last ones.
        keep: Which epoch becomes the model: the ``best`` on val, or the ``last``, where val is so small that
            its noise would choose.
        height_px: Of the pictures that it learns from, where that is not the input's; 0 where it is. Crops
            make things look larger while a network learns than when it is asked, so that it is better at a
            larger input than the one it learned at, and quicker to train (H. Touvron et al., "Fixing the
            train-test resolution discrepancy", NeurIPS 2019).
        width_px: Likewise.
        seed: Of everything that is random.
    """

    epochs: int = 10
    head_epochs: int = 0
    batch_size: int = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    freeze: Literal["none", "batch_norm", "all_but_heatmaps"] = "none"
    class_weights: Literal["none", "balanced"] = "none"
    ema: float = 0.0
    keep: Literal["best", "last"] = "best"
    height_px: int = 0
    width_px: int = 0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """One answer of a network that has several, and what the folders of the data say about it.

    A picture of a folder that is named nowhere says nothing, and is left out of this answer's loss.

    Attributes:
        name: Of the answer.
        kind: ``softmax``: one of the labels; ``sigmoid``: each label by itself; ``heatmap``: likewise, in
            each cell of a grid.
        classes: Label -> folders whose pictures show it, in the order of the output.
        negatives: Label -> folders whose pictures do not show it. A softmax has none: its labels exclude
            each other.
        weight: Of its loss in the sum.
    """

    name: str
    kind: Literal["softmax", "sigmoid", "heatmap"]
    classes: Mapping[str, tuple[str, ...]]
    negatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Lookalikes:
    """Rendered pictures of what only looks like fire or smoke; others of them are for the thresholds.

    Attributes:
        count: How many.
        seed: Of the generator.
        onto: Folders of the pictures that they are painted into; without any, scenery is rendered.
        nights: Whether fireworks and cities at night are among them.
    """

    count: int = 0
    seed: int = 1
    onto: tuple[str, ...] = ()
    nights: bool = False


@dataclass(frozen=True, slots=True)
class Pasted:
    """Training pictures with flames and smoke put into them, so that their place is known.

    Attributes:
        count: How many.
        seed: Of the generator.
        onto: Folders of the pictures that they are put into; these must show neither fire nor smoke.
        real: Whether half of the fires are made of flames cut out of the boxes of training pictures.
    """

    count: int = 0
    seed: int = 1
    onto: tuple[str, ...] = ()
    real: bool = False


@dataclass(frozen=True, slots=True)
class Distill:
    """How much is learned from the answers of a teacher, if one is given.

    Attributes:
        weight: Of the teacher's answers against the labels.
        temperature: By which both sides' logits are divided.
    """

    weight: float = 0.5
    temperature: float = 2.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides how a model comes out.

    Attributes:
        name: Short; becomes the model's name.
        input: What the model eats.
        model: Which network.
        train: How it is trained.
        augment: How training pictures are varied.
        classes: Label -> folders of the data that belong to it, in the order of the output; empty
            takes the folders as they are, sorted.
        head: Name of the answer.
        heads: Several answers, or labels that do not exclude each other; instead of ``classes`` and
            ``head``.
        leave_out: Globs on file names: these pictures are neither trained nor chosen on, and become the
            split ``left_out``.
        lookalikes: Rendered pictures that are trained on too.
        pasted: Likewise.
        distill: How much a teacher says.
        calibration_count: Pictures in the calibration list.
        description: One sentence for people.
        licence: Of the model.
    """

    name: str
    input: InputSpec
    model: ModelSpec
    train: TrainSpec = TrainSpec()
    augment: Augment = Augment()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    head: str = "label"
    heads: tuple[HeadSpec, ...] = ()
    leave_out: tuple[str, ...] = ()
    lookalikes: Lookalikes = Lookalikes()
    pasted: Pasted = Pasted()
    distill: Distill = Distill()
    calibration_count: int = 200
    description: str = ""
    licence: str = ""


def built_in() -> tuple[str, ...]:
    """Name the recipes that ship with edgecnn."""
    folder = importlib.resources.files("edgecnn.workstation") / "recipes"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")))


def load(name_or_path: str) -> tuple[Recipe, str]:
    """Read a recipe, by the path of a TOML file or by the name of one that ships with edgecnn.

    Returns:
        The recipe, and its text as written.

    Raises:
        RecipeError: If there is none, or if a key or value in it is wrong.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"The recipe '{path}' cannot be read: {error}.",
                fix=f"Check the path, or use a built-in recipe: {', '.join(built_in())}.",
            ) from error
    elif name_or_path in built_in():
        folder = importlib.resources.files("edgecnn.workstation") / "recipes"
        text = (folder / f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        raise RecipeError(
            f"There is no recipe '{name_or_path}'.",
            fix=f"Give the path of a .toml file, or one of: {', '.join(built_in())}.",
        )
    return parse(text), text


def parse(text: str) -> Recipe:
    r"""Read a recipe from TOML text.

    Raises:
        RecipeError: Names the key that is unknown, with the nearest valid one, or the value that does
            not fit.

    Example:
        >>> text = 'name = "x"\n[input]\nheight_px = 8\nwidth_px = 8\n[model]\ntopology = "lenet"'
        >>> parse(text).input.height_px
        8
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The recipe is not valid TOML: {error}.", fix="Mend that line.") from error
    see = "Compare it with a recipe that ships with edgecnn, or see docs/recipes.md."
    recipe = settings.convert(table, Recipe, "recipe", see)
    _refuse_impossible_values(recipe)
    return recipe


def folders_of(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Say which folders of the data are opened, and under which label: with several heads, their own name.

    Example:
        >>> fire = HeadSpec("fire", "sigmoid", {"fire": ("fire",)}, {"fire": ("no_fire",)})
        >>> folders_of(Recipe("x", InputSpec(8, 8), ModelSpec("lenet"), heads=(fire,)))
        {'fire': ('fire',), 'no_fire': ('no_fire',)}
    """
    if not recipe.heads:
        return dict(recipe.classes)
    named = (
        folder
        for head in recipe.heads
        for by_label in (head.classes, head.negatives)
        for folders in by_label.values()
        for folder in folders
    )
    return {folder: (folder,) for folder in dict.fromkeys(named)}


def as_learned(recipe: Recipe) -> Recipe:
    """Give the recipe with the size of the pictures that it learns from for its input."""
    height_px, width_px = recipe.train.height_px, recipe.train.width_px
    if not height_px:
        return recipe
    return dataclasses.replace(
        recipe, input=dataclasses.replace(recipe.input, height_px=height_px, width_px=width_px)
    )


def with_leave_out(recipe: Recipe, text: str, globs: Sequence[str]) -> tuple[Recipe, str]:
    """Leave further pictures out, in the recipe and in its text, so that the model file tells the truth."""
    if not globs:
        return recipe, text
    every = (*recipe.leave_out, *globs)
    kept = [line for line in text.splitlines() if line.split("=")[0].strip() != "leave_out"]
    new = dataclasses.replace(recipe, leave_out=every)
    globs_text = json.dumps(every, ensure_ascii=False)
    return new, _text_of(new, [f"leave_out = {globs_text}", *kept], "leave_out", "--leave-out")


def _text_of(new: Recipe, lines: Sequence[str], key: str, option: str) -> str:
    """Join the changed lines of a recipe.

    Raises:
        RecipeError: If they do not say what the changed recipe is, as those of a key on several lines do not.
    """
    text = "\n".join(lines) + "\n"
    with contextlib.suppress(RecipeError):
        if parse(text) == new:
            return text
    raise RecipeError(
        f"{key} cannot be changed in this recipe's text.",
        fix=f"Change {key} in the file instead of giving {option}.",
    )


def with_epochs(recipe: Recipe, text: str, epochs: int) -> tuple[Recipe, str]:
    """Change the number of epochs, in the recipe and in its text, so that the model file tells the truth.

    Raises:
        RecipeError: If the text cannot be changed safely.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.partition("#")[0].strip() == "[train]"), None)
    if start is None:
        changed = [*lines, "", "[train]", f"epochs = {epochs}"]
    else:
        end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("[")), len(lines))
        body = [line for line in lines[start + 1 : end] if line.split("=")[0].strip() != "epochs"]
        changed = [*lines[: start + 1], f"epochs = {epochs}", *body, *lines[end:]]
    new = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, epochs=epochs))
    return new, _text_of(new, changed, "train.epochs", "--epochs")


_RANGES: dict[str, tuple[float, float]] = {
    "input.height_px": (1, 8192),
    "input.width_px": (1, 8192),
    "model.width": (0.01, 16),
    "model.dropout": (0, 0.99),
    "model.dense_units": (1, 65_536),
    "train.epochs": (0, 100_000),
    "train.head_epochs": (0, 100_000),
    "train.batch_size": (1, 65_536),
    "train.learning_rate": (1e-12, 1e30),
    "train.warmup_epochs": (0, 1000),
    "train.weight_decay": (0, 1),
    "train.label_smoothing": (0, 0.99),
    "train.height_px": (0, 8192),
    "train.width_px": (0, 8192),
    "train.seed": (0, 2**32 - 1),
    "augment.rotate_degrees": (0, 180),
    "augment.zoom": (0, 0.99),
    "augment.shift": (0, 1),
    "augment.brightness": (0, 1),
    "augment.contrast": (0, 1),
    "augment.saturation": (0, 1),
    "augment.hue_degrees": (0, 180),
    "augment.blur_px": (0, 100),
    "augment.noise": (0, 255),
    "augment.erase": (0, 0.99),
    "augment.crop": (0, 1),
    "augment.exposure": (0, 3),
    "augment.white_balance": (0, 1),
    "augment.grey": (0, 1),
    "augment.shrink": (0, 0.95),
    "augment.motion_px": (0, 100),
    "train.ema": (0, 0.999999),
    "lookalikes.count": (0, 1_000_000),
    "lookalikes.seed": (0, 2**31 - 1),
    "pasted.count": (0, 1_000_000),
    "pasted.seed": (0, 2**32 - 1),
    "distill.weight": (0, 1),
    "distill.temperature": (0.01, 100),
    "calibration_count": (1, 1_000_000),
}
"""The least and the largest value of every number, by key."""


def _refuse_impossible_values(recipe: Recipe) -> None:
    for key, (least, largest) in _RANGES.items():
        value = operator.attrgetter(key)(recipe)
        if not least <= value <= largest:  # false for nan too
            raise RecipeError(
                f"'{key}' must be from {least:g} to {largest:g}; found {value:g}.", fix=f"Correct '{key}'."
            )
    if (recipe.model.topology == "layers") != bool(recipe.model.layers):
        raise RecipeError(
            '[[model.layers]] and topology = "layers" belong together; found only one of them.',
            fix='Set topology = "layers" and list the layers, or remove the list.',
        )
    owners = {"lrn": ("alexnet",), "batch_norm": ("alexnet", "vgg16")}.get(recipe.model.normalization or "")
    if owners and recipe.model.topology not in owners:
        raise RecipeError(
            f'normalization = "{recipe.model.normalization}" belongs to {" and ".join(owners)}; '
            f"found it with {recipe.model.topology}.",
            fix="Leave normalization out.",
        )
    has_heatmap = any(head.kind == "heatmap" for head in recipe.heads)
    if recipe.model.top_down and not (has_heatmap and recipe.model.topology.startswith("mobilenet")):
        raise RecipeError(
            "model.top_down makes the heatmap of a MobileNet finer, and the recipe asks for none.",
            fix="Leave top_down out.",
        )
    _refuse_impossible_training(recipe, has_heatmap)
    if recipe.heads and (recipe.classes or recipe.head != "label"):
        raise RecipeError(
            "[[heads]] says all about the answers; found head or [classes] beside it.",
            fix="Move them into [[heads]], or remove [[heads]].",
        )
    for head in recipe.heads:
        _refuse_impossible_head(head)
    _refuse_two_meanings(recipe.heads)
    _refuse_heads_that_learn_nothing(recipe)
    if recipe.pasted.count and not recipe.pasted.onto:
        raise RecipeError(
            "[pasted] does not say which pictures flames are put into.",
            fix='Name folders without fire and smoke, for instance onto = ["no_fire"].',
        )


def _refuse_impossible_training(recipe: Recipe, has_heatmap: bool) -> None:
    if bool(recipe.train.height_px) != bool(recipe.train.width_px):
        raise RecipeError(
            "train.height_px and train.width_px belong together; found only one of them.",
            fix="Give both, or leave both out.",
        )
    if recipe.train.freeze == "all_but_heatmaps" and (recipe.train.head_epochs or not has_heatmap):
        found = f"head_epochs = {recipe.train.head_epochs}" if has_heatmap else "no heatmap"
        raise RecipeError(
            f'With train.freeze = "all_but_heatmaps" a heatmap learns and nothing else; found {found}.',
            fix="Leave freeze out, or set head_epochs = 0 and add a head of kind heatmap.",
        )


def _refuse_heads_that_learn_nothing(recipe: Recipe) -> None:
    kinds = {head.kind for head in recipe.heads}
    if recipe.augment.mosaic and kinds <= {"softmax"}:
        raise RecipeError(
            "[augment] mosaic teaches independent labels and heatmaps, and the recipe asks for neither.",
            fix="Leave mosaic out, or add a [[heads]] of the kind sigmoid or heatmap.",
        )
    if recipe.train.head_epochs and kinds == {"heatmap"}:
        raise RecipeError(
            "train.head_epochs trains last layers on the trunk's features, which tell a heatmap nothing; the "
            "recipe asks for nothing else.",
            fix="Leave head_epochs out: a heatmap learns together with the trunk.",
        )
    if not recipe.train.epochs and "heatmap" in kinds:
        raise RecipeError(
            "train.epochs = 0 trains last layers on the trunk's features, which tell a heatmap nothing.",
            fix="Set train.epochs to at least 1, or leave the heatmap out.",
        )


def _refuse_two_meanings(heads: Sequence[HeadSpec]) -> None:
    """Refuse a label that two heads find in other folders: a model file names them once a label."""
    known: dict[str, tuple[HeadSpec, set[str], set[str]]] = {}
    for head in heads:
        for label, folders in head.classes.items():
            meaning = (head, set(folders), set(head.negatives.get(label, ())))
            first = known.setdefault(label, meaning)
            if first[1:] != meaning[1:]:
                raise RecipeError(
                    f"Label '{label}' has other folders in head '{head.name}' than in '{first[0].name}'.",
                    fix="Name the same folders under classes and negatives in both, or rename one label.",
                )


def _refuse_impossible_head(head: HeadSpec) -> None:
    strange = [label for label in head.negatives if label not in head.classes]
    if strange or (head.kind == "softmax" and head.negatives):
        raise RecipeError(
            f"Head '{head.name}' has negatives of {', '.join(strange) or 'a softmax'}.",
            fix="Name folders under negatives for labels of classes only, and for no softmax.",
        )
    if not 0 < head.weight <= 1000:
        raise RecipeError(
            f"The weight of head '{head.name}' must be above 0 and at most 1000; found {head.weight:g}.",
            fix="Leave it out for 1.",
        )
    for label, folders in head.classes.items():
        shared = sorted(set(folders) & set(head.negatives.get(label, ())))
        if shared or not folders:
            raise RecipeError(
                f"Label '{label}' of head '{head.name}' "
                + (f"both shows and does not show in '{shared[0]}'." if shared else "has no folder."),
                fix="Name each folder once, under classes or under negatives.",
            )
    if head.kind == "softmax":
        every = [folder for folders in head.classes.values() for folder in folders]
        if len(set(every)) < len(every):
            raise RecipeError(
                f"A folder belongs to two labels of the softmax '{head.name}'.",
                fix="Name it once, or make the head a sigmoid.",
            )
