"""Areas, thresholds, intervals and the permutation test, on generated scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork import GraftError
from graftwork_contamination import auc, auprc, bootstrap, held_out, permutation_p, youden
from graftwork_contamination.statistics import balanced_accuracy

scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


@given(scores, scores)
def test_the_area_is_the_share_of_pairs_with_half_for_ties(a: list[float], b: list[float]) -> None:
    pairs = [(x > y) + (x == y) / 2 for x in a for y in b]
    assert auc(a, b) == pytest.approx(sum(pairs) / len(pairs))
    assert auc(a, b) == pytest.approx(1 - auc(b, a))
    assert auc(a, a) == 0.5


@given(scores, scores)
def test_a_monotone_map_changes_neither_area_nor_the_best_threshold(
    a: list[float], b: list[float]
) -> None:
    x, y = [math.exp(3 * s) for s in a], [math.exp(3 * s) for s in b]
    assert auc(x, y) == auc(a, b) and auprc(x, y) == auprc(a, b)
    assert youden(x, y).j == youden(a, b).j


@given(scores, scores)
def test_the_threshold_is_the_best_of_all_and_never_worse_than_chance(
    a: list[float], b: list[float]
) -> None:
    found = youden(a, b)
    tried = [2 * balanced_accuracy(a, b, t) - 1 for t in [-math.inf, *a, *b]]
    assert found.j == pytest.approx(max(tried)) and found.j >= 0
    assert 2 * balanced_accuracy(a, b, found.at) - 1 == pytest.approx(found.j)


@given(scores, scores)
def test_average_precision_by_its_definition(a: list[float], b: list[float]) -> None:
    precision = []
    for x in a:
        hits = sum(y >= x for y in a)
        precision.append(hits / (hits + sum(y >= x for y in b)))
    assert auprc(a, b) == pytest.approx(sum(precision) / len(a))


@given(st.integers(2, 9), st.integers(2, 9), st.floats(-2, 2))
def test_identical_scores_are_chance(n: int, m: int, value: float) -> None:
    a, b = [value] * n, [value] * m
    assert auc(a, b) == 0.5 and youden(a, b).j == 0 and permutation_p(a, b, 50) == 1
    found = bootstrap(auc, a, b, 20)
    assert (found.lo, found.value, found.hi) == (0.5, 0.5, 0.5)


@given(scores, scores, st.integers(0, 5))
def test_an_interval_holds_its_value_and_repeats(a: list[float], b: list[float], seed: int) -> None:
    found = bootstrap(auc, a, b, 40, seed)
    assert 0 <= found.lo <= found.value == auc(a, b) <= found.hi <= 1
    assert bootstrap(auc, a, b, 40, seed) == found


def test_a_held_out_threshold_is_not_optimistic_and_a_fitted_one_is() -> None:
    draw = np.random.default_rng(0)
    fitted, held = [], []
    for seed in range(200):
        a, b = draw.normal(size=32), draw.normal(size=32)
        fitted.append((youden(a, b).j + 1) / 2)
        held.append(held_out(a, b, seed).balanced)
    error = np.std(held) / math.sqrt(200)
    assert abs(np.mean(held) - 0.5) < 4 * error
    assert np.mean(fitted) > 0.5 + 8 * error


def test_halves_are_apart_and_all_items_are_in_one() -> None:
    found = held_out([11.0, 12, 13, 14, 15], [-11.0, -12, -13, -14])
    assert found.n == 3 + 2 and found.fitted == found.balanced == 1


def test_the_permutation_test_keeps_its_level_and_finds_what_is_there() -> None:
    draw = np.random.default_rng(1)
    ps = [permutation_p(draw.normal(size=20), draw.normal(size=20), 99, s) for s in range(200)]
    # 200 tests at 10 %: 20 expected, standard deviation 4.2
    assert 5 <= sum(p <= 0.1 for p in ps) <= 37
    assert permutation_p(draw.normal(2, size=20), draw.normal(size=20), 999) <= 0.002
    assert permutation_p(draw.normal(-2, size=20), draw.normal(size=20), 999) > 0.9  # one-sided


def test_the_permutation_p_is_near_the_exact_one() -> None:
    a, b = [3.0, 4.0], [1.0, 2.0, 3.0]
    from itertools import combinations

    pooled = [3.0, 4.0, 1.0, 2.0, 3.0]
    reached = [
        auc([pooled[i] for i in c], [pooled[i] for i in range(5) if i not in c]) >= auc(a, b)
        for c in combinations(range(5), 2)
    ]
    assert permutation_p(a, b, 20_000) == pytest.approx(sum(reached) / 10, abs=0.02)


def test_infinite_scores_are_ranked() -> None:
    low = -math.inf
    assert auc([0.0, low], [low, low]) == 0.75
    assert youden([0.0, 1.0], [low, low]).j == 1
    assert youden([low], [0.0]).j >= 0


@pytest.mark.parametrize("measure", [auc, auprc, youden, held_out, permutation_p])
def test_an_empty_group_and_nan_are_refused(measure: object) -> None:
    for a, b, named in ([], [1.0], "suspected"), ([1.0], [], "clean"), ([math.nan], [1.0], "NaN"):
        with pytest.raises(GraftError, match=named):
            measure(a, b)  # type: ignore[operator]
    with pytest.raises(GraftError, match="two items"):
        held_out([1.0], [1.0, 2.0])
