"""Figures, letters and numbers as they are found in free wording, with where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...spoken.alphabet import FIGURE_OF, LETTER_OF, PRONOUNCED
from ...spoken.numbers import NUMBER_WORDS, SCALES, read_number

_TOKEN = re.compile(r"x-ray|[a-z]+|\d+")
_GAP = re.compile(r"[\s,-]{1,3}")
_AND = re.compile(r"[\s-]+and[\s-]+")  # one hundred and ten
_NEW_SENTENCE = re.compile(r"[.?!]\s")
_FIGURES = FIGURE_OF | PRONOUNCED
_LONGEST = 7  # characters of a call sign


@dataclass(frozen=True)
class Said:
    """What some words stand for, and the part of the text that holds them."""

    value: str
    start: int
    end: int


def _tokens(text: str) -> list[re.Match[str]]:
    return list(_TOKEN.finditer(text.lower()))


def _runs(text: str, belongs: dict[str, str] | set[str]) -> Iterator[list[re.Match[str]]]:
    """Longest rows of neighbouring words that belong, or are numerals."""
    row: list[re.Match[str]] = []
    low = text.lower()
    for token in _tokens(text):
        if token[0] == "and" and row and row[-1][0] in SCALES:
            continue
        gap = low[row[-1].end() : token.start()] if row else ""
        near = not row or _GAP.fullmatch(gap) or (row[-1][0] in SCALES and _AND.fullmatch(gap))
        fits = token[0] in belongs or token[0].isdigit()
        if row and not (near and fits):
            yield row
            row = []
        if fits:
            row.append(token)
    if row:
        yield row


def figures(text: str, least: int = 1) -> list[Said]:
    """Rows of figures said one at a time or written: "two zero 13" is 2013."""
    found = []
    for row in (part for run in _runs(text, _FIGURES) for part in _parted(text, run)):
        value = "".join(_FIGURES.get(t[0], t[0]) for t in row)
        if len(value) >= least:
            found.append(Said(value, row[0].start(), row[-1].end()))
    return found


def _parted(text: str, row: list[re.Match[str]]) -> Iterator[list[re.Match[str]]]:
    """Figures after a comma are another number where the nine of an MMSI, perhaps in groups, end before it."""
    said = 0
    for place, token in enumerate(row):
        said += len(_FIGURES.get(token[0], token[0]))
        if place + 1 < len(row) and said == 9 and "," in text[token.end() : row[place + 1].start()]:
            yield row[: place + 1]
            yield row[place + 1 :]
            return
    yield row


def spelled(text: str, least: int = 2) -> list[Said]:
    """Rows of letters of the spelling alphabet and figures that hold a letter: "Zulu Quebec five" is ZQ5.

    Three and more figures before the first letter are another number, such as an MMSI: no call sign begins so.
    """
    found = []
    for row in _runs(text, LETTER_OF | _FIGURES):
        first = next((i for i, t in enumerate(row) if t[0] in LETTER_OF), len(row))
        row = row[first:] if first > 2 else row
        letters = any(t[0] in LETTER_OF for t in row)
        if len(row) > _LONGEST:  # the number after a comma is another, such as an MMSI
            pause = next(
                (i for i in range(1, len(row)) if "," in text[row[i - 1].end() : row[i].start()]),
                len(row),
            )
            row = row[:pause]
        value = "".join((LETTER_OF | _FIGURES).get(t[0], t[0]) for t in row)
        if letters and len(row) >= least:
            found.append(Said(value, row[0].start(), row[-1].end()))
    return found


def numbers(text: str) -> list[Said]:
    """Numbers as digits or as words: "twenty one", "two one" and "21" are all 21."""
    found = []
    for row in (part for run in _runs(text, NUMBER_WORDS) for part in _parted(text, run)):
        words, parts = [t[0] for t in row], []
        if any(w.isdigit() for w in words):  # a numeral stands alone
            parts = [Said(t[0], t.start(), t.end()) for t in row if t[0].isdigit()]
        else:
            parts = [Said(read_number(words), row[0].start(), row[-1].end())]
        found += parts
    return found


def before(text: str, word: str) -> Iterator[int]:
    """Whole numbers that stand right before a pattern: those of "persons" in "we are five persons"."""
    wanted = re.compile(rf"[\s,-]+(?:{word})", re.IGNORECASE)
    for one in numbers(text):
        if wanted.match(text, one.end):
            yield int(one.value)


def after(text: str, word: str, found: list[Said], words: int = 2) -> Iterator[Said]:
    """Of `found`, what follows a pattern in its sentence with at most some words between."""
    for lead in re.finditer(word, text, re.IGNORECASE):
        between = re.compile(rf"\W*(?:\w+\W+){{0,{words}}}$")
        close = (s for s in found if s.start >= lead.end())
        first = next(close, None)
        gap = text[lead.end() : first.start] if first else ""
        if first and between.match(gap) and not _NEW_SENTENCE.search(gap):
            yield first
