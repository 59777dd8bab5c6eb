"""ROUGE-L between texts (Lin, 2004): F of the longest common subsequence of their words, without stemming."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Lower-case runs of the letters a to z and the digits."""
    return _WORD.findall(text.lower())


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    A row of the table is the bits of one integer, so a word of `b` costs a few operations on it (Hyyrö, 2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(a)) - 1
    row = every
    for word in b:
        hit = row & places.get(word, 0)
        row = (row + hit | row - hit) & every
    return len(a) - row.bit_count()


def rouge_l(a: str, b: str) -> float:
    """ROUGE-L F of two texts, 0 to 1; 0 when either has no word."""
    return _f(words(a), words(b))


def _f(a: Sequence[str], b: Sequence[str]) -> float:
    shared = common(a, b) if a and b else 0
    return 2 * shared / (len(a) + len(b)) if shared else 0.0


class Pool:
    """Texts that a new one must differ from."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts = [words(t) for t in texts]

    def add(self, text: str) -> None:
        """Put one more in."""
        self._texts.append(words(text))

    def __len__(self) -> int:
        return len(self._texts)

    def closest(self, text: str) -> float:
        """The largest ROUGE-L F of `text` to any of them, 0 for an empty pool."""
        new, best = words(text), 0.0
        for old in self._texts:
            total = len(new) + len(old)
            if total and 2 * min(len(new), len(old)) / total > best:  # else it cannot be closer
                best = max(best, _f(new, old))
        return best
