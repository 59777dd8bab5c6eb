"""Edit distance and peakedness on generated sequences."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork import GraftError
from graftwork_contamination import edit_distance, edit_distance_within, peakedness

tokens = st.lists(st.integers(0, 3), max_size=14)
many = st.lists(tokens, min_size=1, max_size=8)


def by_recursion(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return len(a) + len(b)
    kept = by_recursion(a[1:], b[1:]) + (a[0] != b[0])
    return min(by_recursion(a[1:], b) + 1, by_recursion(a, b[1:]) + 1, kept)


@given(st.lists(st.integers(0, 2), max_size=5), st.lists(st.integers(0, 2), max_size=5))
def test_the_distance_is_that_of_the_definition(a: list[int], b: list[int]) -> None:
    assert edit_distance(a, b) == by_recursion(a, b)


@given(tokens, tokens, tokens)
def test_the_distance_is_a_metric_between_its_bounds(
    a: list[int], b: list[int], c: list[int]
) -> None:
    d = edit_distance(a, b)
    assert d == edit_distance(b, a) and (d == 0) == (a == b)
    assert edit_distance(a, c) <= d + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= d <= max(len(a), len(b))


@given(tokens, tokens, st.integers(0, 16))
def test_the_band_gives_the_whole_distance_or_says_that_it_is_larger(
    a: list[int], b: list[int], bound: int
) -> None:
    d = edit_distance(a, b)
    assert edit_distance_within(a, b, bound) == (d if d <= bound else None)


@given(tokens, many, st.floats(0, 1), st.floats(0, 1))
def test_peakedness_is_a_share_that_grows_with_alpha(
    greedy: list[int], samples: list[list[int]], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    a, b = (peakedness(greedy, samples, alpha) for alpha in (low, high))
    assert a.value <= b.value
    assert a.value * len(samples) == pytest.approx(round(a.value * len(samples)))
    near = sum(edit_distance(greedy, s) <= low * a.length + 1e-9 for s in samples)
    assert a.value == near / len(samples)
    assert peakedness(greedy, samples, 1.0).value == 1.0
    mixed = random.Random(0).sample(samples, len(samples))
    assert peakedness(greedy, mixed, low) == a


@given(tokens, many, st.integers(1, 6))
def test_what_lies_behind_the_cut_does_not_count(
    greedy: list[int], samples: list[list[int]], cut: int
) -> None:
    short = peakedness(greedy[:cut], [s[:cut] for s in samples], 0.2, 100)
    assert peakedness(greedy, samples, 0.2, cut) == short and short.length <= cut


@given(st.floats(0, 1), st.integers(1, 9))
def test_empty_answers_are_flagged_as_no_evidence(alpha: float, n: int) -> None:
    found = peakedness([], [[]] * n, alpha)
    assert (found.value, found.length, found.degenerate) == (1.0, 0, True)
    assert not peakedness([1], [[]] * n, alpha).degenerate


def test_below_one_edit_only_copies_count() -> None:
    found = peakedness([1] * 19, [[1] * 19, [1] * 18], 0.05)
    assert found.value == 0.5 and found.exact_only
    found = peakedness([1] * 20, [[1] * 20, [1] * 19], 0.05)
    assert found.value == 1.0 and not found.exact_only and found.bound == 1
    assert peakedness([1] * 100, [[2] * 29 + [1] * 71], 0.29).value == 1.0  # in floats below 29


@pytest.mark.parametrize(
    ("samples", "alpha", "l_max", "named"),
    [([], 0.05, 100, "samples"), ([[1]], -0.1, 100, "alpha"), ([[1]], 1.1, 100, "alpha"),
     ([[1]], float("nan"), 100, "alpha"), ([[1]], 0.1, 0, "l_max")],
)  # fmt: skip
def test_bad_parameters_are_refused(
    samples: list[list[int]], alpha: float, l_max: int, named: str
) -> None:
    with pytest.raises(GraftError, match=named):
        peakedness([1], samples, alpha, l_max)
