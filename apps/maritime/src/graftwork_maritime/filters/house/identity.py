"""Who speaks: the form of an MMSI (ITU-R M.585), its country digits, and whether identities are the scenario's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from graftwork.errors import GraftError

from ...dialogues import Turn
from ...scenario.identities import EXERCISE_MIDS, countries, mmsi_class
from ..case import Case, Filter, Told
from .said import Said, after, figures, spelled
from .whose import names

# What stands before the country's three digits, in the kinds that have them.
_BEFORE_MID = {
    "ship": "",
    "coast station": "00",
    "group": "0",
    "search and rescue aircraft": "111",
    "handheld": "8",
    "craft of a parent ship": "98",
    "aid to navigation": "99",
}


def mid_of(mmsi: str) -> str | None:
    """The three digits of the country in an MMSI; `None` where its kind has none.

    Raises GraftError for one that is no MMSI.
    """
    before = _BEFORE_MID.get(mmsi_class(mmsi))
    return None if before is None else mmsi[len(before) : len(before) + 3]


def said_mmsis(text: str) -> list[Said]:
    """Rows of nine figures, and what follows the word MMSI, however long."""
    rows = figures(text)
    named = list(after(text, r"\bMMSI\b", rows))
    return [r for r in rows if len(r.value) == 9 or r in named]


def _form(case: Case) -> list[Told]:
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        for one in said_mmsis(turn.text):
            try:
                mmsi_class(one.value)
            except GraftError as error:
                told.append((n, str(error)))
    return told


def _country(case: Case) -> list[Told]:
    """A MID that no country has; those of exercises are right in an exercise."""
    exercise = EXERCISE_MIDS if case.scenario.get("exercise") else ()
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        for one in said_mmsis(turn.text):
            try:
                mid = mid_of(one.value)
            except GraftError:
                continue  # `mmsi_form` tells
            if mid is not None and mid not in exercise and mid not in countries():
                told.append((n, f"MMSI {one.value}: no country has the digits {mid}"))
    return told


def _known_mmsis(case: Case) -> Iterator[str]:
    for key in ("vessel", "station", "other_vessel", "dsc"):
        part = case.scenario.get(key) or {}
        if part.get("mmsi"):
            yield str(part["mmsi"])


def _matches(case: Case) -> list[Told]:
    known = set(_known_mmsis(case))
    return [
        (n, f"MMSI {one.value} is none of the scenario's: {', '.join(sorted(known)) or 'it has none'}")
        for n, turn in enumerate(case.dialogue.turns, 1)
        for one in said_mmsis(turn.text)
        if one.value not in known and turn.speaker != "other"
    ]  # fmt: skip


def _call_signs(case: Case) -> list[Told]:
    known = {
        str((case.scenario.get(key) or {}).get("call_sign") or "").upper()
        for key in ("vessel", "station", "other_vessel")
    } - {""}
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        rows = spelled(turn.text)
        named = list(after(turn.text, r"\bcall ?sign\b", rows))
        for one in rows:
            if turn.speaker == "other":  # a third station has its own
                continue
            if (one in named or len(one.value) > 3) and one.value not in known:
                told.append((n, f"call sign {one.value} is not the scenario's"))
    return told


def _name(case: Case) -> list[Told]:
    name = str((case.scenario.get("vessel") or {}).get("name") or "")
    said = [n for n, t in enumerate(case.dialogue.turns, 1) if name.lower() in t.text.lower()]
    return [] if said or not name else [(None, f"the vessel's name {name!r} is not said")]


_CALL = re.compile(r"^(?:mayday[\s,]*)*(?P<to>[^.?!]*?)[\s,.]+this is (?P<by>[^.?!]*)", re.I)
_TO_ALL = re.compile(
    r"all (stations|ships)|any (station|vessel|ship)|coast|radio|rescue|mrcc|centre|control|traffic",
    re.IGNORECASE,
)
_SIGNALS = re.compile(r"may ?day|pan[ -]?pan|s[ée]curit[ée]|relay|seelonce|feenee", re.IGNORECASE)


def _turned(turn: Turn, known: list[str]) -> bool:
    """A short call in which the caller names itself first and then the station that it calls."""
    own = (turn.name or "").lower()
    parts = re.split(r"[.?!]\s", turn.text, maxsplit=1)[0].lower().split(", ")
    if not own or len(parts) != 2 or parts[0] != own:
        return False
    return any(parts[1] == k for k in known if k != own)


def _called(case: Case) -> list[Told]:
    """Of those who are called: a name that no station of the scenario has, or the caller's own."""
    known = [name.lower() for name in names(case)]
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        if _turned(turn, known):
            told.append((n, f"{(turn.name or '')!r} calls itself"))
        call = _CALL.match(turn.text)
        if not call:
            continue
        to = re.sub(r"[\W_]+", " ", _SIGNALS.sub(" ", call["to"])).strip().lower()
        by = call["by"].lower()
        rest = " ".join(t.text.lower() for m, t in enumerate(case.dialogue.turns, 1) if m != n)
        there = any(k in to or re.search(rf"\b{re.escape(to)}\b", k) for k in known)
        new = turn.speaker == "coast" or to in rest  # a coast station calls whom it knows
        described = re.search(
            r"(?:^|[\s,])(?!de\b|of\b|the\b|and\b)[a-z]", _SIGNALS.sub(" ", call["to"])
        )
        new = new or described is not None  # "vessel on my port bow", "I say again"
        if to and not _TO_ALL.search(to) and known and not there and not new:
            told.append((n, f"calls {to!r}, which is no station of the scenario"))
        same = [k for k in known if k in to and re.search(rf"\b{re.escape(k)}\b", by)]
        if same:
            told.append((n, f"{same[0]!r} calls itself"))
    return told


IDENTITY = (
    Filter("mmsi_form", "an MMSI has not nine digits, or begins as no station's does", _form),
    Filter("mmsi_country", "no country has the digits of an MMSI", _country),
    Filter("mmsi_matches", "an MMSI that the scenario does not have", _matches, ("scenario",)),
    Filter("call_sign_matches", "a call sign that is not the scenario's", _call_signs, ("scenario",)),
    Filter("name_said", "the vessel's name is never said", _name, ("scenario",),
           lambda c: c.scenario.get("kind") == "safety"),
    Filter("called_station", "a station that is not there is called, or one calls itself", _called, ("scenario",)),
)  # fmt: skip
