"""The verdict against a table, against coverage by simulation, and on the inputs that it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork_medseg.fewshot.verdict import BETTER, UNDECIDED, WORSE, judge


def cases(*values: float) -> dict[str, float]:
    return {f"case{i}": v for i, v in enumerate(values)}


def test_the_interval_by_hand() -> None:
    # differences .1 .2 .3: mean .2, s .1, t(2) at 95 % = 4.302653 (any table)
    verdict = judge(cases(0.5, 0.5, 0.5), cases(0.6, 0.7, 0.8))
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert verdict.difference == pytest.approx(0.2)
    assert (verdict.lo, verdict.hi) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    assert verdict.word == UNDECIDED
    assert "no evidence" in verdict.line() and "+0.200" in verdict.line()


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=12),
    st.floats(0.01, 0.5),
)
def test_swapping_the_two_turns_the_verdict_round(values: list[float], shift: float) -> None:
    base, graft = cases(*values), cases(*(v + shift for v in values))
    there, back = judge(base, graft), judge(graft, base)
    assert (there.word, back.word) == (BETTER, WORSE)  # equal differences: no spread at all
    assert there.lo == pytest.approx(-(back.hi or 0), abs=1e-9)
    assert judge(base, base).word == UNDECIDED


def test_one_case_is_never_evidence() -> None:
    verdict = judge(cases(0.0), cases(1.0))
    assert verdict.word == UNDECIDED and verdict.lo is None
    assert "at least two" in verdict.line()


def test_without_a_difference_it_is_rarely_wrong() -> None:
    # 5 cases, no true difference: a word other than "no evidence" in about 5 % of 2,000 draws
    draw = np.random.default_rng(0)
    words = [
        judge(cases(*draw.normal(0.6, 0.1, 5)), cases(*draw.normal(0.6, 0.1, 5))).word
        for _ in range(2000)
    ]
    wrong = sum(word != UNDECIDED for word in words) / len(words)
    assert 0.035 < wrong < 0.065


@pytest.mark.parametrize(
    ("base", "graft", "word"),
    [
        ({}, {}, "no case"),
        (cases(0.5, 0.5), cases(0.5), "case1"),
        (cases(0.5, math.nan), cases(0.5, 0.5), "NaN"),
    ],
)
def test_what_cannot_be_judged(base: dict[str, float], graft: dict[str, float], word: str) -> None:
    with pytest.raises(GraftError, match=word):
        judge(base, graft)
    with pytest.raises(GraftError, match="level"):
        judge(cases(0.1), cases(0.1), level=1.0)
