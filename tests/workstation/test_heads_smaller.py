"""A network of several heads is pruned, clustered and quantized under a budget, and every head lives on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_heads import RECIPE_HEADS, write_world

from edgecnn.errors import ModelError
from edgecnn.workstation import model_file
from edgecnn.workstation.backend import keras
from edgecnn.workstation.channels.shrink import Shrunk, shrink
from edgecnn.workstation.check import Check, check, right_at
from edgecnn.workstation.cluster import cluster
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.catalog import Dataset, open_dataset
from edgecnn.workstation.prune import prune
from edgecnn.workstation.quality import evaluate
from edgecnn.workstation.recipe import folders_of, parse
from edgecnn.workstation.split import read_split
from edgecnn.workstation.subject import read_subject
from edgecnn.workstation.train import Progress, train

RECIPE = RECIPE_HEADS.replace("filters = 16", "filters = 32").replace("filters = 8", "filters = 16")
RECIPE = RECIPE.replace("epochs = 10", "epochs = 4")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_world(tmp_path_factory.mktemp("world")), folders_of(parse(RECIPE)))


@pytest.fixture(scope="module")
def parent(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(parse(RECIPE), RECIPE, dataset, tmp_path_factory.mktemp("parent")).path


@pytest.fixture(scope="module")
def small(parent: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Shrunk:
    return shrink(parent, dataset, tmp_path_factory.mktemp("small") / "small.h5", 0.5, epochs=3)


def quality_on_val(path: Path, dataset: Dataset) -> dict[str, float]:
    model, card = model_file.load(path)
    assert card is not None
    validation = read_split(dataset, "val", parse(card.recipe), card.heads, model)
    return dict(evaluate(model, card.heads, validation).heads)


def test_every_head_still_answers_when_half_of_the_work_has_gone(small: Shrunk, dataset: Dataset) -> None:
    found = quality_on_val(small.path, dataset)

    assert small.after.macs <= 0.5 * small.before.macs
    assert min(found.values()) > 0.9, found
    assert list(found) == ["ground", "danger", "where"]


def test_zeros_and_shared_values_leave_every_head_its_answer(
    small: Shrunk, dataset: Dataset, tmp_path: Path
) -> None:
    sparse = prune(small.path, dataset, tmp_path / "sparse.h5", 0.4, epochs=1)

    clustered = cluster(sparse.path, dataset, tmp_path / "clustered.h5", 8, epochs=1)

    found = quality_on_val(clustered.path, dataset)
    assert min(found.values()) > 0.9, found
    assert {row.layer for row in clustered.layers} > {"ground_logits", "danger_logits", "where_logits"}
    assert all(row.value_count <= 8 for row in clustered.layers)
    before, after = (model_file.load(path)[0] for path in (sparse.path, clustered.path))
    assert sum(row.zero_count for row in sparse.layers) > 0
    for row in sparse.layers:  # a small weight may join the zeros, none leaves them
        old, new = (model.get_layer(row.layer).get_weights()[0] for model in (before, after))
        assert not new[old == 0].any()


def spoil(path: Path, out: Path) -> Path:
    """Multiply a channel of the trunk that every head reads, and let them all divide: float is as before."""
    model, card = model_file.load(path)
    assert card is not None
    made = model.get_layer("conv_4")
    kernel, bias = made.get_weights()
    kernel[..., 0] *= 1000
    bias[0] = 1000 * abs(bias[0]) + 1000
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D) and layer.name.endswith("_logits"):
            own, *rest = layer.get_weights()
            own[..., 0, :] = 0
            layer.set_weights([own, *rest])
    made.set_weights([kernel, bias])
    model_file.save(model, out, card)
    return out


def drops(checks: Sequence[Check]) -> dict[str, float]:
    """Give by head what a file lost on val, in percentage points."""
    return {check.file_top1.head: check.drop.drop_pp for check in checks}


def test_a_budget_on_one_head_brings_back_them_all(parent: Path, dataset: Dataset, tmp_path: Path) -> None:
    spoilt = spoil(parent, tmp_path / "spoilt.h5")

    # 16 val pictures show fire: if no answer changes, the drop may still be 19.4.
    made = convert(
        spoilt, tmp_path / "m.tflite", "int8", dataset, max_drop_pp=20, metric="fire:recall@fpr=0.1"
    )

    assert made.kept is not None
    assert made.bundle.manifest is not None
    plain = drops(check(made.kept.climb.rungs[0].flat, read_subject(spoilt), dataset))
    assert min(plain["ground"], plain["danger"]) >= 10
    assert made.kept.climb.has_held
    assert max(drops(made.checks).values()) <= 2
    assert set(made.bundle.manifest.thresholds) == {"fire", "smoke"}
    assert set(made.bundle.manifest.temperatures) == {"ground", "danger"}
    head, own = made.bundle.manifest.heads[1], made.kept.on_val[1].real
    right = right_at(head, own.targets[1], own.scores[1], made.bundle.manifest.thresholds)
    assert {m.head: m.value for m in made.bundle.manifest.measured[:2]}["danger"] == right.mean()


def test_where_a_model_has_several_heads_the_file_says_which_one_kept_to_the_budget(
    small: Shrunk, dataset: Dataset, tmp_path: Path
) -> None:
    made = convert(small.path, tmp_path / "m.tflite", "int8", dataset, max_drop_pp=30)

    assert made.bundle.manifest is not None
    assert made.bundle.manifest.provenance.budget is not None
    assert made.bundle.manifest.provenance.budget.metric == "ground:top1"


def test_a_budget_on_a_heatmap_without_boxes_on_val_is_refused(
    small: Shrunk, dataset: Dataset, tmp_path: Path
) -> None:
    unboxed = tuple(p for p in dataset.pictures if p.split != "val" or p.folder not in ("fire", "smoke"))

    with pytest.raises(ModelError, match="'where' is right"):
        convert(
            small.path,
            tmp_path / "m.tflite",
            "int8",
            replace(dataset, pictures=unboxed),
            max_drop_pp=10,
            metric="where:top1",
        )

    assert not list(tmp_path.iterdir())


def test_what_rendered_pictures_taught_is_trained_again_after_pruning(
    parent: Path, dataset: Dataset, tmp_path: Path
) -> None:
    text = RECIPE + '\n[lookalikes]\ncount = 20\nonto = ["meadow"]\n'
    model, card = model_file.load(parent)
    assert card is not None
    model_file.save(model, tmp_path / "taught.h5", replace(card, recipe=text))
    told: list[str] = []
    steps: list[int] = []
    progress = Progress(on_note=told.append, on_step=lambda *at: steps.append(at[3]))

    prune(tmp_path / "taught.h5", dataset, tmp_path / "sparse.h5", 0.3, 1, progress)

    assert "Rendering 20 training pictures" in told
    assert set(steps) == {-(-(160 + 20) // 16)}
