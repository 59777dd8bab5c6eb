"""Drafts looked up in the text so far: what followed the same few tokens before, read all at once to be checked.

Prompt lookup decoding (Saxena 2023), a speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) without a second
model. A dialogue says names, positions and whole calls again, and reading sixteen tokens takes little longer than one.
"""

from __future__ import annotations

from collections.abc import Sequence

GRAM = 3  # tokens that must have come before
MOST = 16  # tokens of a draft


class Lookup:
    """The tokens so far, and where each few of them came last.

    Args:
        tokens: what is known at the beginning.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """One more token at the end."""
        gram = tuple(self._tokens[-GRAM:])
        if len(gram) == GRAM:
            self._behind[gram] = len(self._tokens)
        self._tokens.append(token)

    def draft(self, most: int = MOST) -> list[int]:
        """What followed the last `GRAM` tokens when they came before, at most `most`; none where they did not."""
        at = self._behind.get(tuple(self._tokens[-GRAM:]))
        return [] if at is None else self._tokens[at : at + most]
