"""Which facts of its scenario a turn says, and which it says wrongly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..grammar import lexicon
from ..grammar.message import read_message
from ..grammar.state import Message
from ..scenario.kinds import FACTS
from ..scenario.model import Scenario
from ..spoken import clock, digits
from ..spoken.numbers import NUMBER_WORDS, read_number

OWN = ("name", "type", "mmsi", "call_sign", "position", "persons")
_SENTENCE = re.compile(r"[^.?!]+[.?!]*")
_CONFIRMS = re.compile(r"\b(correct|right|confirm|understand|copied)\b")
_CLOSE = 0.0004  # degrees; hundredths of a minute are 0.00017
NUMBERS = re.compile(rf"\b(?:(?:{'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))})\b[ -]?)+")


def keys(scenario: Scenario) -> tuple[str, ...]:
    """What can be asked of a scenario and is known: `OWN`, nature, help, place, cargo, weather, and its facts."""
    vessel = scenario.vessel
    known: Mapping[str, Any] = {
        "name": vessel.name, "type": vessel.type, "mmsi": vessel.mmsi, "call_sign": vessel.call_sign,
        "position": scenario.position, "persons": vessel.persons, "nature": scenario.category,
        "help": scenario.help, "place": scenario.place and scenario.place.bearing, "cargo": vessel.cargo,
        "weather": scenario.weather,
    }  # fmt: skip
    return (*(k for k, v in known.items() if v), *scenario.facts)


def said(text: str, scenario: Scenario) -> set[str]:
    """The keys whose true value the text says."""
    message, low, numbers = read_message(1, "ship", text), text.lower(), _numbers(text)
    vessel, place, weather = scenario.vessel, scenario.place, scenario.weather
    found = {
        key
        for key, phrase in (
            ("name", vessel.name),
            ("type", vessel.type),
            ("cargo", vessel.cargo),
            ("help", scenario.help[0] if scenario.help else None),
        )
        if phrase and phrase.lower() in low
    }
    found |= {
        k for k in ("mmsi", "call_sign", "position", "persons") if _holds(message, k, scenario)
    }
    if scenario.category in message.natures or _names(text, scenario):
        found.add("nature")
    if (
        place
        and place.bearing
        and place.name.lower() in low
        and place.bearing in low
        and place.distance_nm in numbers
    ):
        found.add("place")
    if weather and weather.wind in low and weather.force in numbers:
        found.add("weather")
    for key, value in scenario.facts.items():
        if _whole(_fact(key, value), low) or (isinstance(value, int) and value in numbers):
            found.add(key)
    return found


def wrong(text: str, scenario: Scenario, speaker: str = "ship") -> list[str]:
    """The keys that the text says wrongly: identity, position, persons, nature, and facts of which it says another.

    Of a fact with a closed set of phrases another phrase of the set is wrong when the true one is not said; numbers
    of facts are compared only where they stand with their unit, so not here.
    """
    message, low = read_message(1, speaker, text), text.lower()
    found = [
        key
        for key, values in _values(message).items()
        if values and not all(_equal(key, value, scenario) for value in values)
    ]
    sender = message.sender
    if speaker == "ship" and sender and not _alike(sender, scenario):
        found.append("name")
    phrases = {_fact(k, v).lower() for k, v in scenario.facts.items()}
    plain = " ".join(s for s in _SENTENCE.findall(low) if "?" not in s or _CONFIRMS.search(s))
    for name in _named(scenario):  # "Port Amber" is no side
        plain = plain.replace(name.lower(), " ")
    for phrase in phrases:
        plain = plain.replace(phrase, " ")
    natures = lexicon.natures(plain)
    distress = scenario.kind in ("distress", "relay") and scenario.category != "undesignated"
    if distress and natures and scenario.category not in natures:
        found.append("nature")
    for key, value in scenario.facts.items():
        others = [
            c for c in FACTS[scenario.category].get(key, ()) if isinstance(c, str) and c != value
        ]
        if any(_whole(c, plain) for c in others) and str(value).lower() not in low:
            found.append(key)
    return found


def _named(scenario: Scenario) -> list[str]:
    """Stations and places of the scenario, the longest first."""
    parts = (
        scenario.vessel, scenario.station, scenario.other_vessel, scenario.place, scenario.port, scenario.harbour
    )  # fmt: skip
    return sorted((part.name for part in parts if part is not None), key=len, reverse=True)


def words(key: str, scenario: Scenario) -> str:
    """A fact's value as it is said."""
    return _fact(key, scenario.facts[key])


def _names(text: str, scenario: Scenario) -> bool:
    from ..grammar.phrases import categories

    low = text.lower()
    return any(
        w.partition("{")[0].rstrip(" .,").lower() in low
        for w in categories()[scenario.category]["nature"]
        if len(w.partition("{")[0]) > 8
    )


def _fact(key: str, value: str | int) -> str:
    if key.endswith("_utc"):
        return clock(str(value))
    return digits(value) if isinstance(value, int) else value


def _values(message: Message) -> dict[str, tuple[Any, ...]]:
    return {
        "mmsi": tuple(
            v for v in message.mmsi if not v.startswith("00")
        ),  # those are coast stations'
        "call_sign": message.call_signs,
        "position": message.positions,
        "persons": message.persons,
    }


def _equal(key: str, value: Any, scenario: Scenario) -> bool:
    vessel, position = scenario.vessel, scenario.position.rounded()
    if key == "position":
        return abs(value[0] - position.lat) < _CLOSE and abs(value[1] - position.lon) < _CLOSE
    truth = {"mmsi": vessel.mmsi, "call_sign": vessel.call_sign, "persons": vessel.persons}[key]
    return bool(value == truth)


def _holds(message: Message, key: str, scenario: Scenario) -> bool:
    values = _values(message)[key]
    if any(_equal(key, value, scenario) for value in values):
        return True
    bare = key == "persons" and len(message.text.split()) <= 12
    return bare and scenario.vessel.persons in _numbers(message.text)


def _alike(sender: str, scenario: Scenario) -> bool:
    own = {scenario.vessel.name, *([scenario.other_vessel.name] if scenario.other_vessel else [])}
    return any(n.lower() in sender.lower() or sender.lower() in n.lower() for n in own)


def _whole(phrase: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(phrase.lower())}\b", text) is not None


def _numbers(text: str) -> set[int]:
    """Whole numbers in words or figures; a row of single figures is one number."""
    found = {int(n) for n in re.findall(r"\b\d{1,9}\b", text)}
    for row in NUMBERS.finditer(text.lower()):
        found.add(number(row[0]))
    return found


def number(row: str) -> int:
    """A whole number in words or figures."""
    return int(row) if row.isdigit() else int(float(read_number(row.replace("-", " ").split())))
