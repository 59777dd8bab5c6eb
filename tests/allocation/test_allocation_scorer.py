"""The scorer: averages, medians and spreads of a unit's audits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from graftwork.allocation.diary import spearman
from graftwork.allocation.scorer import Scorer, spread

densities = st.floats(-1e-3, 1e-3, allow_nan=False)
histories = st.lists(densities, min_size=1, max_size=12)
settings = st.tuples(st.floats(0, 0.99), st.integers(1, 7), st.floats(0, 2), st.floats(0, 2))


def fed(history: list[float], *options: float) -> Scorer:
    scorer = Scorer(*options)  # type: ignore[arg-type]
    for density in history:
        scorer.observe("u", density)
    return scorer


@given(densities, st.integers(1, 9), settings)
def test_a_constant_density_is_its_own_score(x: float, n: int, options: tuple[float, ...]) -> None:
    scorer = fed([x] * n, *options)
    assert scorer.mean("u") == pytest.approx(x, rel=1e-9, abs=1e-15)
    assert scorer.score("u") == pytest.approx(x, rel=1e-9, abs=1e-15)
    assert scorer.unsure("u") == pytest.approx(0, abs=1e-15)
    assert scorer.value("u") == pytest.approx(x, rel=1e-9, abs=1e-15)


@given(histories, settings)
def test_against_the_equations(history: list[float], options: tuple[float, ...]) -> None:
    memory, window, caution, optimism = options
    means = [history[0]]
    for density in history[1:]:
        means.append(memory * means[-1] + (1 - memory) * density)
    last = means[-int(window) :]
    low, middle, high = np.percentile(last, [25, 50, 75])
    scorer = fed(history, *options)
    s = middle - caution * (high - low)
    assert scorer.mean("u") == means[-1]
    assert scorer.score("u") == pytest.approx(s, rel=1e-9, abs=1e-15)
    q = abs(means[-1] - s)
    assert scorer.unsure("u") == pytest.approx(q, rel=1e-6, abs=1e-15)
    assert scorer.value("u") == pytest.approx(s + optimism * q, rel=1e-6, abs=1e-15)


@given(histories)
def test_without_caution_the_median_and_without_memory_the_last(history: list[float]) -> None:
    scorer = fed(history, 0.0, 5, 0.0, 0.0)
    assert scorer.mean("u") == history[-1]
    assert scorer.score("u") == pytest.approx(float(np.median(history[-5:])), abs=1e-18)


@given(densities, st.floats(1e-2, 1.0), st.integers(0, 4), st.floats(0, 0.9))
def test_one_outlier_moves_the_score_less_than_the_mean(
    x: float, outlier: float, place: int, memory: float
) -> None:
    """In the window of 5 averages: here the averages themselves are the values (as at beta = 0)."""
    values = [x] * 5
    values[place] = x + outlier
    scorer = Scorer(memory, 5)
    scorer.averages["u"] = values
    assert abs(scorer.score("u") - x) < abs(np.mean(values) - x)
    if place == 4:
        assert abs(scorer.score("u") - x) < abs(scorer.mean("u") - x)  # type: ignore[operator]


def test_a_unit_without_audits() -> None:
    scorer = Scorer()
    assert (scorer.mean("u"), scorer.score("u"), scorer.unsure("u")) == (None, 0.0, 0.0)
    scorer.observe("u", 3e-4)
    assert scorer.score("u") == 3e-4 and spread([1.0]) == 0.0


@given(histories, histories)
def test_state_survives_json(first: list[float], then: list[float]) -> None:
    a = fed(first)
    b = Scorer()
    b.load_state_dict(json.loads(json.dumps(a.state_dict())))
    for density in then:
        a.observe("u", density), b.observe("u", density)
    assert a.state_dict() == b.state_dict() and a.value("u") == b.value("u")


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=20))
def test_spearman(pairs: list[tuple[int, int]]) -> None:
    got = spearman([(float(a), float(b)) for a, b in pairs])
    if len({a for a, _ in pairs}) == 1 or len({b for _, b in pairs}) == 1:
        assert got is None
    else:
        assert got == pytest.approx(
            float(spearmanr(*zip(*pairs, strict=True)).statistic), abs=1e-12
        )


def test_spearman_of_too_little() -> None:
    assert spearman([]) is None and spearman([(1.0, 2.0)]) is None
