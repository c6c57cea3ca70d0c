"""Accuracy, its interval, and the paired difference of two models."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from edgecnn.core.prediction import Head
from edgecnn.measure.accuracy import (
    accuracy_drop,
    auc,
    auc_interval,
    confusion,
    decide,
    head_accuracy,
    mcnemar_p,
    one_hot,
    score_interval,
    truth,
    wilson,
)

ANIMAL = Head("animal", "softmax", ("cat", "dog", "eel"))
FIRE = Head("fire", "sigmoid", ("no_fire", "fire"))
SEEN = Head("seen", "sigmoid", ("fire", "smoke", "person"))


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_is_the_one_that_scipy_gives(tried: tuple[int, int]) -> None:
    expected = stats.binomtest(*tried).proportion_ci(method="wilson")
    assert wilson(*tried) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_an_accuracy_of_no_pictures_may_be_anything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_softmax_decides_for_its_highest_label_even_below_one_half() -> None:
    assert decide(np.float32([[0.3, 0.4, 0.3]]), ANIMAL, {}).tolist() == [[False, True, False]]


def test_fire_is_seen_from_the_threshold_of_the_manifest_on_and_not_before() -> None:
    scores = np.float32([[0.31, 0.69], [0.3, 0.7]])
    assert decide(scores, FIRE, {"fire": 0.7})[:, 1].tolist() == [False, True]


def test_without_a_threshold_fire_is_seen_from_one_half_on() -> None:
    assert decide(np.float32([[0.5, 0.5], [0.51, 0.49]]), FIRE, {})[:, 1].tolist() == [True, False]


def test_a_head_of_several_sigmoids_sees_fire_and_smoke_at_once_or_nothing() -> None:
    decided = decide(np.float32([[0.9, 0.6, 0.1], [0.1, 0.1, 0.1]]), SEEN, {})
    assert decided.tolist() == [[True, True, False], [False, False, False]]


def test_a_sigmoid_head_that_sees_one_label_too_many_is_not_right() -> None:
    scores = np.float32([[0.9, 0.6, 0.1], [0.9, 0.1, 0.1], [0.1, 0.1, 0.1]])
    measured = head_accuracy(scores, truth(["fire", "fire", "meadow"], SEEN), SEEN, {})
    assert (measured.correct_count, measured.confusion) == (2, None)


@pytest.fixture
def guesses() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    scores = random.dirichlet([1, 1, 1], 400).astype(np.float32)
    shown = np.where(random.random(400) < 0.6, scores.argmax(axis=1), random.integers(0, 3, 400))
    return scores, shown, scores.argmax(axis=1)


def test_the_confusion_is_the_one_that_scikit_learn_counts(guesses) -> None:
    _, shown, decided = guesses
    ours = confusion(one_hot(decided, 3), one_hot(shown, 3))
    assert ours.tolist() == metrics.confusion_matrix(shown, decided).tolist()


def test_precision_and_recall_by_label_are_those_of_scikit_learn(guesses) -> None:
    scores, shown, decided = guesses
    ours = head_accuracy(scores, one_hot(shown, 3), ANIMAL, {}).per_label.values()
    precision, recall, _, count = metrics.precision_recall_fscore_support(shown, decided)
    found = np.array([(row.precision, row.recall, row.count) for row in ours])
    assert found == pytest.approx(np.stack([precision, recall, count], axis=1))


def test_false_alarms_by_label_are_what_scikit_learn_calls_one_less_the_specificity(guesses) -> None:
    scores, shown, decided = guesses
    ours = head_accuracy(scores, one_hot(shown, 3), ANIMAL, {}).per_label.values()
    specificity = [metrics.recall_score(shown != x, decided != x) for x in range(3)]
    assert [1 - row.false_alarm_rate for row in ours] == pytest.approx(specificity)
    assert [row.count + row.absent_count for row in ours] == [400] * 3


def test_a_picture_of_which_a_label_is_not_known_counts_neither_for_nor_against_it() -> None:
    scores = np.float32([[0.9, 0.9, 0.1], [0.9, 0.9, 0.1], [0.1, 0.2, 0.1]])
    holds = np.array([[True, False, False], [False, False, False], [False, False, False]])
    known = np.array([[True, False, True], [True, True, True], [True, True, True]])
    smoke = head_accuracy(scores, holds, SEEN, {}, known).per_label["smoke"]
    assert (smoke.false_alarm_rate, smoke.absent_count, smoke.decided_count) == (0.5, 2, 1)


def test_how_often_a_label_is_seen_where_nobody_knows_is_counted_by_itself() -> None:
    scores = np.float32([[0.9, 0.9, 0.1], [0.9, 0.1, 0.1], [0.1, 0.9, 0.1]])
    known = np.array([[True, False, True], [True, False, True], [True, True, True]])
    per_label = head_accuracy(scores, np.zeros((3, 3), bool), SEEN, {}, known).per_label
    assert (per_label["smoke"].unknown_rate, per_label["smoke"].unknown_count) == (0.5, 2)
    assert (per_label["fire"].unknown_rate, per_label["fire"].unknown_count) == (None, 0)


def test_top1_is_the_share_that_scikit_learn_calls_accuracy(guesses) -> None:
    scores, shown, decided = guesses
    measured = head_accuracy(scores, one_hot(shown, 3), ANIMAL, {})
    assert measured.top1 == pytest.approx(metrics.accuracy_score(shown, decided))


def test_a_label_that_was_never_shown_nor_decided_has_no_figures() -> None:
    row = head_accuracy(np.float32([[0.9, 0.1, 0.0]]), truth(["cat"], ANIMAL), ANIMAL, {}).per_label["eel"]
    assert (row.precision, row.recall, row.count) == (None, None, 0)


@pytest.mark.parametrize(("area", "positive_count", "negative_count"), [(0.8, 60, 60), (0.98, 250, 300)])
def test_the_interval_of_the_area_holds_the_true_area_in_about_19_of_20_experiments(
    area: float, positive_count: int, negative_count: int
) -> None:
    random = np.random.default_rng(1)
    apart = math.sqrt(2) * stats.norm.ppf(area)  # of two normal distributions with this area
    positive = np.repeat([True, False], [positive_count, negative_count])
    held = 0
    for _ in range(500):
        scores = random.normal(apart * positive)
        low, high = auc_interval(auc(scores, positive), positive_count, negative_count)
        held += low <= area <= high
    assert 0.92 <= held / 500 <= 0.99


@pytest.mark.parametrize("area", [0.0, 1.0])
def test_the_interval_of_an_area_without_a_mistake_is_still_wider_than_a_point(area: float) -> None:
    low, high = auc_interval(area, 20, 30)
    assert 0 < low < high < 1
    assert min(abs(low - area), abs(high - area)) < 0.01 < high - low


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=200))
def test_the_area_under_the_curve_is_that_of_scikit_learn_ties_included(rows: list[tuple[int, bool]]) -> None:
    scores = np.float32([score / 9 for score, _ in rows])
    positive = np.array([yes for _, yes in rows])
    if positive.all() or not positive.any():
        assert auc(scores, positive) is None
    else:
        assert auc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemars_p_is_the_exact_binomial_one_of_scipy(only_first: int, only_second: int) -> None:
    expected = (
        stats.binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    )
    assert mcnemar_p(only_first, only_second) == pytest.approx(expected)


def _paired(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = [both, only_first, only_second, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_drawing_the_four_counts_gives_the_interval_of_drawing_the_pictures() -> None:
    first, second = _paired(2700, 60, 30, 210)
    slow = stats.bootstrap(
        (first.astype(float), second.astype(float)),
        lambda a, b, axis: 100 * (a - b).mean(axis=axis),
        paired=True, vectorized=True, method="percentile", n_resamples=4000, batch=500,
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    fast = accuracy_drop(first, second)
    assert (fast.low_pp, fast.high_pp) == pytest.approx((slow.low, slow.high), abs=0.07)


def test_pairing_tells_a_small_drop_apart_that_separate_intervals_would_hide() -> None:
    first, second = _paired(2700, 30, 3, 267)
    drop = accuracy_drop(first, second)
    assert drop.low_pp > 0
    assert wilson(2730, 3000)[0] < wilson(2703, 3000)[1]


def test_the_same_seed_gives_the_same_interval() -> None:
    pair = _paired(90, 5, 3, 2)
    assert accuracy_drop(*pair, seed=4) == accuracy_drop(*pair, seed=4)


def test_the_interval_of_the_drop_holds_the_true_drop_in_about_19_of_20_experiments() -> None:
    random = np.random.default_rng(11)
    kinds, hits = np.array([0.85, 0.05, 0.03, 0.07]), 0
    for _ in range(400):
        first, second = _paired(*random.multinomial(1500, kinds))
        drop = accuracy_drop(first, second, seed=int(random.integers(1 << 30)), resamples=1000)
        hits += drop.low_pp <= 2.0 <= drop.high_pp
    assert 0.92 <= hits / 400 <= 0.98


@cache
def _drop_interval(only_first: int, only_second: int, count: int) -> tuple[float, float]:
    drop = accuracy_drop(
        *_paired(count - only_first - only_second, only_first, only_second, 0), resamples=2000
    )
    return drop.low_pp, drop.high_pp


@pytest.mark.parametrize("count", [60, 500])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 1), (3, 2), (2, 6), (8, 8), (13, 9)])
def test_where_few_pictures_part_the_models_the_interval_still_holds_the_true_drop(
    count: int, first: int, second: int
) -> None:
    shares = np.array([first, second, count - first - second]) / count
    counts, times = np.unique(
        np.random.default_rng(7).multinomial(count, shares, size=4000), axis=0, return_counts=True
    )
    true_pp = 100 * (first - second) / count
    intervals = np.array([_drop_interval(b, c, count) for b, c, _ in counts.tolist()])
    holds = (intervals[:, 0] <= true_pp) & (true_pp <= intervals[:, 1])
    assert times[holds].sum() / times.sum() >= 0.93


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 0), (2, 9), (3, 3)])
def test_the_score_interval_ends_where_the_test_rejects(only_first: int, only_second: int) -> None:
    count = 80

    def p_value(difference: float) -> float:
        # The likeliest shares, found by trying instead of by the formula.
        share = np.linspace(max(0.0, -difference), (1 - difference) / 2, 200_001)[1:-1]
        terms = (only_first, share + difference), (only_second, share), (
            count - only_first - only_second, 1 - 2 * share - difference,
        )  # fmt: skip
        likely = share[np.argmax(sum(n * np.log(np.maximum(p, 1e-300)) for n, p in terms))]
        deviation = math.sqrt(count * (2 * likely + difference * (1 - difference)))
        return 2 * stats.norm.sf(abs(only_first - only_second - count * difference) / deviation)

    for end in score_interval(only_first, only_second, count):
        assert p_value(end) == pytest.approx(0.05, abs=2e-3)


def test_all_pictures_may_part_the_models_and_none_too() -> None:
    assert score_interval(3, 0, 3)[1] == 1.0
    low, high = score_interval(0, 0, 3)
    assert -1 < low == -high < 0
