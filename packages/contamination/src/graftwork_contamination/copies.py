"""How much of what a model writes is its training text: exact and near duplicates, and distinct-n.

A text is a near duplicate when the Jaccard index of its word n-grams and those of some training text reaches a
threshold (Broder 1997). The search is exact: every training text that shares an n-gram is compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graftwork.errors import GraftError
from graftwork_contamination.wordgrams import Gram, distinct_n, ngrams, words


@dataclass(frozen=True)
class Copying:
    """Rates over the written texts, with the parameters.

    Args:
        exact: share that equals a training text, up to case and white space.
        near: share whose nearest training text reaches `threshold`.
        nearest: for each text, the Jaccard index with its nearest training text; `None` below n words.
        distinct: distinct-n by n; of `reference`, the same of the training texts.
    """

    exact: float
    near: float
    nearest: tuple[float | None, ...]
    distinct: dict[int, float | None]
    reference: dict[int, float | None]
    threshold: float
    n: int
    texts: int
    training: int

    def as_dict(self) -> dict[str, Any]:
        """By name, for a file; without the single texts' values."""
        found = asdict(self)
        del found["nearest"]
        return found


def copying(
    texts: Sequence[str],
    training: Sequence[str],
    *,
    threshold: float = 0.8,
    n: int = 3,
    distinct: Sequence[int] = (1, 2, 3),
) -> Copying:
    """Compare what was written with the training texts.

    Raises:
        GraftError: no text on one side, `threshold` outside (0, 1], or an n below 1.
    """
    for name, found in (("texts", texts), ("training", training)):
        if not found:
            raise GraftError(f"{name}: there is none; copying compares texts with training texts")
    nearest = near_duplicates(texts, training, n)
    if not 0 < threshold <= 1:
        raise GraftError(f"threshold {threshold!r}: must lie in (0, 1], a Jaccard index")
    known = {tuple(words(text)) for text in training}
    exact = [tuple(words(text)) in known for text in texts]
    near = [e or (j is not None and j >= threshold) for e, j in zip(exact, nearest, strict=True)]
    return Copying(
        sum(exact) / len(texts),
        sum(near) / len(texts),
        tuple(nearest),
        {m: distinct_n(texts, m) for m in distinct},
        {m: distinct_n(training, m) for m in distinct},
        threshold,
        n,
        len(texts),
        len(training),
    )


def near_duplicates(
    texts: Sequence[str], training: Sequence[str], n: int = 3
) -> list[float | None]:
    """For each text the largest Jaccard index of word n-grams with a training text.

    `None` for a text of fewer than `n` words. Raises GraftError for `n` below 1.
    """
    sets = [set(ngrams(text, n)) for text in training]
    home: defaultdict[Gram, list[int]] = defaultdict(list)
    for i, grams in enumerate(sets):
        for gram in grams:
            home[gram].append(i)
    out: list[float | None] = []
    for text in texts:
        mine = set(ngrams(text, n))
        shared = Counter(i for gram in mine for i in home.get(gram, ()))
        best = (common / (len(mine) + len(sets[i]) - common) for i, common in shared.items())
        out.append(max(best, default=0.0) if mine else None)
    return out
