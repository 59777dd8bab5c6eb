"""The shots: drawn by a hash, nested, one held out, and no more cases read than needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork_medseg.fewshot.shots import Shots, choose

CASES = [f"case{i}" for i in range(14)]
having = st.sets(st.sampled_from(CASES))


@given(having, st.integers(1, 13), st.integers(0, 3), st.permutations(CASES))
def test_shots_qualify_are_nested_and_do_not_depend_on_the_order(
    good: set[str], k: int, fold: int, order: list[str]
) -> None:
    asked: list[str] = []

    def has(name: str) -> bool:
        asked.append(name)
        return name in good

    if len(good) < k + 1:
        with pytest.raises(GraftError, match=f"only {len(good)} of 14 qualify"):
            choose(CASES, ["a"], has, k, fold)
        return
    chosen = choose(CASES, ["a"], has, k, fold)
    assert len({*chosen.train}) == len(chosen.train) == k
    assert chosen.audit in good - {*chosen.train} and {*chosen.train} <= good
    assert not {*chosen.lacking} & good
    # read once each, and not one more than was needed
    assert sorted(asked) == sorted([*chosen.train, chosen.audit, *chosen.lacking])
    assert asked[-1] == chosen.train[-1]
    assert choose(order, ["a"], good.__contains__, k, fold) == chosen
    if k > 1:
        fewer = choose(CASES, ["a"], good.__contains__, k - 1, fold)
        assert fewer.train == chosen.train[:-1] and fewer.audit == chosen.audit


@given(having, st.integers(0, 3))
def test_without_a_number_all_that_qualify_are_used(good: set[str], fold: int) -> None:
    if not good:
        with pytest.raises(GraftError, match="shots all: a and b must be labelled in 1 case"):
            choose(CASES, ["a", "b"], good.__contains__, None, fold)
        return
    chosen = choose(CASES, ["b", "a"], good.__contains__, None, fold)
    if len(good) == 1:
        assert chosen == Shots((*good,), None, chosen.lacking)
    else:
        assert {*chosen.train, chosen.audit} == good and len(chosen.train) == len(good) - 1
    assert {*chosen.lacking} == {*CASES} - good


def test_folds_organs_and_salts_draw_differently_and_for_ever() -> None:
    first = choose(CASES, ["a"], lambda _: True, 3)
    assert first == Shots(("case0", "case5", "case3"), "case4")  # by SHA-256: the same for ever
    assert choose(CASES, ["a"], lambda _: True, 3, fold=1) != first
    assert choose(CASES, ["b"], lambda _: True, 3) != first
    assert choose(CASES, ["a"], lambda _: True, 3, salt="task") != first
    assert choose(CASES, ["a", "b"], lambda _: True, 3) == choose(
        CASES, ["b", "a"], lambda _: True, 3
    )


@pytest.mark.parametrize(("shots", "fold"), [(0, 0), (-1, 0), (2, -1)])
def test_numbers_out_of_range_are_refused(shots: int, fold: int) -> None:
    with pytest.raises(GraftError, match=r"shots .* must be at least 1, and fold .* at least 0"):
        choose(CASES, ["a"], lambda _: True, shots, fold)
