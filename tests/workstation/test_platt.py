"""Scores after training: 0.5 is the operating point, and nothing else about them has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from test_heads import RECIPE_HEADS, write_world

from edgecnn.core.frame import InputSpec
from edgecnn.core.prediction import Head
from edgecnn.workstation.backend import keras
from edgecnn.workstation.check import answers_of, check
from edgecnn.workstation.convert import convert
from edgecnn.workstation.data.catalog import Dataset, open_dataset
from edgecnn.workstation.data.generated import generated, lookalikes_for_thresholds
from edgecnn.workstation.data.targets import Targets
from edgecnn.workstation.ladder.judge import Answers, Judge
from edgecnn.workstation.ladder.metric import parse_metric
from edgecnn.workstation.models.zoo import build
from edgecnn.workstation.platt import LOUDEST, centre_scores, platt_slope
from edgecnn.workstation.quality import answers
from edgecnn.workstation.recipe import Lookalikes, ModelSpec, folders_of, parse
from edgecnn.workstation.split import heads_of
from edgecnn.workstation.subject import read_subject
from edgecnn.workstation.thresholds import default_of, operating_points, points_of, thresholds_of
from edgecnn.workstation.train import train

COUNT = 300
DANGER = Head("danger", "sigmoid", ("fire", "smoke"), 0, independent=True)
WHERE = Head("where", "heatmap", ("fire", "smoke"), 1)
GROUND = Head("ground", "softmax", ("meadow", "sand"), 2)
DAY = Head("day", "sigmoid", ("night", "day"), 3)
HEADS = (DANGER, WHERE, GROUND, DAY)


@pytest.fixture(scope="module")
def asked() -> tuple[Any, np.ndarray, list[Targets]]:
    """A network that saw nothing, pictures, and a truth that its scores are nearly right about."""
    rng = np.random.default_rng(3)
    keras.utils.set_random_seed(3)
    model = build(ModelSpec("mobilenet_v2", width=0.35), InputSpec(64, 64), HEADS)
    for layer in model.layers:
        if layer.name.startswith("where_") and layer.get_weights():
            kernel, *bias = layer.get_weights()
            layer.set_weights([rng.normal(0, 0.02, kernel.shape), *bias])
    # Dark pictures and bright ones, so that the answers differ.
    codes = (rng.integers(0, 256, (COUNT, 64, 64, 3)) * rng.random((COUNT, 1, 1, 1))).astype(np.uint8)
    loudest = [scores.reshape(COUNT, -1, scores.shape[-1]).max(axis=1) for scores in answers(model, codes)]
    nearly = [one + rng.normal(0, 0.2, one.shape) * one.std(axis=0) for one in loudest]
    targets = [Targets((one > np.quantile(one, 0.8, axis=0)).astype(np.float32)) for one in nearly]
    return model, codes, targets


def centred(asked: tuple[Any, np.ndarray, list[Targets]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Give the scores before and after."""
    model, codes, targets = asked
    kept = model.get_weights()
    before = answers(model, codes)
    centre_scores(model, HEADS, before, targets)
    after = answers(model, codes)
    model.set_weights(kept)
    return list(before), list(after)


def loudest_of(scores: np.ndarray, column: int) -> np.ndarray:
    return np.asarray(scores[..., column].reshape(COUNT, -1).max(axis=1))


def test_the_default_threshold_becomes_one_half(asked: tuple[Any, np.ndarray, list[Targets]]) -> None:
    before, after = centred(asked)

    for place in (0, 1):
        for column in (0, 1):
            shown = asked[2][place].values[:, column] > 0.5
            old, new = (
                default_of(operating_points(loudest_of(scores[place], column), shown))
                for scores in (before, after)
            )
            assert abs(old - 0.5) > 0.01
            assert new == pytest.approx(0.5, abs=2e-3)


def test_the_order_of_the_scores_stays(asked: tuple[Any, np.ndarray, list[Targets]]) -> None:
    for old, new in zip(*centred(asked), strict=True):
        for column in range(old.shape[-1]):
            by_old = np.argsort(old[..., column].ravel(), kind="stable")
            assert np.diff(new[..., column].ravel()[by_old]).min() > -1e-5


def test_a_heatmap_keeps_its_strongest_cells_apart_in_int8(
    asked: tuple[Any, np.ndarray, list[Targets]],
) -> None:
    _, after = centred(asked)

    assert after[1].max() <= 1 / (1 + np.exp(-LOUDEST)) + 1e-3


def test_a_heatmap_says_where_int8_still_knows_it_in_half_of_the_pictures_without_the_label(
    asked: tuple[Any, np.ndarray, list[Targets]],
) -> None:
    model, codes, targets = asked
    scores = answers(model, codes)[1]
    rare = np.stack(
        [(one := loudest_of(scores, column)) > np.quantile(one, 0.97) for column in (0, 1)], axis=1
    )

    _, after = centred((model, codes, [targets[0], Targets(rare.astype(np.float32)), *targets[2:]]))

    for column in (0, 1):
        quiet = np.median(loudest_of(after[1], column)[~rare[:, column]])
        assert quiet == pytest.approx(1 / 256, rel=0.05)


def test_labels_that_exclude_each_other_stay_as_they_are(
    asked: tuple[Any, np.ndarray, list[Targets]],
) -> None:
    before, after = centred(asked)

    np.testing.assert_array_equal(before[2], after[2])
    np.testing.assert_array_equal(before[3], after[3])


def test_done_twice_it_changes_nothing_more(asked: tuple[Any, np.ndarray, list[Targets]]) -> None:
    model, codes, targets = asked
    kept = model.get_weights()
    centre_scores(model, HEADS, answers(model, codes), targets)
    once = answers(model, codes)
    centre_scores(model, HEADS, once, targets)
    twice = answers(model, codes)
    model.set_weights(kept)

    for first, second in zip(once, twice, strict=True):
        np.testing.assert_allclose(first, second, atol=0.01)


@pytest.mark.parametrize("truth", [0.0, 1.0, np.nan])
def test_a_label_of_which_too_little_is_known_stays_as_it_is(
    asked: tuple[Any, np.ndarray, list[Targets]], truth: float
) -> None:
    model, codes, targets = asked
    values = targets[0].values.copy()
    values[:, 1] = truth
    before, after = centred((model, codes, [replace(targets[0], values=values), *targets[1:]]))

    np.testing.assert_allclose(before[0][:, 1], after[0][:, 1], atol=1e-6)
    assert np.abs(before[0][:, 0] - after[0][:, 0]).max() > 0.01


def test_the_slope_is_that_of_the_least_log_loss() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(-2, 1.5, 900)
    shown = rng.random(900) < 1 / (1 + np.exp(-(1.7 * logits + 1)))
    wanted = np.where(shown, (shown.sum() + 1) / (shown.sum() + 2), 1 / ((~shown).sum() + 2))

    def loss(line: np.ndarray) -> float:
        given = line[0] * logits + line[1]
        return float(np.mean(np.logaddexp(0, given) - wanted * given))

    assert platt_slope(logits, shown) == pytest.approx(minimize(loss, [1.0, 0.0]).x[0], rel=1e-3)


def test_the_slope_is_finite_where_a_score_tells_all_apart() -> None:
    logits = np.array([-3.0, -2.0, 2.0, 3.0])

    assert 0 < platt_slope(logits, logits > 0) < 20


RECIPE = RECIPE_HEADS + '\n[lookalikes]\ncount = 20\nonto = ["meadow"]\n'


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_world(tmp_path_factory.mktemp("world")), folders_of(parse(RECIPE)))


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(parse(RECIPE), RECIPE, dataset, tmp_path_factory.mktemp("run")).path


def test_a_network_comes_from_training_with_its_operating_points_at_one_half(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    manifest = convert(trained, tmp_path / "m.tflite", "float32", dataset).bundle.manifest

    assert manifest is not None
    assert set(manifest.operating_points) == {"fire", "smoke"}
    assert dict(manifest.thresholds) == pytest.approx({"fire": 0.5, "smoke": 0.5}, abs=0.1)


def test_lookalikes_come_with_val_and_accuracy_is_counted_without_them(
    trained: Path, dataset: Dataset
) -> None:
    subject = read_subject(trained)
    codes, found = answers_of(subject, dataset, "val")
    real_count = len(dataset.split("val"))

    assert (len(codes), found.lookalike_count) == (real_count + 20, 20)
    assert [len(scores) for scores in found.scores] == [real_count + 20] * 3
    assert [len(scores) for scores in found.real.scores] == [real_count] * 3
    assert np.nanmax(found.targets[1].values[real_count:]) == 0
    flat = convert(trained, trained.parent / "m.tflite", "float32", dataset).bundle.model
    assert max(one.file_top1.count for one in check(flat, subject, dataset)) <= real_count


def test_lookalikes_for_thresholds_are_none_that_were_learned(dataset: Dataset) -> None:
    # Into rendered scenery, which is the same for all: only the seed tells them apart.
    recipe = replace(parse(RECIPE), lookalikes=Lookalikes(count=20))
    heads = heads_of(recipe, dataset)
    grids = [None] * len(heads)
    ((learned, _),) = generated(dataset, recipe, heads, grids)
    made = lookalikes_for_thresholds(dataset, recipe, heads, grids)

    assert made is not None
    assert len(made[0]) == 20
    assert not {row.tobytes() for row in learned} & {row.tobytes() for row in made[0]}
    assert lookalikes_for_thresholds(dataset, replace(recipe, lookalikes=Lookalikes()), heads, grids) is None


def test_lookalikes_for_thresholds_are_painted_into_val_and_into_scenery_where_it_has_no_such(
    dataset: Dataset,
) -> None:
    recipe = parse(RECIPE)
    heads = heads_of(recipe, dataset)
    without = {
        split: replace(
            dataset,
            pictures=tuple(p for p in dataset.pictures if (p.split, p.folder) != (split, "meadow")),
        )
        for split in ("train", "val")
    }
    whole, no_train, no_val = (
        lookalikes_for_thresholds(data, recipe, heads, [None] * len(heads))
        for data in (dataset, without["train"], without["val"])
    )

    assert whole is not None
    assert no_train is not None
    assert no_val is not None
    np.testing.assert_array_equal(whole[0], no_train[0])
    assert np.any(whole[0] != no_val[0])


def test_lookalikes_raise_the_threshold_of_few_false_alarms_but_not_a_rate_that_was_asked_for() -> None:
    shown = np.arange(200) >= 100
    scores = np.where(shown, 0.9, 0.1)[:, None].repeat(2, axis=1).astype(np.float32)
    truth = np.stack([shown, shown], axis=1).astype(np.float32)
    decoys = np.full((40, 2), 0.8, np.float32)
    answered = Answers(
        (Targets(np.concatenate([truth, np.zeros((40, 2), np.float32)])),),
        (np.concatenate([scores, decoys]),),
        lookalike_count=40,
    )

    def choose(head: Head, targets: Targets, found: np.ndarray) -> dict[str, float]:
        return thresholds_of([head], points_of(head, targets, found))

    by_rule, by_rate = (
        Judge(parse_metric(text), (DANGER,), choose, lambda *_: np.zeros(0, bool)).thresholds(answered)
        for text in ("top1", "fire:recall@fpr=0.01")
    )

    assert by_rule["fire"] > 0.8
    assert by_rate["fire"] == pytest.approx(0.5)


@pytest.mark.parametrize("count", [100, 201, 300])
def test_a_heatmap_that_was_not_learned_stays_as_it_is(count: int) -> None:
    model = build(ModelSpec("mobilenet_v2", width=0.35), InputSpec(64, 64), [WHERE])
    codes = np.random.default_rng(count).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    before = answers(model, codes)
    centre_scores(model, [WHERE], before, [Targets(np.float32([[i % 3 == 0, i % 2] for i in range(count)]))])

    np.testing.assert_allclose(answers(model, codes)[0], before[0], atol=1e-6)


def test_another_head_whose_name_begins_alike_is_left_alone() -> None:
    heads = (DANGER, Head("danger_fine", "softmax", ("a", "b", "c"), 1))
    model = build(ModelSpec("mobilenet_v2", width=0.35), InputSpec(32, 32), heads)
    codes = np.random.default_rng(1).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    before = answers(model, codes)
    shown = before[0] > np.median(before[0], axis=0)
    other = Targets(np.eye(3, dtype=np.float32)[np.arange(60) % 3])
    centre_scores(model, heads, before, [Targets(shown.astype(np.float32)), other])
    after = answers(model, codes)

    np.testing.assert_array_equal(before[1], after[1])
    assert np.abs(before[0] - after[0]).max() > 0.05
