"""Intervals, calibration and paired tests, compared with other ways to compute them."""

import itertools
import math

import numpy as np
import pytest

from w3ray.evaluation.uncertainty import accuracy_interval, bootstrap_interval, calibration, paired_difference


def test_an_interval_is_that_of_the_binomial_for_many_clips():
    right = np.arange(1000) < 700
    low, high = bootstrap_interval(right)
    half = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert (low, high) == (pytest.approx(0.7 - half, abs=0.003), pytest.approx(0.7 + half, abs=0.003))
    assert bootstrap_interval(right) == (low, high), "the same every time"
    assert bootstrap_interval(right, seed=1) != (low, high)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.random(100) < 0.6, resamples=400)
        inside += low <= 0.6 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_groups_are_drawn_whole():
    right = np.array([1, 1, 1, 1, 1, 1, 0, 0])
    groups = ["b"] * 6 + ["a"] * 2
    assert bootstrap_interval(right, groups) == (0.0, 1.0), "in a quarter of the cases only one of the two is drawn"
    assert bootstrap_interval(right, groups, level=0.4) == (0.75, 0.75), (
        "in half of the cases both are drawn, weighted by their clips"
    )
    assert bootstrap_interval(right, list("hgfedcba")) == pytest.approx(bootstrap_interval(right), abs=0.13)
    with pytest.raises(ValueError, match="2 groups for 8 clips"):
        bootstrap_interval(right, ["a", "b"])


def test_an_interval_by_group_is_wider_where_clips_of_a_group_are_alike():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 10)
    right = np.repeat(rng.random(40) < 0.6, 10)
    low, high = bootstrap_interval(right, groups)
    half = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 40)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1), "as if each group was one clip"
    found = paired_difference(np.zeros(400), right, groups)
    assert found.interval == (low, high)
    assert found.p_value < 1e-9


def test_all_right_leaves_no_doubt_that_can_be_drawn():
    assert bootstrap_interval(np.ones(10)) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no clip"):
        bootstrap_interval(np.ones(0))


def test_all_right_of_few_clips_is_not_certain():
    low, high = accuracy_interval(np.ones(10))
    assert high == 1.0
    assert low**10 == pytest.approx(0.025), "at this accuracy, ten of ten are right with this probability"
    assert accuracy_interval(np.zeros(10)) == pytest.approx((0.0, 1 - low))
    some = np.arange(10) < 9
    assert accuracy_interval(some) == bootstrap_interval(some)


def test_scores_that_mean_what_they_say_have_no_error():
    scores = np.array([[0.75, 0.25]] * 4 + [[0.55, 0.45]] * 20)
    labels = np.array([0, 0, 0, 1] + [0] * 11 + [1] * 9)
    found = calibration(scores, labels, bins=10)
    assert found.expected_error == pytest.approx(0.0, abs=1e-12)
    assert sum(found.count) == 24


def test_scores_that_boast_have_the_error_by_which_they_do():
    scores = np.array([[0.9, 0.1]] * 10)
    assert calibration(scores, np.array([0] * 6 + [1] * 4)).expected_error == pytest.approx(0.3)
    scores[0] = np.nan
    assert sum(calibration(scores, np.zeros(10, int)).count) == 9
    with pytest.raises(ValueError, match="finite"):
        calibration(np.full((2, 2), np.nan), np.zeros(2, int))


def test_the_paired_test_counts_what_fair_coins_would_do():
    first = np.array([1, 1, 1, 1, 1, 1, 0, 0, 1, 0], bool)
    second = np.array([0, 0, 0, 0, 0, 1, 1, 0, 1, 0], bool)
    found = paired_difference(first, second)
    assert (found.only_first, found.only_second) == (5, 1)
    assert found.difference == pytest.approx(-0.4)
    as_uneven = sum(min(sum(coins), 6 - sum(coins)) <= 1 for coins in itertools.product((0, 1), repeat=6))
    assert found.p_value == pytest.approx(as_uneven / 64)
    assert found.interval[0] < -0.4 < found.interval[1]


def test_equal_models_and_wrong_shapes():
    same = np.array([True, False, True])
    assert paired_difference(same, same).p_value == 1.0
    with pytest.raises(ValueError, match="same clips"):
        paired_difference(same, same[:2])
