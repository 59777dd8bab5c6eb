"""The 27 filters of arXiv 2603.04423, row by row, in the order of its scripts; accidents of its rules included.

The rules are the paper's, the code is ours. Where the chapter and the evaluation script differ the script's rule
stands: substring tests without regard to words ("list" is in "listen"), the numbers of `paper_words.number`, a name or
type that is missed only when the scenario has one. `rejects` is false for the rows that the script measures but for
which it refuses no dialogue: the two of the struck vessel, direction and distances.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from . import paper_words as words
from .case import Case, Filter, Told
from .unique import LIMIT


def value(case: Case, key: str) -> Any:
    """A value of the paper's context; `None` where there is none."""
    return (case.context or {}).get(key)


def _name(case: Case) -> str:
    return str(value(case, "vessel_name") or "")


def _sentence(case: Case, n: int) -> str:
    found = words.sentences(case.text)
    return found[n] if n < len(found) else ""


def _holds(mark: str) -> Callable[[Case], list[Told]]:
    def check(case: Case) -> list[Told]:
        return [(case.line_of(mark), f'"{mark}" is written')] if mark in case.text else []

    return check


def _incomplete(case: Case) -> list[Told]:
    whole = case.text.endswith(".")
    return [] if whole else [(len(case.dialogue.turns), "the last character is no full stop")]


def _category(case: Case) -> list[Told]:
    text = case.text
    for key in ("vessel_name", "closest_place_name", "nearest_port", "nearest_harbor"):
        if value(case, key):
            text = text.replace(value(case, key), "")
    text = text.lower()
    if case.category == "undesignated":
        said = [w for w in words.UNDESIGNATED if w in text]
        reason = f'"{said[0]}" names another kind of distress' if said else ""
        return [(case.line_of(said[0]), reason)] if said else []
    wanted = words.KEYWORDS[case.category or ""]
    return (
        [] if any(w in text for w in wanted) else [(None, f"none of {', '.join(wanted)} is said")]
    )


def _missing(key: str) -> Callable[[Case], list[Told]]:
    def check(case: Case) -> list[Told]:
        wanted = str(value(case, key))
        return [] if wanted.lower() in case.text.lower() else [(None, f"{wanted!r} is not said")]

    return check


def _null(*keys: str) -> Callable[[Case], bool]:
    return lambda case: any(not value(case, key) for key in keys)


def _no_collision(key: str) -> Callable[[Case], bool]:
    return lambda case: case.category != "collision" or not value(case, key)


def _hallucinated_mmsi(case: Case) -> list[Told]:
    if value(case, "vessel_MMSI"):
        return []
    said = words.plain_words(case.text.split("\n")[0]).split()
    for i in range(len(said) - 8):
        run = said[i : i + 9]
        if all(w in words.UNITS for w in run) or all(w in set("0123456789") for w in run):
            return [(1, f"nine digits are said, and the scenario has no MMSI: {' '.join(run)}")]
    return []


def _hallucinated_call_sign(case: Case) -> list[Told]:
    if value(case, "vessel_call_sign"):
        return []
    first = words.plain_words(case.text.split("\n")[0])
    said = first.replace(_name(case).lower(), "").split()
    for a, b in pairwise(said):
        if a in words.LETTERS and b in words.LETTERS:
            return [(1, f"letters are spelled, and the scenario has no call sign: {a} {b}")]
    return []


def _unknown(case: Case) -> list[Told]:
    asked = {"vessel_MMSI": "mmsi", "vessel_call_sign": "call sign"}
    return [
        (case.line_of(word), f'"{word}" is said, and the scenario has none')
        for key, word in asked.items()
        if not value(case, key) and word in case.text.lower()
    ]


def _mayday(case: Case) -> list[Told]:
    count = _sentence(case, 0).lower().count("mayday")
    return [] if count == 3 else [(1, f"the first sentence says Mayday {count} times, not 3")]


def _after_mayday(case: Case) -> list[Told]:
    second = _sentence(case, 1)
    if not second or _name(case).lower() in second.lower():
        return []
    return [(1, f"the sentence after Mayday does not say {_name(case)!r}")]


def _duplicates(case: Case) -> list[Told]:
    def size(sentence: str) -> int:
        name = _name(case)
        short = sentence.replace(name, "NAME") if name else sentence
        return len(short.replace("Coast Guard", "Coast_Guard").split())

    counts = Counter(s for s in words.sentences(case.text) if size(s) > 3)
    return [
        (case.line_of(s.split("\n")[0]), f"said {n} times: {s!r}")
        for s, n in counts.items()
        if n > 1
    ]


def _cargo(case: Case) -> list[Told]:
    text = case.text.lower()
    if case.category == "collision" and value(case, "collided_vessel_type") == "Cargo Vessel":
        text = text.replace("cargo vessel", "")
    if value(case, "can_have_cargo") or "cargo" not in text:
        return []
    return [(case.line_of("cargo"), "cargo is said of a vessel that carries none")]


def _vessel_type(case: Case) -> list[Told]:
    own = str(value(case, "vessel_type") or "")
    other = [*words.VESSEL_TYPES, "Motor Vessel"]
    if "ship" not in own.lower():
        other.append("Ship")
    struck = value(case, "collided_vessel_type") if case.category == "collision" else None
    second = _sentence(case, 1).replace(_name(case), "").lower()
    said = [t for t in other if t not in (own, struck) and t.lower() in second]
    told: list[Told] = [(1, f"the sentence after Mayday says {t!r}") for t in said[:1]]
    text = case.text.lower()
    return told or [
        (case.line_of(p), f'"{p.strip()}" is said') for p in ("we are a ", "i am a ") if p in text
    ]


def _port_and_harbour(case: Case) -> list[Told]:
    port, harbour, text = value(case, "nearest_port"), value(case, "nearest_harbor"), case.text
    if port.lower() not in text.lower() or harbour.lower() not in text.lower():
        return []
    within = port in harbour or harbour in port
    if within and not (port in text.replace(harbour, "") and harbour in text.replace(port, "")):
        return []
    return [(case.line_of(harbour), f"both the port {port!r} and the harbour {harbour!r} are said")]


def _coast_guard(case: Case) -> list[Told]:
    lines = case.text.lower().replace(",", "").split("\n")
    if len(lines) == 1:
        return [(None, "nobody answers")]
    name = _name(case).lower()
    named = (f"coast guard {name}", f"coast guard to {name}") if name else ()
    if any(phrase in lines[1] for phrase in (*words.COAST_GUARD, *named)):
        return []
    return [(2, "the answer does not open as the Coast Guard's")]


def _digits(case: Case) -> list[Told]:
    said = [w for w in words.WHOLE_NUMBERS if w in case.text.lower()]
    if not value(case, "digit_by_digit") or not said:
        return []
    return [(case.line_of(said[0]), f'"{said[0]}" is said, and digits are wanted one by one')]


def phrase(case: Case) -> str:
    """The first part between commas and full stops that says the place's name, in lower case; empty when none does."""
    name = str(value(case, "closest_place_name") or "").lower()
    parts = re.split(r"[,.]+", case.text.lower())
    return next((p for p in parts if name and name in p), "")


def _compass(case: Case) -> list[Told]:
    said, wanted = phrase(case), value(case, "compass_direction")
    if not any(d in said for d in ("north", "east", "west", "south")):
        return []
    if wanted.lower().replace(" ", "") in said.replace(" ", ""):
        return []
    return [(case.line_of(said.strip()), f"another direction than {wanted!r}: {said.strip()!r}")]


def sentence_with(case: Case, name: str) -> str:
    """The first sentence that says a name, in lower case; empty when none does."""
    return next((s.lower() for s in words.sentences(case.text) if name.lower() in s.lower()), "")


def _distance(key: str, said: Callable[[Case], str]) -> Callable[[Case], list[Told]]:
    def check(case: Case) -> list[Told]:
        part, wanted = said(case), str(value(case, key)).lower()
        if "mile" not in part or words.number(wanted) in words.numbers(part):
            return []
        line = case.line_of(part.split("\n")[0].strip())
        return [(line, f"another distance than {wanted} miles: {part.strip()!r}")]

    return check


def _elsewhere(key: str, distance: str) -> Callable[[Case], bool]:
    """There is none, or it is the closest place itself."""

    def masked(case: Case) -> bool:
        name = value(case, key)
        return not name or name == value(case, "closest_place_name") or not value(case, distance)

    return masked


def _not_unique(case: Case) -> list[Told]:
    near = case.pool.closest(case.text)
    return [(None, f"ROUGE-L {near:.2f} to another dialogue")] if near > LIMIT else []


_MAIN = (
    ("vessel_name", "vessel_name", "the vessel's name"),
    ("vessel_mmsi", "vessel_MMSI", "the MMSI"),
    ("vessel_call_sign", "vessel_call_sign", "the call sign"),
    ("vessel_type", "vessel_type", "the vessel's type"),
    ("vessel_position", "vessel_coordinate_dms", "the position"),
)
_STRUCK = (
    ("collided_vessel_name", "the struck vessel's name"),
    ("collided_vessel_type", "the struck vessel's type"),
)
_FORMAT: dict[str, Any] = {"score": "format"}
_INFO: dict[str, Any] = {"score": "information", "needs": ("context",)}
_BOTH: dict[str, Any] = {"score": "information", "needs": ("context", "category")}

PAPER: tuple[Filter, ...] = (
    Filter("parentheses", '"(" is written', _holds("("), **_FORMAT),
    Filter("brackets", '"[" is written', _holds("["), **_FORMAT),
    Filter("incomplete", "the end is no full stop", _incomplete, weight=2, **_FORMAT),
    Filter("wrong_category", "no word of the distress, or one of another", _category, weight=2,
           masked=lambda case: case.category not in words.CATEGORIES, **_BOTH),
    *(Filter(name, f"{what} is not said", _missing(key), masked=_null(key), weight=2, **_INFO)
      for name, key, what in _MAIN),
    *(Filter(key, f"{what} is not said", _missing(key), masked=_no_collision(key), weight=2, rejects=False, **_BOTH)
      for key, what in _STRUCK),
    Filter("hallucinated_mmsi", "nine digits in turn 1 without an MMSI", _hallucinated_mmsi, **_INFO),
    Filter("hallucinated_call_sign", "letters in turn 1 without a call sign", _hallucinated_call_sign, **_INFO),
    Filter("unknown_info", "MMSI or call sign is said without one", _unknown, **_INFO),
    Filter("mayday", "Mayday is not said three times at first", _mayday, **_FORMAT),
    Filter("name_not_after_mayday", "the name does not follow", _after_mayday, needs=("context",), **_FORMAT),
    Filter("duplicate_sentences", "a sentence comes twice", _duplicates, weight=2, **_FORMAT),
    Filter("false_cargo_logic", "cargo of a vessel that carries none", _cargo, **_INFO),
    Filter("hallucinated_vessel_type", "another type of vessel", _vessel_type, **_INFO),
    Filter("port_and_harbour", "both port and harbour are said", _port_and_harbour,
           masked=_null("nearest_port", "nearest_harbor"), **_INFO),
    Filter("no_coast_guard", "turn 2 does not open as the Coast Guard's", _coast_guard, **_FORMAT),
    Filter("digit_by_digit", "a number is not said digit by digit", _digits, needs=("context",), **_FORMAT),
    Filter("compass", "another direction from the place", _compass, masked=_null("compass_direction"), weight=2,
           rejects=False, **_INFO),
    Filter("distance_to_place", "another distance to the place",
           _distance("distance_to_nearest_place", phrase), masked=_null("distance_to_nearest_place"),
           rejects=False, **_INFO),
    Filter("distance_to_port", "another distance to the port",
           _distance("distance_to_nearest_port", lambda c: sentence_with(c, value(c, "nearest_port"))),
           masked=_elsewhere("nearest_port", "distance_to_nearest_port"), rejects=False, **_INFO),
    Filter("distance_to_harbour", "another distance to the harbour",
           _distance("distance_to_nearest_harbor", lambda c: sentence_with(c, value(c, "nearest_harbor"))),
           masked=_elsewhere("nearest_harbor", "distance_to_nearest_harbor"), rejects=False, **_INFO),
    Filter("not_unique", f"ROUGE-L to another dialogue above {LIMIT}", _not_unique, score="uniqueness"),
)  # fmt: skip
