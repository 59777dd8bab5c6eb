"""How it is said, beside the phrase book's ways: times, marks, repetitions, figures of a position; type and cargo."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ...scenario.kinds import CARRIES_CARGO, TYPES
from ...spoken.alphabet import FIGURE_OF
from ...spoken.numbers import TEENS
from ..case import Case, Filter, Told
from .said import figures

_HOUR = "|".join([r"\d{1,2}", *FIGURE_OF, *TEENS])
_CLOCK = rf"\b(?:(?:{_HOUR}) ?[ap]\.? ?m\b|o'?clock|half past|quarter (?:to|past)|this (?:morning|afternoon|evening))"
_MARKS = r"[()\[\]{}<>*#_|]|\.\.\."
_TYPE = re.compile("|".join(sorted((re.escape(t) for t in TYPES), key=len, reverse=True)), re.IGNORECASE)  # fmt: skip


def _lines(pattern: str, reason: str) -> Callable[[Case], list[Told]]:
    """Every turn in which a pattern is said."""
    wanted = re.compile(pattern, re.IGNORECASE)

    def check(case: Case) -> list[Told]:
        return [
            (n, f'"{found[0].strip()}": {reason}')
            for n, turn in enumerate(case.dialogue.turns, 1)
            if (found := wanted.search(turn.text))
        ]

    return check


def _sentences(text: str) -> list[str]:
    return [s.strip() for s in re.split(r"[.?!]+(?:\s|$)", text) if s.strip()]


def _repeated(case: Case) -> list[Told]:
    seen: dict[tuple[str, str], int] = {}
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        announced = False
        for sentence in _sentences(turn.text):
            said = " ".join(re.findall(r"\w+", sentence.lower()))
            call = re.search(r"\bthis is\b|\bseelonce\b|\ball stations\b|\bmay ?day\b", said)
            if len(said.split()) > 3 and not call:
                if (turn.speaker, said) in seen and not announced:
                    told.append((n, f"said in turn {seen[turn.speaker, said]} already: {sentence!r}"))  # fmt: skip
                seen.setdefault((turn.speaker, said), n)
            announced = announced or bool(re.search(r"\brepeat\b|\bsay again\b", said))
    return told


def _digits(case: Case) -> bool:
    return not (case.scenario.get("position") or {}).get("digit_by_digit")


def _longitude(case: Case) -> list[Told]:
    """Two figures for the degrees of latitude, three for those of longitude, where figures are said one by one."""
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        rows = figures(turn.text)
        for one in rows:
            axis = re.compile(
                r"\W*degrees?\b(?:(?!degrees?\b|\.\s).)*?\b(north|south|east|west)\b", re.IGNORECASE
            ).match(turn.text, one.end)
            side = axis[1].lower() if axis else ""
            width = {"north": 2, "south": 2, "east": 3, "west": 3}.get(side)
            if width is not None and len(one.value) != width:
                told.append((n, f"degrees {side} in {len(one.value)} figures, not {width}"))
    return told


def _type(case: Case) -> list[Told]:
    """Right before the vessel's name, another type than the vessel's."""
    vessel: dict[str, Any] = case.scenario["vessel"]
    name, own = str(vessel["name"]), str(vessel["type"])
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        for found in _TYPE.finditer(turn.text):
            before = re.compile(rf"\W+{re.escape(name)}", re.IGNORECASE).match(turn.text, found.end())  # fmt: skip
            if before and found[0].lower() != own.lower():
                told.append((n, f"{found[0]} {name}, and the scenario has a {own}"))
    return told


def _cargo(case: Case) -> list[Told]:
    own = re.compile(r"\b(?:our|my|the) cargo\b(?! (?:vessel|ship))", re.IGNORECASE)
    return [
        (n, f"cargo of a {case.scenario['vessel']['type']}, which carries none")
        for n, turn in enumerate(case.dialogue.turns, 1)
        if turn.speaker == "ship" and own.search(turn.text)
    ]


def _laden(case: Case) -> bool:
    vessel = case.scenario.get("vessel") or {}
    return vessel.get("type") in CARRIES_CARGO or bool(vessel.get("cargo")) or "type" not in vessel


WORDING = (
    Filter("clock_words", "a time that is not UTC in four figures", _lines(_CLOCK, "say UTC in four figures")),
    Filter("written_marks", "brackets or other marks that nobody can say", _lines(_MARKS, "cannot be said")),
    Filter("repeated_sentence", "a sentence comes again without being announced", _repeated),
    Filter("axis_figures", "degrees of latitude not in two figures, or of longitude not in three", _longitude,
           ("scenario",), _digits),
    Filter("type_matches", "another type before the vessel's name", _type, ("scenario",),
           lambda c: "type" not in (c.scenario.get("vessel") or {})),
    Filter("cargo_carried", "cargo of a vessel that carries none", _cargo, ("scenario",), _laden),
)  # fmt: skip
