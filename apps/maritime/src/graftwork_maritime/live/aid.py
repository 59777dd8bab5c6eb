"""Which help a coast station sends and when it arrives: what it knows, and what it must not say otherwise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from random import Random

from ..grammar.phrases import procedure, rescue
from ..scenario.model import Scenario
from .truth import NUMBERS, number

_MINUTES = re.compile(r"\s*minutes?\b(?!\s+(north|south|east|west))")


@dataclass(frozen=True)
class Aid:
    """The unit, with its article, and the minutes until it arrives."""

    unit: str
    minutes: int

    @property
    def bare(self) -> str:
        """The unit without its article."""
        return _bare(self.unit)


def aid(scenario: Scenario) -> Aid:
    """A pure function of the scenario."""
    return Aid(*rescue(scenario, Random(f"graftwork aid {scenario.id}")))


def said(text: str, known: Aid) -> bool:
    """Whether the text says the unit and the minutes."""
    return known.bare in units(text) and known.minutes in minutes(text)


def wrong(text: str, known: Aid) -> list[str]:
    """`unit`, `minutes`: which of them the text says otherwise.

    Units count only where the sentence has an arrival, for tugs and lifeboats call, too.
    """
    timed = [s for s in re.findall(r"[^.?!]+[.?!]*", text) if minutes(s)]
    others = {unit for s in timed for unit in units(s)} - {known.bare}
    times = {n for s in timed for n in minutes(s)} - {known.minutes}
    return [*(["unit"] if others else []), *(["minutes"] if times else [])]


def minutes(text: str) -> list[int]:
    """Numbers that stand before "minutes", but not those of a position."""
    low = text.lower()
    words = [(row[0], row.end()) for row in NUMBERS.finditer(low)]
    figures = [(row[0], row.end()) for row in re.finditer(r"\b\d{1,4}\b", low)]
    return [number(row) for row, end in (*words, *figures) if _MINUTES.match(low, end)]


def units(text: str) -> list[str]:
    """Units that the text names: of "a salvage tug" not the tug."""
    return _named().findall(text.lower())


@cache
def _named() -> re.Pattern[str]:
    names = {_bare(unit) for known in procedure()["units"].values() for unit in known}
    return re.compile(rf"\b(?:{'|'.join(sorted(names, key=len, reverse=True))})\b")


def _bare(unit: str) -> str:
    return re.sub(r"^(a|an|the) ", "", unit)
