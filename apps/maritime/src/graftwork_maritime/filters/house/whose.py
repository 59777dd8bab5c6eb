"""Whose facts a sentence tells: the scenario's vessel's, or those of another station, place or time."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...grammar import lexicon
from ..case import Case

_READS_BACK = re.compile(
    r"\b(?:your|you are|understood|received|copied|confirm|correct|read back|acknowledged?)\b",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"\b(?:to|from|for) (?:the |that |this )?position\b|\brendezvous\b|\bdatum\b|\blife(?:raft|boat)s?\b"
    r"|\bhelicopters?\b|\b(?:he|she|it|they) (?:is|are)\b"
    r"|\b(?:land|light|buoy|vessel|ship|tug|wreck)s? (?:is|are|bears)\b",
    re.IGNORECASE,
)


def names(case: Case) -> list[str]:
    """Every station that the scenario or the dialogue names, the longest first."""
    parts = [case.scenario.get(key) or {} for key in ("vessel", "station", "other_vessel")]
    known = {str(part.get("name") or "") for part in parts}
    known |= {t.name or "" for t in case.dialogue.turns}
    known |= {m.sender or "" for m in case.state.messages}
    return sorted(known - {""}, key=len, reverse=True)


def without_names(case: Case, text: str) -> str:
    """The text with spaces in the place of stations' names, which hold words of their own."""
    for name in names(case):
        text = re.sub(rf"\b{re.escape(name)}\b", lambda m: " " * len(m[0]), text, flags=re.I)
    return text


def relays(case: Case) -> bool:
    """Whether the scenario's vessel passes on the distress of another."""
    name = str((case.scenario.get("vessel") or {}).get("name") or "").lower()
    message = next((m for m in case.state.messages if m.signal == "relay"), None)
    return bool(message and name and name in (message.sender or "").lower())


# Limits, corners and lines have positions that are nobody's.
_AREA = re.compile(
    r"\bareas?\b|\bbounded\b|\bbetween\b|\blimits?\b|\blines? (?:joining|between|from)\b|\bcorners?\b|\bsectors?\b"
    r"|\bzones?\b|\bway ?points?\b|\bradius\b|\bwithin\b",
    re.IGNORECASE,
)


# Where a vessel is that passes on another's distress.
_RELAYING = re.compile(r"\bmy (?:own |present )?position\b|\bi am\b", re.IGNORECASE)


def sentences(text: str) -> list[str]:
    """Its parts between full stops."""
    return [s for s in re.split(r"(?<=[.?!;])\s+", text) if s.strip()]


def own_place(case: Case) -> Iterator[tuple[int, str]]:
    """(turn, sentence) that tells where the vessel was when it called, or reads that back.

    All of the first turn; then what the ship says and what the coast station repeats to it, without what other
    vessels, aircraft and places do, and without a place of later. Of traffic about something else the first turn alone.
    """
    first = 1
    for n, message in enumerate(case.state.messages, 1):
        if message.signal:
            first = n
            break
    others = case.scenario.get("kind") in ("safety", "sar", "relay")
    relay = case.scenario.get("kind") == "relay"
    for n, turn in enumerate(case.dialogue.turns, 1):
        for part in sentences(turn.text):
            if _AREA.search(part) and turn.speaker != "ship":
                continue
            if relay and turn.speaker == "other" and _RELAYING.search(part):
                continue
            if n == first:
                yield n, part
                continue
            if others or turn.speaker == "other" or _ELSEWHERE.search(part):
                continue
            later = lexicon.UPDATES.search(part)
            if not later and (turn.speaker == "ship" or _READS_BACK.search(part)):
                yield n, part
