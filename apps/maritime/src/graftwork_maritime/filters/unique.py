"""The paper's uniqueness: how close a dialogue comes to others, once the part that all share is cut off."""

from __future__ import annotations

from collections.abc import Iterable

from .rouge import Pool

LIMIT = 0.7  # of ROUGE-L F; a closer one is not new


def after_position(text: str) -> str:
    """What follows the sentence that first says "degree"; the whole text where none does."""
    before, degree, after = text.partition("degree")
    return after.partition(".")[2].strip() if degree else before


class Texts:
    """Dialogues that a new one is compared with, cut or whole as the new one can be cut or not."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._cut, self._whole = Pool(), Pool()
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Put one more in."""
        self._cut.add(after_position(text))
        self._whole.add(text)

    def __len__(self) -> int:
        return len(self._whole)

    def closest(self, text: str) -> float:
        """The largest ROUGE-L F, 0 to 1."""
        if "degree" in text:
            return self._cut.closest(after_position(text))
        return self._whole.closest(text)
