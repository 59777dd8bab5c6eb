"""How it is said: the SMCP's words to avoid, whole answers, figures and units, corrections, and facts of the vessel."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ...scenario.kinds import CARRIES_CARGO, TYPES
from ...spoken.alphabet import FIGURE_OF
from ...spoken.numbers import SCALES, TEENS, TENS
from ..case import Case, Filter, Told
from .said import figures, numbers

# "can" is the SMCP's own for what a station is able to do, but not to ask for leave.
_MODAL = r"\b(?:might|should|could|can (?:I|we)|may(?![ -]?day))\b"
_SLANG = (
    r"\b(?:ok|okay|yeah|yep|yup|nope|buddy|mate|guys|folks|gonna|wanna|gotta|dunno|wilco|(?<!ice[ -])breaker|cheers|"
    r"ten[ -]four|10-4|no worries|hang on|come back)\b"
)
_CORRECTED = r"\b(?:I mean|I meant|or rather|scratch that|make that|no,? wait|wait,? no)\b"
_HOUR = "|".join([r"\d{1,2}", *FIGURE_OF, *TEENS])
_CLOCK = rf"\b(?:(?:{_HOUR}) ?[ap]\.? ?m\b|o'?clock|half past|quarter (?:to|past)|this (?:morning|afternoon|evening))"
_MARKS = r"[()\[\]{}<>*#_|]|\.\.\."
_WHOLE = rf"\b(?:{'|'.join([*TEENS, *TENS, *(s for s, size in SCALES.items() if size == 100)])})\b"
_BARE = re.compile(r"(?:yes|no|affirmative|negative)", re.IGNORECASE)
_MEASURED = (
    r"\b(?:speed|depth|draught|draft|visibility|distance)\b(?:\W+(?:is|of|about|now|my|the|in)\b)*"
)
_UNIT = re.compile(
    r"\W*(?:(?:decimal|point)\W+\w+\W+)?(?:nautical|miles?|knots?|met(?:re|er)s?|cables?|feet|fathoms?|kilomet|per)",
    re.IGNORECASE,
)
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


def _bare(case: Case) -> list[Told]:
    """Yes or no alone, after a question."""
    told: list[Told] = []
    asked = False
    for n, turn in enumerate(case.dialogue.turns, 1):
        bare = [s for s in _sentences(turn.text) if _BARE.fullmatch(s.rpartition(",")[2].strip())]
        if asked and bare:
            told.append((n, f'"{bare[0]}" without the full phrase'))
        asked = "?" in turn.text
    return told


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


def _units(case: Case) -> list[Told]:
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        said = numbers(turn.text)
        for lead in re.finditer(_MEASURED, turn.text, re.IGNORECASE):
            close = next((s for s in said if s.start >= lead.end()), None)
            near = close and not turn.text[lead.end() : close.start].strip(" ,")
            if close and near and not _UNIT.match(turn.text, close.end):
                told.append((n, f"{lead[0]!r} {close.value} without a unit"))
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
    Filter("modal_words", "may, might, should, could, or can to ask for leave",
           _lines(_MODAL, "leaves open what is meant")),
    Filter("bare_answer", "yes or no without the full phrase", _bare),
    Filter("slang", "everyday or foreign radio slang", _lines(_SLANG, "no phrase of the SMCP")),
    Filter("correction_form", "a slip is mended without mistake and correction",
           _lines(_CORRECTED, "say mistake, correction, and the right words")),
    Filter("clock_words", "a time that is not UTC in four figures", _lines(_CLOCK, "say UTC in four figures")),
    Filter("written_marks", "brackets or other marks that nobody can say", _lines(_MARKS, "cannot be said")),
    Filter("repeated_sentence", "a sentence comes again without being announced", _repeated),
    Filter("whole_numbers", "a number in tens where figures are wanted", _lines(_WHOLE, "say each figure"),
           ("scenario",), _digits),
    Filter("axis_figures", "degrees of latitude not in two figures, or of longitude not in three", _longitude,
           ("scenario",), _digits),
    Filter("unit_said", "speed, depth, draught, visibility or distance without a unit", _units),
    Filter("type_matches", "another type before the vessel's name", _type, ("scenario",),
           lambda c: "type" not in (c.scenario.get("vessel") or {})),
    Filter("cargo_carried", "cargo of a vessel that carries none", _cargo, ("scenario",), _laden),
)  # fmt: skip
