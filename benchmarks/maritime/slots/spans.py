"""Slots of a dialogue: spans of its turns, the words of a text, and word tags.

A span is a piece of a turn's text that says a slot: the vessel's name without its type, the position, the nature of the
trouble without the words that lead to it, the number of persons on board, the help that is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork_maritime.dialogues import Dialogue, from_json
from graftwork_runs.files import write_atomic

SLOTS = ("vessel", "position", "nature", "persons", "help")
TAGS = ("O", *(f"{mark}-{slot}" for slot in SLOTS for mark in "BI"))
_WORD = re.compile(r"\d+(?:[.,]\d+)*|\w+(?:['’-]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of a turn, counted from 1, say a slot; `score`: how sure who found it is, 0 to 1."""

    slot: str
    turn: int
    start: int
    end: int
    score: float = 1.0

    def text(self, dialogue: Dialogue) -> str:
        """The words themselves."""
        return dialogue.turns[self.turn - 1].text[self.start : self.end]


@dataclass(frozen=True)
class Labelled:
    """A dialogue with its spans, in the order in which they are said."""

    dialogue: Dialogue
    spans: tuple[Span, ...]


def words(text: str) -> list[tuple[int, int]]:
    """Where each word, number and mark of a text begins and ends."""
    return [match.span() for match in _WORD.finditer(text)]


def tags_of(text: str, spans: Iterable[Span]) -> list[int]:
    """A tag for each word of a turn: the first word of a span, a later one, or none."""
    places = words(text)
    tags = [0] * len(places)
    for span in spans:
        inside = [
            n for n, (start, end) in enumerate(places) if start < span.end and end > span.start
        ]
        for n in inside:
            tags[n] = TAGS.index(f"{'B' if n == inside[0] else 'I'}-{span.slot}")
    return tags


def spans_of(
    text: str, turn: int, tags: Sequence[int], scores: Sequence[float] | None = None
) -> list[Span]:
    """The spans that tags of a turn's words say; marks at their ends are cut. A span may begin without a B.

    `scores`: the probability of each tag; a span has the mean of its words'.
    """
    places, found = words(text), []
    first = 0
    while first < len(tags):
        slot = TAGS[tags[first]][2:]
        last = first + 1
        if slot:
            inside = TAGS.index(f"I-{slot}")
            while last < len(tags) and tags[last] == inside:
                last += 1
            kept = [n for n in range(first, last) if text[slice(*places[n])][0].isalnum()]
            if kept:
                score = 1.0
                if scores is not None:
                    score = sum(scores[first:last]) / (last - first)
                found.append(Span(slot, turn, places[kept[0]][0], places[kept[-1]][1], score))
        first = last
    return found


def placed(dialogue: Dialogue, slot: str, turn: int, start: int, text: str) -> Span:
    """The span of words that somebody wrote down.

    Raises:
        GraftError: no such slot or turn, or the turn does not have the words there.
    """
    where = f"{dialogue.id}: {slot}, turn {turn}"
    if slot not in SLOTS:
        raise GraftError(f"{where}: unknown slot; expected one of {', '.join(SLOTS)}")
    if not 1 <= turn <= len(dialogue.turns):
        raise GraftError(f"{where}: the dialogue has turns 1 to {len(dialogue.turns)}")
    end = start + len(text)
    if not text.strip() or dialogue.turns[turn - 1].text[start:end] != text:
        raise GraftError(f"{where}: {text!r} does not stand at {start}; copy the very words")
    return Span(slot, turn, start, end)


def write(file: Path, labelled: Iterable[Labelled]) -> None:
    """One line a dialogue: its fields and `spans`, rows of slot, turn, start and end."""
    lines = []
    for one in labelled:
        spans = [[s.slot, s.turn, s.start, s.end] for s in one.spans]
        raw = {**one.dialogue.to_json(), "scenario": None, "spans": spans}
        lines.append(json.dumps(raw, ensure_ascii=False))
    write_atomic(file, "\n".join(lines) + "\n")


def read(file: Path, limit: int | None = None) -> list[Labelled]:
    """What `write` wrote, at most `limit` dialogues.

    Raises:
        GraftError: a file that cannot be read, or a line that has no spans.
    """
    try:
        lines = file.read_text(encoding="utf8").splitlines()[:limit]
    except OSError as error:
        raise GraftError(f"{file}: {error.strerror}; make it with `prepare`") from None
    found = []
    for n, line in enumerate(lines, 1):
        raw: dict[str, Any] = json.loads(line)
        if "spans" not in raw:
            raise GraftError(f"{file}: line {n}: has no spans; make it with `prepare`")
        found.append(Labelled(from_json(raw), tuple(Span(*row) for row in raw["spans"])))
    return found
