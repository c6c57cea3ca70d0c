"""How far two models' scores lie apart."""

from __future__ import annotations

import numpy as np

from edgecnn.core.prediction import Head
from edgecnn.measure.parity import Parity, flipped, parity

PET = Head("pet", "softmax", ("cat", "dog", "eel"))
FIRE = Head("fire", "sigmoid", ("no_fire", "fire"))


def test_a_model_agrees_with_itself() -> None:
    scores = np.random.default_rng(1).dirichlet([1, 1, 1], 50).astype(np.float32)
    assert parity(scores, scores, PET) == Parity(0.0, 0.0, 0, 50)


def test_scores_may_differ_without_a_decision_that_changes() -> None:
    found = parity(np.float32([[0.7, 0.2, 0.1]]), np.float32([[0.5, 0.25, 0.25]]), PET)
    assert (round(found.max_abs, 6), found.flipped_count) == (0.2, 0)


def test_the_same_score_flips_where_the_two_files_have_different_thresholds() -> None:
    scores = np.float32([[0.4, 0.6]])
    assert parity(scores, scores, FIRE, {"fire": 0.5}, {"fire": 0.7}).flipped_count == 1


def test_the_flip_with_the_widest_difference_comes_first() -> None:
    first = np.float32([[0.45, 0.55], [0.1, 0.9], [0.9, 0.1]])
    second = np.float32([[0.55, 0.45], [0.9, 0.1], [0.9, 0.1]])
    assert flipped(first, second, FIRE, {}, {}).tolist() == [1, 0]


def test_no_pictures_give_no_difference() -> None:
    nothing = np.empty((0, 3), np.float32)
    assert parity(nothing, nothing, PET) == Parity(0.0, 0.0, 0, 0)
