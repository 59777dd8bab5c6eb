"""Decoding under which no field of a fact takes other words than the scenario's.

A guide follows one row's text. A token that would make the text say another MMSI, call sign, position, time, number of
persons or vessel's name is refused where it begins to do so, and drawn again among those that go on with the
scenario's words; all other tokens stay as they were drawn. Which text opens a field: `openings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graftwork_llm.pieces import Pieces, raw

from ..scenario import Scenario
from .openings import Field, fields, may_open

_PARTS = re.compile(r"\n|[^\w\n]*\w+|[^\w\n]+")  # each word ends a part


class _Refused(Exception):
    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__()
        self.lines = lines  # with what may be said instead


@dataclass(frozen=True)
class _State:
    """A line so far; `rest`: what must come of a value, empty text where it is whole; `free`: or anything else."""

    line: str = ""
    rest: frozenset[str] = frozenset()
    free: bool = True

    @property
    def ends(self) -> bool:
        """Whether a line may end here."""
        return self.free or "" in self.rest


class FactGuide:
    """Follows one row's text (`graftwork_llm.decoding.Guide`).

    Args:
        scenario: whose facts are kept.
        pieces: of the tokenizer.
        end: the token that ends an answer.
        told: the beginning of the text, which was not drawn.

    Attributes:
        refused: tokens that were drawn again.
    """

    def __init__(self, scenario: Scenario, pieces: Pieces, end: int, told: str = "") -> None:
        self.pieces, self.end, self.refused = pieces, end, 0
        self._fields: tuple[Field, ...] = fields(scenario)
        self._state = _State(raw(told).rpartition("\n")[2])
        self._wanted: list[str] = []
        self._next: dict[int, _State] = {}

    def accepts(self, token: int) -> bool:
        """Whether the text stays true with it."""
        try:
            self._next = {token: self._after(token)}
        except _Refused as refused:
            so_far = self._state.line
            self._wanted = [
                line[len(so_far) :] for line in refused.lines if line.startswith(so_far)
            ]
            return False
        return True

    def instead(self, likely: Sequence[int]) -> Sequence[int]:
        """The tokens that begin what must be said, else those of `likely` that change no fact."""
        self.refused += 1
        wanted = [t for text in self._wanted for t in self.pieces.beginning(text)]
        found = [t for t in dict.fromkeys(wanted) if self._fits(t)]
        return found or [t for t in likely if self._fits(t)]

    def take(self, token: int) -> None:
        """Goes on with it."""
        self._state = self._next.get(token) or self._after(token)
        self._next = {}

    def _fits(self, token: int) -> bool:
        try:
            self._after(token)
        except _Refused:
            return False
        return True

    def _after(self, token: int) -> _State:
        state = self._state
        piece = self.pieces.texts[token]
        if not piece:  # a special token, or bytes that are not known
            if not state.ends:
                raise _Refused([state.line + r for r in state.rest if r])
            return state
        for part in _PARTS.findall(piece):
            state = self._add(state, part)
        return state

    def _add(self, state: _State, part: str) -> _State:
        left = [state.line + r for r in state.rest if r]
        if part == "\n":
            if not state.ends:
                raise _Refused(left)
            return _State()
        line = state.line + part
        rest = {r[len(part) :] for r in state.rest if r and r.startswith(part)}
        free = False
        if state.free or ("" in state.rest and not re.match(r"\w", part)):
            try:
                opened, other = self._open(line)
            except _Refused as refused:
                if not rest:
                    raise _Refused([*left, *refused.lines]) from None
            else:
                free = other
                rest |= opened
        if not rest and not free:
            raise _Refused(left)
        return _State(line, frozenset(rest), free)

    def _open(self, line: str) -> tuple[set[str], bool]:
        """What must come of a value that the line's end begins, and whether anything else may."""
        opened: set[str] = set()
        free = True
        for field, (start, end) in self._opening(line):
            said, before = line[start:end], line[:start]
            fitting = [
                v for v in field.values if v == said or (v.startswith(said) and not field.whole)
            ]
            if not fitting:
                raise _Refused([] if field.whole else [before + v for v in field.values])
            if not field.whole:
                opened |= {v[len(said) :] for v in fitting}
                free = free and field.soft
        return opened, free

    def _opening(self, line: str) -> Iterator[tuple[Field, tuple[int, int]]]:
        if not may_open(line):
            return
        for field in self._fields:
            span = field.said(line)
            if span is not None:
                yield field, span
