"""A part of a turn, and how parts are passed over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Item:
    """A part of a turn.

    Args:
        kind: the terminal's name in lower case, or mmsi, call_sign, position, axis, persons, miles, knots, time,
            channel, bearing, degrees, minutes, number, code, fault.
        value: what it says: a text, a number, (lat, lon), or the reason of a fault.
        start, end: where it stands in the text.
    """

    kind: str
    value: Any
    start: int
    end: int


def kind_at(items: list[Item], place: int) -> str | None:
    """The kind of a place's item; None beyond the last, and before the first."""
    return items[place].kind if 0 <= place < len(items) else None


def skip(items: list[Item], place: int, *words: str, stop: bool = False) -> int | None:
    """The next place that holds neither a pause nor one of the words; with `stop`, ends of sentences are passed too."""
    passed = ("pause", "stop") if stop else ("pause",)
    for after in range(place, len(items)):
        kind, value = items[after].kind, items[after].value
        if kind not in passed and not (kind == "word" and value.lower() in words):
            return after
    return None
