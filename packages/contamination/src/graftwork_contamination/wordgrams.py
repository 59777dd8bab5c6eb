"""n-grams of lower-cased words, and how many of a prompt's occur in the training text.

The overlap sees the training text: it bounds what a detector could know, and is none itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from graftwork.errors import GraftError

Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Lower-cased words between white space."""
    return text.lower().split()


def ngrams(text: str, n: int) -> list[Gram]:
    """All runs of `n` words, in order, repeats included.

    Raises GraftError for `n` below 1.
    """
    if n < 1:
        raise GraftError(f"n {n}: must be 1 or more")
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def training_ngrams(texts: Iterable[str], n: int) -> set[Gram]:
    """The union over training texts."""
    return {gram for text in texts for gram in ngrams(text, n)}


def ngram_overlap(prompt: str, training: AbstractSet[Gram], n: int = 3) -> float | None:
    """The share of the prompt's distinct n-grams that occur in training; `None` where it has none."""
    mine = set(ngrams(prompt, n))
    return len(mine & training) / len(mine) if mine else None


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Distinct n-grams over all n-grams of all texts (Li et al. 2016); `None` where there are none."""
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else None
