"""Perplexity, Min-K %, n-grams and copying, on numbers and texts that can be checked by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork import GraftError
from graftwork_contamination import (
    Parameters,
    copying,
    distinct_n,
    min_k,
    near_duplicates,
    ngram_overlap,
    ngrams,
    perplexity,
)
from graftwork_contamination.likelihood import perplexity_score
from graftwork_contamination.wordgrams import training_ngrams

lps = st.lists(st.floats(-30, 0), min_size=1, max_size=40)
texts = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=8).map(" ".join)


@given(lps)
def test_min_k_of_all_is_minus_the_logarithm_of_the_perplexity(lp: list[float]) -> None:
    assert min_k(lp, 100) == pytest.approx(-math.log(perplexity(lp)), abs=1e-9)
    assert perplexity_score(lp) == pytest.approx(1 / (1 + perplexity(lp)))


@given(lps, st.floats(0.1, 100), st.floats(0.1, 100))
def test_min_k_grows_with_k_and_knows_no_order(lp: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert min_k(lp, low) <= min_k(lp, high) + 1e-12
    assert min_k(random.Random(1).sample(lp, len(lp)), low) == min_k(lp, low)


@given(lps, lps)
def test_perplexity_and_its_score_rank_in_reverse(a: list[float], b: list[float]) -> None:
    if perplexity(a) < perplexity(b):
        assert perplexity_score(a) >= perplexity_score(b)


def test_by_hand() -> None:
    lp = [math.log(p) for p in (0.5, 0.25, 0.125, 1.0, 0.5)]
    assert perplexity(lp) == pytest.approx(2 ** (7 / 5))
    assert min_k(lp, 20) == pytest.approx(math.log(0.125))
    assert min_k(lp, 40) == pytest.approx((math.log(0.125) + math.log(0.25)) / 2)
    assert min_k(lp, 41) == pytest.approx(
        (math.log(0.125) + math.log(0.25) + math.log(0.5)) / 3
    )  # the ceiling
    assert (perplexity([]), perplexity_score([]), min_k([])) == (math.inf, 0.0, -math.inf)
    assert perplexity([-1e6]) == math.inf


@pytest.mark.parametrize("k", [0, -1, 101, float("nan")])
def test_a_k_out_of_range_is_refused(k: float) -> None:
    with pytest.raises(GraftError, match="k "):
        min_k([-1.0], k)


def test_nan_is_refused() -> None:
    for measure in (perplexity, min_k):
        with pytest.raises(GraftError, match="NaN"):
            measure([-1.0, float("nan")])


@pytest.mark.parametrize(
    ("name", "value"),
    [("samples", 0), ("samples", 1.5), ("temperature", -0.1), ("temperature", math.inf), ("alpha", 1.01),
     ("k", 0), ("n", 0), ("max_tokens", 1), ("rows", 0), ("seed", -1), ("level", 0), ("l_max", True)],
)  # fmt: skip
def test_parameters_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(GraftError, match=f"^{name} "):
        Parameters(**{name: value})  # type: ignore[arg-type]


def test_the_parameters_are_the_papers() -> None:
    told = Parameters().as_dict()
    wanted = {
        "samples": 50,
        "temperature": 0.8,
        "alpha": 0.05,
        "max_new_tokens": 100,
        "l_max": 100,
        "k": 20,
        "n": 3,
    }
    assert wanted.items() <= told.items()


@given(texts, st.lists(texts, max_size=5), texts, st.integers(1, 4))
def test_the_overlap_lies_in_0_to_1_and_grows_with_training(
    prompt: str, training: list[str], more: str, n: int
) -> None:
    some = ngram_overlap(prompt, training_ngrams(training, n), n)
    if len(prompt.split()) < n:
        assert some is None
        return
    wider = ngram_overlap(prompt, training_ngrams([*training, more], n), n)
    assert some is not None and wider is not None and 0 <= some <= wider <= 1
    assert ngram_overlap(prompt, training_ngrams([*training, prompt], n), n) == 1
    assert ngram_overlap(prompt, training_ngrams(["x y z x y z"], n), n) == 0


def test_ngrams_are_of_lower_cased_words() -> None:
    assert ngrams("The  cat SAT", 2) == [("the", "cat"), ("cat", "sat")]
    assert distinct_n(["a a a", "a b"], 1) == 2 / 5
    assert distinct_n(["a a a", "a b"], 2) == 2 / 3
    assert distinct_n(["a"], 2) is None
    with pytest.raises(GraftError, match="n 0"):
        ngrams("a", 0)


def jaccard(a: str, b: str, n: int) -> float:
    one, two = set(ngrams(a, n)), set(ngrams(b, n))
    return len(one & two) / len(one | two)


@given(
    st.lists(texts, min_size=1, max_size=5),
    st.lists(texts, min_size=1, max_size=5),
    st.integers(1, 3),
)
def test_the_nearest_training_text_is_that_of_all_pairs(
    written: list[str], training: list[str], n: int
) -> None:
    for text, found in zip(written, near_duplicates(written, training, n), strict=True):
        if len(text.split()) < n:
            assert found is None
        else:
            assert found == max(jaccard(text, t, n) for t in training)
    assert copying(training, training, n=n).near == 1


def test_copying_counts_copies_and_near_copies() -> None:
    training = ["one two three four five six seven eight nine ten eleven twelve", "go"]
    written = [
        "One two three four five six  seven eight nine ten eleven twelve",
        "one two three four five six seven eight nine ten eleven twelve thirteen",
        "one two three four and nothing else of that text at all here",
        "GO",
        "stop",
    ]
    found = copying(written, training)
    assert (found.exact, found.near) == (2 / 5, 3 / 5)
    assert found.nearest[0] == 1 and found.nearest[1] == 10 / 11 and found.nearest[3] is None
    assert found.as_dict()["threshold"] == 0.8 and "nearest" not in found.as_dict()
    for bad in ({"threshold": 0}, {"threshold": 1.5}, {"n": 0}):
        with pytest.raises(GraftError):
            copying(written, training, **bad)  # type: ignore[arg-type]
    with pytest.raises(GraftError, match="training"):
        copying(written, [])
