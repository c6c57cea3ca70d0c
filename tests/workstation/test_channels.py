"""Channel pruning: the cut is exact, the choice is sensible, and what remains is an ordinary model."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blobs import RECIPE
from click.testing import CliRunner
from disks import small_disk

from edgecnn.bundle import file as files
from edgecnn.cli.workstation import prune as prune_command
from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.backend import keras, tf
from edgecnn.workstation.channels import rounds as channel_rounds
from edgecnn.workstation.channels.allocation import LEAST, MULTIPLE, Price, allocate
from edgecnn.workstation.channels.graph import ChannelGraph, Keep, analyse
from edgecnn.workstation.channels.importance import importance
from edgecnn.workstation.channels.rounds import CutState, Rounds, rounds_of
from edgecnn.workstation.channels.shrink import distilled, shrink
from edgecnn.workstation.channels.surgery import cut
from edgecnn.workstation.cluster import cluster
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.catalog import Dataset, open_dataset
from edgecnn.workstation.data.targets import SOMEWHERE, Targets
from edgecnn.workstation.losses import loss_for
from edgecnn.workstation.models.zoo import build, listed, summary
from edgecnn.workstation.prune import open_parent, prune, sparsity_of
from edgecnn.workstation.quality import Quality, evaluate
from edgecnn.workstation.recipe import ModelSpec, load, parse
from edgecnn.workstation.split import Split, read_split
from edgecnn.workstation.train import Progress, train

HEAD = Head("label", "softmax", ("a", "b", "c"))
THREE_HEADS = (
    HEAD,
    Head("danger", "sigmoid", ("fire", "smoke"), independent=True),
    Head("where", "heatmap", ("fire", "smoke")),
)
layers = keras.layers

TOPOLOGIES = {
    "lenet": (ModelSpec("lenet", width=4.0), 28),
    "resnet8": (ModelSpec("resnet8"), 32),
    "alexnet": (ModelSpec("alexnet", width=0.25, dense_units=64), 96),
    "vgg16": (ModelSpec("vgg16", width=0.25, dense_units=64), 64),
    "mobilenet_v1": (ModelSpec("mobilenet_v1", width=0.25), 64),
    "mobilenet_v2": (ModelSpec("mobilenet_v2", width=0.35), 64),
    "layers": (load("demo")[0].model, 64),
}


def unsettle(model: Any, rng: np.random.Generator) -> None:
    """Give batch norm, biases and heatmaps values that a trained network might have: nothing cancels."""
    for layer in model.layers:
        weights = [w if w.any() else rng.uniform(-0.1, 0.1, w.shape) for w in layer.get_weights()]
        if isinstance(layer, layers.BatchNormalization):
            weights = [rng.uniform(0.5, 1.5, w.shape) for w in weights]
        layer.set_weights([rng.uniform(-0.1, 0.1, w.shape) if "bias" in v.name else w
                           for w, v in zip(weights, layer.weights, strict=True)])  # fmt: skip


def ignore(model: Any, graph: ChannelGraph, gone: Keep) -> None:
    """Set every weight to zero by which a unit that goes is read."""
    for name, coupling in graph.couplings.items():
        if coupling.is_dense:
            kernel, *rest = model.get_layer(name).get_weights()
            kernel[..., gone[coupling.reads], :] = 0
            model.get_layer(name).set_weights([kernel, *rest])


def largest_difference(first: Any, second: Any, shape: tuple[int, ...]) -> float:
    pictures = np.random.default_rng(3).uniform(0, 255, (4, *shape)).astype(np.float32)
    pairs = zip(listed(first(pictures)), listed(second(pictures)), strict=True)
    return max(float(np.abs(one.numpy() - other.numpy()).max()) for one, other in pairs)


@pytest.mark.parametrize("heads", [(HEAD,), THREE_HEADS], ids=["one head", "three heads"])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_cutting_channels_that_nobody_reads_changes_no_answer(name: str, heads: tuple[Head, ...]) -> None:
    spec, side = TOPOLOGIES[name]
    rng = np.random.default_rng(1)
    model = build(spec, InputSpec(side, side, 3), heads)
    unsettle(model, rng)
    graph = analyse(model)
    keep = allocate(graph, rng.random(graph.unit_count), 0.7)
    ignore(model, graph, ~keep)

    smaller = cut(model, graph, keep)

    assert largest_difference(model, smaller, (side, side, 3)) < 1e-5
    assert summary(smaller)[-1].macs <= 0.7 * summary(model)[-1].macs


def test_every_channel_that_a_mobilenet_makes_can_go_but_those_of_its_answer() -> None:
    model = build(ModelSpec("mobilenet_v2", width=0.35), InputSpec(64, 64, 3), [HEAD])

    graph = analyse(model)

    pinned = {name for name, c in graph.couplings.items() if graph.is_fixed[c.writes].any()}
    assert pinned == {"label_logits"}


def concatenating() -> Any:
    """Two branches side by side, added to a third: channels of one are tied to parts of another."""
    picture = keras.Input((12, 12, 3))
    left = layers.Conv2D(16, 3, padding="same", name="left")(picture)
    right = layers.Conv2D(24, 3, padding="same", name="right")(picture)
    both = layers.BatchNormalization(name="norm")(layers.Concatenate()([left, right]))
    third = layers.Conv2D(40, 1, name="third")(picture)
    x = layers.ReLU()(layers.Add()([both, third]))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="twice")(x)
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    return keras.Model(picture, layers.Dense(3, activation="softmax", name="label_logits")(x))


def test_cutting_is_exact_where_branches_are_concatenated_added_widened_and_flattened() -> None:
    rng = np.random.default_rng(2)
    model = concatenating()
    unsettle(model, rng)
    graph = analyse(model)
    keep = allocate(graph, rng.random(graph.unit_count), 0.6)
    ignore(model, graph, ~keep)

    smaller = cut(model, graph, keep)

    assert largest_difference(model, smaller, (12, 12, 3)) < 1e-5
    assert smaller.get_layer("third").filters == (
        smaller.get_layer("left").filters + smaller.get_layer("right").filters
    )


def test_a_layer_that_is_used_twice_loses_the_same_channels_in_both_places() -> None:
    picture = keras.Input((8, 8, 3))
    twice = layers.Conv2D(16, 3, padding="same", name="twice")
    x = layers.Conv2D(16, 1, name="first")(picture)
    x = twice(layers.ReLU()(twice(x)))
    model = keras.Model(picture, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(4)
    graph = analyse(model)
    keep = allocate(graph, rng.random(graph.unit_count), 0.8)
    ignore(model, graph, ~keep)

    smaller = cut(model, graph, keep)

    assert smaller.get_layer("twice").filters == smaller.get_layer("first").filters == 8
    assert largest_difference(model, smaller, (8, 8, 3)) < 1e-5


def test_a_layer_that_is_not_understood_keeps_the_channels_around_it() -> None:
    picture = keras.Input((8, 8, 3))
    x = layers.Conv2D(32, 3, name="before")(picture)
    x = layers.LayerNormalization()(x)
    x = layers.Conv2D(32, 3, name="after")(x)
    model = keras.Model(picture, layers.Dense(3)(layers.Flatten()(x)))
    graph = analyse(model)

    smaller = cut(model, graph, allocate(graph, np.ones(graph.unit_count), 0.8))

    assert smaller.get_layer("before").filters == 32
    assert smaller.get_layer("after").filters < 32


def test_importance_is_what_the_loss_gains_by_an_infinitesimal_step_towards_the_cut() -> None:
    model = build(load("demo")[0].model, InputSpec(16, 16, 3), [HEAD])
    unsettle(model, np.random.default_rng(5))
    graph = analyse(model)
    rng = np.random.default_rng(6)
    truth = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 8)]
    few = Split(rng.integers(0, 256, (8, 16, 16, 3), np.uint8), (Targets(truth),))
    loss = loss_for(HEAD, 0.0)

    def loss_now() -> float:
        return float(loss(truth, model(few.codes.astype(np.float32), training=False)))

    found = importance(model, graph, [HEAD], few, load("demo")[0])

    unit = max(range(graph.unit_count), key=lambda u: found[u] * (not graph.is_fixed[u]))
    step, start = 1e-2, loss_now()
    for name, coupling in graph.couplings.items():
        if coupling.is_dense:
            kernel, *rest = model.get_layer(name).get_weights()
            kernel[..., coupling.reads == unit, :] *= 1 - step
            model.get_layer(name).set_weights([kernel, *rest])
    assert (loss_now() - start) ** 2 / step**2 == pytest.approx(found[unit], rel=0.2)


def test_channels_go_where_they_save_most_for_what_they_are_worth_and_stay_multiples() -> None:
    model = build(ModelSpec("vgg16", width=0.5, dense_units=64), InputSpec(64, 64, 3), [HEAD])
    graph = analyse(model)
    worth = np.ones(graph.unit_count)
    precious = graph.couplings["block3_conv2"].writes
    worth[precious] = 1e3

    keep = allocate(graph, worth, 0.5)

    widths = {name: int(keep[c.writes].sum()) for name, c in graph.couplings.items() if "conv" in name}
    assert widths["block3_conv2"] == 128
    assert all(width % MULTIPLE == 0 and width >= LEAST for width in widths.values())
    assert Price.of(graph, "macs").total(keep) <= 0.5 * summary(model)[-1].macs


def test_the_price_of_a_network_is_the_macs_that_are_counted_layer_by_layer() -> None:
    model = build(ModelSpec("mobilenet_v2", width=0.35), InputSpec(96, 96, 3), [HEAD])
    graph = analyse(model)

    price = Price.of(graph, "macs").total(np.ones(graph.unit_count, np.bool_))

    assert price == summary(model)[-1].macs


def test_more_than_can_go_is_refused_with_what_can() -> None:
    model = build(ModelSpec("lenet"), InputSpec(28, 28, 1), [HEAD])
    graph = analyse(model)

    with pytest.raises(ModelError, match=r"No more than [1-9]"):
        allocate(graph, np.ones(graph.unit_count), 0.01)


def test_half_of_the_target_is_the_parents_answer_to_the_varied_picture() -> None:
    model = build(load("demo")[0].model, InputSpec(16, 16, 3), [HEAD])
    pictures = np.random.default_rng(7).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[[0, 2]]

    (mixed,) = distilled(model)(pictures, (labels,))

    assert np.allclose(mixed.numpy(), (labels + model(pictures).numpy()) / 2, atol=1e-6)


def test_what_a_label_leaves_open_the_parent_answers_alone() -> None:
    model = build(load("demo")[0].model, InputSpec(16, 16, 3), THREE_HEADS)
    unsettle(model, np.random.default_rng(8))
    pictures = np.random.default_rng(9).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    kind, danger, where = (answer.numpy() for answer in model(pictures))
    nobody_knows = np.full_like(kind, np.nan)
    known_fire = np.float32([[1, np.nan], [0, np.nan]])
    fire_somewhere = np.full_like(where, np.nan)
    fire_somewhere[0, ..., 0], fire_somewhere[1, ..., 0] = SOMEWHERE, 0

    mixed = distilled(model)(pictures, (nobody_knows, known_fire, fire_somewhere))

    kinds, dangers, places = (target.numpy() for target in mixed)
    np.testing.assert_allclose(kinds, kind, atol=1e-6)
    np.testing.assert_allclose(dangers[:, 0], ([1, 0] + danger[:, 0]) / 2, atol=1e-6)
    np.testing.assert_allclose(dangers[:, 1], danger[:, 1], atol=1e-6)
    assert (places[0, ..., 0] == SOMEWHERE).all()
    np.testing.assert_allclose(places[1, ..., 0], where[1, ..., 0] / 2, atol=1e-6)
    np.testing.assert_allclose(places[..., 1], where[..., 1], atol=1e-6)


def test_all_epochs_are_used_in_rounds() -> None:
    assert all(sum(rounds_of(epochs)) == epochs for epochs in range(1, 60))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, blobs: Path) -> tuple[Path, Dataset]:
    text = RECIPE.replace("filters = 8", "filters = 32")
    dataset = open_dataset(blobs)
    return train(parse(text), text, dataset, tmp_path_factory.mktemp("parent")).path, dataset


@pytest.fixture(scope="module")
def small(trained: tuple[Path, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shrink(*trained, tmp_path_factory.mktemp("small") / "small.h5", 0.6, epochs=6).path


def test_a_pruned_network_still_knows_its_pictures_with_less_than_half_of_the_work(
    trained: tuple[Path, Dataset], small: Path
) -> None:
    parent, child = model_file.load(trained[0])[0], model_file.load(small)[0]

    card = model_file.read_card(small)

    assert card is not None
    assert card.val_top1 > 0.9
    assert summary(child)[-1].macs <= 0.4 * summary(parent)[-1].macs


def test_a_pruning_that_was_killed_goes_on_to_the_same_weights(
    trained: tuple[Path, Dataset], small: Path, tmp_path: Path
) -> None:
    # Brackets are a pattern to TensorFlow.
    out, notes = tmp_path / "small[1].h5", Counter[str]()

    def killed_at(note: str, count: int) -> Callable[[str], None]:
        def tell(said: str) -> None:
            notes[said.split(":")[0]] += 1
            if said.startswith(note) and notes[note] == count:
                raise KeyboardInterrupt

        return tell

    # In the first epoch after the first cut, at the second cut, and in the third epoch after that.
    for note, count in [("epoch 1", 1), ("Cut 2 of 2", 1), ("epoch 3", 1)]:
        with pytest.raises(KeyboardInterrupt):
            shrink(*trained, out, 0.6, 6, progress=Progress(on_note=killed_at(note, count)), resume=True)
    assert not out.exists()
    with pytest.raises(ModelError, match="not finished"):
        shrink(*trained, out, 0.6, 6)
    with pytest.raises(ModelError, match="started with another model, other data or other options"):
        shrink(*trained, out, 0.5, 6, resume=True)

    # As a kill leaves it while TensorFlow writes.
    stale = tmp_path / "small[1].checkpoint" / "cut-2-epoch-0003_temp"
    stale.mkdir()
    (stale / "part-00000-of-00001").write_bytes(b"half")

    for _ in range(2):
        shrink(*trained, out, 0.6, 6, progress=Progress(on_note=killed_at("none", 1)), resume=True)

    assert [notes[f"epoch {number}"] for number in range(1, 6)] == [3, 1, 2, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["small[1].h5"]
    pairs = zip(*(model_file.load(path)[0].get_weights() for path in (out, small)), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_what_a_cut_leaves_is_told_before_it_learns_again(
    trained: tuple[Path, Dataset], tmp_path: Path
) -> None:
    notes: list[str] = []

    def killed_at_the_cut(note: str) -> None:
        notes.append(note)
        if note.startswith("Cut 1 of 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shrink(*trained, tmp_path / "small.h5", 0.6, 1, progress=Progress(on_note=killed_at_the_cut))

    network = model_file.load(tmp_path / "small.checkpoint/cut-1.h5")[0]
    _, _, recipe, heads = open_parent(*trained, Progress())
    found = evaluate(network, heads, read_split(trained[1], "val", recipe, heads, network))
    assert notes[-1].endswith(f"; val accuracy {100 * found.top1:.2f} %")


UNUSED = Split(np.zeros((0, 3), np.uint8), ())
"""What is measured on nothing needs no pictures."""


class _Tiny:
    """A network of one layer whose weights are the number of the epoch, pruned without any training."""

    def __init__(self, folder: Path, resume: bool = False, recipe: str = RECIPE) -> None:
        state = CutState("parent", "data", "--channels 0.5")
        self.rounds = Rounds(folder, state, resume, parse(recipe), [HEAD], UNUSED, Progress())
        if not resume:
            entry = keras.Input((3,))
            made = keras.Model(entry, keras.layers.Dense(2)(entry))
            self.rounds.begin(1, made, model_file.Card(RECIPE, (HEAD,)))
        self.network = self.rounds.network()
        optimizer = keras.optimizers.Adam()
        optimizer.build(self.network.trainable_variables)
        self.tracker = tf.train.Checkpoint(model=self.network, optimizer=optimizer)

    def train(self, epoch: int) -> None:
        self.network.set_weights([np.full_like(x, epoch) for x in self.network.get_weights()])
        self.rounds.keep(self.tracker, epoch)

    def go_on(self) -> int:
        """Bring back the last epoch, then the best."""
        last = self.rounds.restore(self.tracker)
        self.rounds.restore_best(self.network)
        return last

    @property
    def epoch(self) -> float:
        return float(self.network.get_weights()[0][0, 0])


def test_a_killed_pruning_goes_on_with_its_last_epoch_and_ends_with_the_best_on_val(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.5, 0.9, 0.7, 0.8])
    monkeypatch.setattr(channel_rounds, "evaluate", lambda *_: Quality(1.0, next(found), {}))
    killed = _Tiny(tmp_path / "run")
    for epoch in (1, 2, 3):
        killed.train(epoch)

    resumed = _Tiny(tmp_path / "run", resume=True)

    assert resumed.rounds.restore(resumed.tracker) == 3
    assert resumed.epoch == 3
    resumed.train(4)
    resumed.rounds.restore_best(resumed.network)
    assert resumed.epoch == 2


def test_where_a_recipe_keeps_its_last_epoch_a_pruning_does_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.9, 0.5])
    monkeypatch.setattr(channel_rounds, "evaluate", lambda *_: Quality(1.0, next(found), {}))
    tiny = _Tiny(tmp_path / "run", recipe=RECIPE.replace("epochs = 8", 'epochs = 8\nkeep = "last"'))
    for epoch in (1, 2):
        tiny.train(epoch)

    tiny.rounds.restore_best(tiny.network)

    assert tiny.epoch == 2


@pytest.mark.parametrize("name", ["cut-1.h5", "cut-1-best-0001.weights.h5", "cut-1-epoch-0001.index"])
def test_a_damaged_checkpoint_of_a_pruning_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_rounds, "evaluate", lambda *_: Quality(1.0, 0.5, {}))
    _Tiny(tmp_path / "run").train(1)
    (tmp_path / "run" / name).write_bytes(b"torn")

    with pytest.raises(ModelError, match=r"cannot go on: '.*cut-1.*' is damaged") as refusal:
        _Tiny(tmp_path / "run", resume=True).go_on()
    assert "Remove" in refusal.value.fix


def test_a_disk_that_takes_no_checkpoint_of_a_pruning_is_named_with_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_rounds, "evaluate", lambda *_: Quality(1.0, 0.5, {}))
    with small_disk(tmp_path / "disk", "64k") as disk:
        tiny = _Tiny(disk / "run")
        (disk / "full").write_bytes(bytes(shutil.disk_usage(disk).free))
        with pytest.raises(ModelError, match=r"Epoch 1 cannot be kept.*No space left") as refusal:
            tiny.train(1)
    assert "--resume" in refusal.value.fix


@pytest.mark.parametrize(
    "option", [["--resume"], ["--cost", "macs"], ["--no-distil"], ["--learning-rate", "1e-3"]]
)
def test_what_only_a_cut_of_channels_reads_is_refused_beside_another(option: list[str]) -> None:
    result = CliRunner().invoke(
        prune_command, ["m.h5", "--data", "d", "--out", "o.h5", "--sparsity", "0.5", *option]
    )

    assert (result.exit_code, f"{option[0]} goes with --channels" in result.output) == (2, True)


def test_a_pruned_network_is_pruned_again_and_converted_with_quantization_aware_training(
    trained: tuple[Path, Dataset], small: Path, tmp_path: Path
) -> None:
    again = shrink(small, trained[1], tmp_path / "again.h5", 0.1, epochs=1)
    made = convert(again.path, tmp_path / "again.tflite", "int8", trained[1], qat_epochs=1)

    assert again.after.macs < again.before.macs
    manifest = files.read(tmp_path / "again.tflite").manifest
    assert manifest is not None
    assert manifest.provenance.pruned == (
        "--channels 0.6 --cost macs --epochs 6 --learning-rate 0.005",
        "--channels 0.1 --cost macs --epochs 1 --learning-rate 0.005",
    )
    assert made.check is not None
    assert made.check.file_top1.value > 0.8


@pytest.mark.parametrize("options", [[], ["--sparsity", "0.5", "--channels", "0.5"]])
def test_prune_takes_exactly_one_of_sparsity_channels_and_clusters(options: list[str]) -> None:
    result = CliRunner().invoke(prune_command, ["m.h5", "--data", "d", "--out", "o.h5", *options])

    assert (result.exit_code, "exactly one" in result.output) == (2, True)


def test_clustering_leaves_few_values_and_every_zero_of_magnitude_pruning(
    trained: tuple[Path, Dataset], small: Path, tmp_path: Path
) -> None:
    sparse = prune(small, trained[1], tmp_path / "sparse.h5", 0.5, epochs=1)

    clustered = cluster(sparse.path, trained[1], tmp_path / "clustered.h5", 8, epochs=1)

    card = model_file.read_card(clustered.path)
    assert card is not None
    assert card.pruned[1:] == ("--sparsity 0.5 --epochs 1", "--clusters 8 --epochs 1")

    assert all(row.value_count <= 8 for row in clustered.layers)
    assert sparsity_of(model_file.load(clustered.path)[0]) == sparse.layers
    assert clustered.val_top1 > 0.9


def test_one_value_for_all_weights_is_refused(trained: tuple[Path, Dataset], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="at least 2"):
        cluster(*trained, tmp_path / "none.h5", 1)


@pytest.mark.parametrize("take", [lambda *a: shrink(*a, 0.5), lambda *a: cluster(*a, 8)])
def test_a_name_that_cannot_be_saved_is_refused_before_the_training(
    trained: tuple[Path, Dataset], tmp_path: Path, take: Callable[..., object]
) -> None:
    with pytest.raises(ModelError, match=r"small\.keras"):
        take(*trained, tmp_path / "small.keras")


def test_a_share_of_all_channels_is_refused_and_nothing_is_written(
    trained: tuple[Path, Dataset], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="above 0 and below 1"):
        shrink(*trained, tmp_path / "none.h5", 1.0)

    assert not any(tmp_path.iterdir())
