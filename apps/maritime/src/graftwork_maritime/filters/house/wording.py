"""How it is said, beside the phrase book's ways: times, marks, repetitions, figures of a position; type and cargo."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ...grammar import lexicon
from ...scenario.kinds import CARRIES_CARGO, TYPES
from ...spoken.numbers import NUMBER_WORDS
from ..case import Case, Filter, Told
from .said import figures
from .whose import relays, sentences, without_names

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


# Calls and the listening watch are said again and again.
_CALLS = (
    r"\bthis is\b|\bseelonce\b|\ball (?:stations|ships)\b|\bmay ?day\b|\bpan pan\b|\bsecurite\b"
    r"|\bstand(?:ing)? by on\b|\b(?:keep|keeping) (?:listening )?watch on\b|\blistening on\b"
)


def _repeated(case: Case) -> list[Told]:
    seen: dict[tuple[str, str], int] = {}
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        announced = False
        for sentence in _sentences(turn.text):
            said = " ".join(re.findall(r"\w+", sentence.lower()))
            call = (
                re.search(_CALLS, said)
                or not set(re.findall(r"\b[a-z]+\b", sentence))
                - NUMBER_WORDS  # names and signs alone
                or len(re.findall(r"\w+", without_names(case, sentence))) < 4
            )
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
                r"\W*degrees?\b(?:(?!degrees?\b|\.\s|\b(?:from|of)\b).)*?\b(north|south|east|west)\b",
                re.IGNORECASE,
            ).match(turn.text, one.end)
            side = axis[1].lower() if axis else ""
            width = {"north": 2, "south": 2, "east": 3, "west": 3}.get(side)
            comma = turn.text.rfind(",", one.start, one.end)  # before it stands another number
            said = figures(turn.text[comma + 1 : one.end])[0].value if comma >= 0 else one.value
            if width is not None and len(said) != width:
                told.append((n, f"degrees {side} in {len(said)} figures, not {width}"))
    return told


_ANY_TYPE = ("motor vessel", "other")
_TYPE_ALONE = re.compile(rf"^({_TYPE.pattern})(?: in position\b| with\b|[.,])", re.IGNORECASE)


def _type(case: Case) -> list[Told]:
    """Right before the vessel's name, or alone in its first call, another type than the vessel's."""
    vessel: dict[str, Any] = case.scenario["vessel"]
    name, own = str(vessel["name"]), str(vessel["type"])
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        for found in _TYPE.finditer(turn.text):
            before = re.compile(rf"\W+{re.escape(name)}", re.IGNORECASE).match(turn.text, found.end())  # fmt: skip
            other = found[0].lower() not in (own.lower(), *_ANY_TYPE)
            if before and other:
                told.append((n, f"{found[0]} {name}, and the scenario has a {own}"))
    first = case.dialogue.turns[0]
    if first.speaker == "ship" and not relays(case):
        for part in sentences(first.text):
            alone = _TYPE_ALONE.match(part)
            if alone and alone[1].lower() not in (own.lower(), *_ANY_TYPE):
                told.append((1, f"{alone[1]}, and the scenario has a {own}"))
    return told


_OWN_CARGO = re.compile(
    r"\b(?:our|my|the|loading|\w+) cargo\b(?! (?:vessels?|ships?|carrier))|^cargo of\b|\bfull of cargo\b",
    re.IGNORECASE,
)
_NO_CARGO = re.compile(
    r"\b(?:no|not|without|her|his|their|its|your|any|that|dangerous) cargo\b|\bnot\b|\bvessel\b|\bship\b",
    re.IGNORECASE,
)


def _cargo(case: Case) -> list[Told]:
    return [
        (n, f"cargo of a {case.scenario['vessel']['type']}, which carries none")
        for n, turn in enumerate(case.dialogue.turns, 1)
        if turn.speaker == "ship"
        and any(_OWN_CARGO.search(s) and not _NO_CARGO.search(s) for s in sentences(turn.text))
    ]


def _laden(case: Case) -> bool:
    vessel = case.scenario.get("vessel") or {}
    return vessel.get("type") in CARRIES_CARGO or bool(vessel.get("cargo")) or "type" not in vessel


WORDING = (
    Filter("clock_words", "a time that is not UTC in four figures",
           _lines(lexicon.CLOCK.pattern, "say UTC in four figures")),
    Filter("written_marks", "brackets or other marks that nobody can say", _lines(_MARKS, "cannot be said")),
    Filter("repeated_sentence", "a sentence comes again without being announced", _repeated),
    Filter("axis_figures", "degrees of latitude not in two figures, or of longitude not in three", _longitude,
           ("scenario",), _digits),
    Filter("type_matches", "another type before the vessel's name", _type, ("scenario",),
           lambda c: "type" not in (c.scenario.get("vessel") or {})),
    Filter("cargo_carried", "cargo of a vessel that carries none", _cargo, ("scenario",), _laden),
)  # fmt: skip
