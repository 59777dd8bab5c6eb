"""ROUGE-L against the plain table of the longest common subsequence, and its properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork_maritime.filters.rouge import Pool, common, rouge_l, words

TEXTS = st.lists(st.sampled_from("abcd"), max_size=70)


def by_table(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        last = row
        row = [0]
        for j, y in enumerate(b):
            row.append(last[j] + 1 if x == y else max(row[-1], last[j + 1]))
    return row[-1]


@given(TEXTS, TEXTS)
def test_common_is_the_longest_common_subsequence(a: list[str], b: list[str]) -> None:
    assert common(a, b) == by_table(a, b)


@given(TEXTS, TEXTS)
def test_it_is_symmetric_and_within_its_bounds(a: list[str], b: list[str]) -> None:
    one, other = rouge_l(" ".join(a), " ".join(b)), rouge_l(" ".join(b), " ".join(a))
    assert one == other and 0 <= one <= 1
    assert rouge_l(" ".join(a), " ".join(a)) == (1 if a else 0)


def test_words_and_a_value_by_hand() -> None:
    assert words("Mayday, 2 x X-ray!") == ["mayday", "2", "x", "x", "ray"]
    # common: the cat the mat, 4 words of 6 and of 5
    assert rouge_l("the cat sat on the mat", "the cat is the mat") == pytest.approx(8 / 11)
    assert rouge_l("one two", "three four") == 0


@given(st.lists(TEXTS, max_size=6), TEXTS)
def test_the_pool_gives_the_largest(pool: list[list[str]], new: list[str]) -> None:
    text = " ".join(new)
    wanted = max((rouge_l(text, " ".join(old)) for old in pool), default=0)
    found = Pool(" ".join(p) for p in pool)
    assert found.closest(text) == wanted and len(found) == len(pool)
