"""Facts that are said twice, and facts that are not true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..scenario.model import Scenario
from . import lexicon
from .item import Item
from .readback import parts
from .state import Message, State, Violation

_NAMES = {
    "mmsi": "MMSI",
    "call_signs": "call sign",
    "positions": "position",
    "persons": "number of persons on board",
}
_CLOSE = 0.0004  # degrees; hundredths of a minute are 0.00017


def _values(message: Message, key: str) -> tuple[Any, ...]:
    values: tuple[Any, ...] = getattr(message, key)
    if key == "mmsi":  # coast stations say their own
        return tuple(v for v in values if not v.startswith("00"))
    return values


def _same(key: str, one: Any, two: Any) -> bool:
    if key == "positions":
        return bool(abs(one[0] - two[0]) < _CLOSE and abs(one[1] - two[1]) < _CLOSE)
    return bool(one == two)


def changed(state: State) -> Iterator[Violation]:
    """Own facts that a station says differently later on, and facts read back wrongly."""
    for key, name in _NAMES.items():
        known: list[Any] = []
        parts: list[int] = []
        for message in state.messages:
            values = _values(message, key)
            own = message.speaker == "ship"
            some = key == "persons" and lexicon.SOME.search(message.text)
            if own and some:  # of those who stay or leave
                parts += [
                    int(i.value) for i in message.items if i.kind == key and i.value.isdigit()
                ]
            if not values:
                continue
            fixed = key == "positions" and message.times  # a position of its own time
            moves = lexicon.UPDATES.search(message.text) or some or fixed
            free = "correction" in message.acts or (
                key in ("positions", "persons") and own and bool(moves)
            )
            if own and (not known or free):
                known.extend(values)
                continue
            wrong = [
                v for v in values if known and not any(_same(key, v, k) for k in (*known, *parts))
            ]
            if not wrong or free:
                continue
            text = f"the {name} was {_show(known[0])} and is {_show(wrong[0])}"
            if own:
                yield Violation(
                    "fact-changed", message.line, text, "repeat the same, or say CORRECTION"
                )
            elif message.speaker == "coast" and _confirmed(message, key):
                yield Violation("readback-wrong", message.line, text, "read back what was said")


_ITEM = {"positions": "position", "call_signs": "call_sign"}


def _confirmed(message: Message, key: str) -> bool:
    """Whether a sentence that says the fact reads it back; other stations have positions and persons, too."""
    for item in message.items:
        if item.kind != _ITEM.get(key, key):
            continue
        begin = max(message.text.rfind(mark, 0, item.start) for mark in ".?!") + 1
        if lexicon.CONFIRMS.search(message.text[begin : item.end]):
            return True
    return False


def sums(state: State) -> Iterator[Violation]:
    """Passengers and crew that are not together the number told in the same sentence."""
    for message in state.messages:
        for begin, part in parts(message.text):
            counts = [
                (int(i.value), message.text[i.start : i.end].lower())
                for i in message.items
                if i.kind in ("persons", "number")
                and begin <= i.start < begin + len(part)
                and i.value.isdigit()
            ]
            apart = [sum(n for n, said in counts if word in said) for word in ("passenger", "crew")]
            whole = [n for n, said in counts if "passenger" not in said and "crew" not in said]
            if len(counts) == 3 and len(whole) == 1 and all(apart) and sum(apart) != whole[0]:
                text = f"{apart[0]} passengers and {apart[1]} crew are not {whole[0]} persons"
                yield Violation(
                    "persons-sum", message.line, text, "say CORRECTION and the right number"
                )


_ALL = re.compile(r"\ball (of (us|them|the) )?$", re.IGNORECASE)
_COUNTED = re.compile(
    r"^\W*(persons?|people|souls|survivors?|crew|men|of (us|them)|(are|is) (in|on|safe|well|here|accounted)"
    r"|safe|well)\b",
    re.IGNORECASE,
)
_SAVED = re.compile(
    r"\bsurvivors?\b|raft with|lifeboat with|recovered|rescued|picked up|taken off"
    r"|\bsafe\b|\b(all|both) well\b|\bof (us|them)\b|understood"
    r"|received|\ball\b",
    re.IGNORECASE,
)
# Persons of somebody else: a ship that has room for some, or tells of its own crew.
_OTHERS = re.compile(
    r"\b(room|capacity|berths?|space|able to|can take|up to|more than|each|my (own )?crew|passenger (ship|vessel))\b",
    re.IGNORECASE,
)


def crowds(state: State, scenario: Scenario | None) -> Iterator[Violation]:
    """More persons saved than there were, or "all" with another number than any that was told."""
    known: set[int] = set()
    if scenario is not None and scenario.kind != "safety" and scenario.vessel.persons:
        known.add(scenario.vessel.persons)  # of some vessels nobody knows how many
    for message in state.messages:
        possible = known | {n for a in known for b in known for n in (a + b, abs(a - b))}
        for begin, part in parts(message.text):
            if (
                not known
                or _OTHERS.search(part)
                or "correction" in message.acts
                or part.rstrip().endswith("?")
            ):
                continue
            for item in message.items:
                if not begin <= item.start < begin + len(part) or not _counts(item, message.text):
                    continue
                number = int(item.value)
                whole = _ALL.search(message.text[begin : item.start]) is not None
                more = number > max(known) and _SAVED.search(part) is not None
                if number not in possible and (whole or more):
                    text = f"{number} persons, and {max(known)} were told"
                    yield Violation(
                        "persons-sum", message.line, text, "say CORRECTION and the right number"
                    )
        known |= _told(message)


def _told(message: Message) -> set[int]:
    """Numbers of persons, and others that stand in a sentence with one: "two four crew and two more"."""
    told: set[int] = set()
    for begin, part in parts(message.text):
        here = [i for i in message.items if begin <= i.start < begin + len(part)]
        if any(_counts(i, message.text) or i.kind == "persons" for i in here):
            told |= {
                int(i.value)
                for i in here
                if i.kind in ("persons", "number") and str(i.value).isdigit() and len(i.value) < 5
            }
    return told


def _counts(item: Item, text: str) -> bool:
    """Whether an item is a number of persons: with a word for them, or before "of us", "are safe" and the like."""
    if not str(item.value).isdigit():
        return False
    if item.kind == "persons":
        return "passenger" not in text[item.start : item.end].lower()
    return (
        item.kind == "number"
        and len(item.value) < 5
        and _COUNTED.match(text[item.end :]) is not None
    )


def against_scenario(state: State, scenario: Scenario) -> Iterator[Violation]:
    """Identity, position and persons that are not the scenario's."""
    vessel = scenario.vessel
    said = scenario.position.rounded()
    truths = {
        "mmsi": vessel.mmsi,
        "call_signs": vessel.call_sign,
        "positions": (said.lat, said.lon),
        "persons": vessel.persons,
    }
    first = next((m for m in state.messages if m.speaker == "ship"), None)
    if first is None or scenario.kind in ("safety", "sar"):
        return
    others = scenario.kind == "relay" and vessel.name.lower() in (first.sender or "").lower()
    for key, truth in truths.items():
        values = _values(first, key) if not (others and key == "persons") else ()
        if key == "persons" and any(_beside(first, value, truth) for value in values):
            continue
        if values and not any(_same(key, truth, value) for value in values):
            text = f"the {_NAMES[key]} is {_show(truth)}, not {_show(values[0])}"
            yield Violation("fact-wrong", first.line, text, "say the scenario's")
    if scenario.kind not in ("relay",) and vessel.name.lower() not in first.text.lower():
        text = f"the vessel's name {vessel.name} is not said"
        yield Violation("fact-wrong", first.line, text, "say the scenario's")


def _beside(message: Message, count: int, truth: int | None) -> bool:
    """Whether the sentence of a count tells the others too: "five seven plus one in the water"."""
    for begin, part in parts(message.text):
        here = [i for i in message.items if begin <= i.start < begin + len(part)]
        told = {int(i.value) for i in here if i.kind in ("number", "persons") and i.value.isdigit()}
        if truth is not None and truth != 2 * count and {count, truth - count} <= told:
            return True
    return False


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:.4f}, {value[1]:.4f}"
    return "unknown" if value is None else str(value)
