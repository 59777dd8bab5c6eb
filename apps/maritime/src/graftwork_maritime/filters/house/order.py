"""In which order: the signal of the kind of traffic, three times, and the parts of a first message (SMCP A1)."""

from __future__ import annotations

import re
from itertools import pairwise

from ..case import Case, Filter, Told

MAYDAY, PAN, SECURITE = r"\bmay ?day\b", r"\bpan[ -]?pan\b", r"\bs[ée]curit[ée]\b"
RELAY = r"\bmay ?day[\s-]+relay\b"
_SIGNAL = {
    "distress": (MAYDAY, "Mayday"),
    "relay": (RELAY, "Mayday relay"),
    "urgency": (PAN, "Pan-pan"),
    "medical": (PAN, "Pan-pan"),
    "safety": (SECURITE, "Securite"),
}
_SIGNALS = {"Mayday": MAYDAY, "Pan-pan": PAN, "Securite": SECURITE}
_HELP = r"\b(?:require|need|request(?:ing)?)\b(?!\s+(?:your|repeat))|\bassistance\b|\bplease help\b"
_PLACE = r"\bdegrees?\b|\bmiles?\b|\bposition\b|\bcables?\b"
_IDENTITY = r"\bthis is\b|\bmmsi\b"


def _first(pattern: str, text: str, begin: int = 0) -> int | None:
    found = re.compile(pattern, re.IGNORECASE).search(text, begin)
    return found.start() if found else None


def opening(case: Case) -> tuple[int, str]:
    """The turn, from 1, that holds the first signal, and its text; the first turn where there is none."""
    for n, turn in enumerate(case.dialogue.turns, 1):
        if any(re.search(s, turn.text, re.IGNORECASE) for s in _SIGNALS.values()):
            return n, turn.text
    return 1, case.dialogue.turns[0].text


def _head(text: str) -> str:
    """Up to the words that say who calls."""
    at = _first(_IDENTITY, text)
    return text[: at if at is not None else len(text)]


def _signal(case: Case) -> list[Told]:
    pattern, name = _SIGNAL[case.scenario["kind"]]
    line, text = opening(case)
    count = len(re.findall(pattern, _head(text), re.IGNORECASE))
    other = [n for n, p in _SIGNALS.items() if re.search(p, text, re.I) and not name.startswith(n)]
    if other and not re.search(pattern, text, re.IGNORECASE):
        return [(line, f"the signal is {other[0]}, and this traffic's is {name}")]
    return [] if count == 3 else [(line, f"{name} is said {count} times at the head, not 3")]


def _identity(case: Case) -> list[Told]:
    line, text = opening(case)
    return [] if _first(r"\bthis is\b", text) is not None else [(line, '"this is" is not said')]


def _nature(case: Case) -> int | None:
    """Where the nature of the distress is first told, after who calls."""
    words = NATURE.get(str(case.category or case.scenario.get("category")), ())
    _, text = opening(case)
    begin = len(_head(text))
    return _first("|".join(words), text, begin) if words else None


# Words of each distress in the SMCP's phrases and common variants.
NATURE: dict[str, tuple[str, ...]] = {
    "fire": (r"\bfire\b", r"\bexplosion\b", r"\bexploded\b", r"\bburn", r"\bsmoke\b"),
    "flooding": (r"\bflood", r"\b(?:taking|took|taken|making) (?:on |in )?water\b", r"\bleak", r"\bingress\b"),
    "collision": (r"\bcollision\b", r"\bcollided\b", r"\bstruck\b", r"\bhit\b", r"\brammed\b"),
    "grounding": (r"\baground\b", r"\bgrounded\b", r"\bgrounding\b", r"\bstranded\b", r"\bon (?:the )?rocks\b"),
    "list": (r"\blist(?:ing|ed)?\b", r"\bcapsiz", r"\bheel"),
    "sinking": (r"\bsink(?:ing)?\b", r"\bsank\b", r"\bgoing down\b", r"\bfoundering\b"),
    "adrift": (r"\badrift\b", r"\bdrift", r"\bdisabled\b", r"\bnot under command\b", r"\bbreakdown\b",
               r"\bengines? (?:failed|failure|trouble|stopped|(?:is|are) out)|\bno (?:engine|propulsion)\b"),
    "attack": (r"\battack", r"\bpirat", r"\barmed\b", r"\bhijack", r"\bboarded by\b", r"\bgunfire\b"),
    "abandoning": (r"\babandon",),
    "overboard": (r"\boverboard\b", r"\bfell\b", r"\bfallen\b", r"\bin the water\b", r"\blost (?:a )?person"),
}  # fmt: skip


def _order(case: Case) -> list[Told]:
    """The parts of the opening that are there come as: signal, who, where, what, help wanted."""
    line, text = opening(case)
    begin = len(_head(text))
    parts = {
        "signal": _first("|".join(_SIGNALS.values()), text),
        "identity": _first(_IDENTITY, text),
        "position": _first(_PLACE, text, begin),
        "nature": _nature(case),
        "assistance": _first(_HELP, text, begin),
    }
    there = [(name, at) for name, at in parts.items() if at is not None]
    return [
        (line, f"{late} is told before {early}")
        for (early, a), (late, b) in pairwise(there)
        if b < a
    ]


def _nature_told(case: Case) -> list[Told]:
    category = str(case.category or case.scenario.get("category"))
    text = case.text
    if re.search("|".join(NATURE[category]), text, re.IGNORECASE):
        return []
    return [(None, f"nothing tells of the {category}")]


def _unlike(case: Case) -> list[Told]:
    """In the opening, another distress is told and the scenario's is not."""
    category = str(case.category or case.scenario.get("category"))
    line, text = opening(case)
    told = [k for k, w in NATURE.items() if re.search("|".join(w), text, re.IGNORECASE)]
    own = category in told or (category == "undesignated" and not told)
    if own or not told:
        return []
    return [(line, f"the opening tells of {' and '.join(told)}, and the scenario is {category}")]


def _over(case: Case) -> list[Told]:
    turns = case.dialogue.turns
    told: list[Told] = []
    for n, turn in enumerate(turns, 1):
        if re.search(r"\bover and out\b", turn.text, re.IGNORECASE):
            told.append((n, '"over and out" says two things: over awaits an answer, out ends'))
        elif n < len(turns) and re.search(r"\?\W*out\W*$", turn.text, re.IGNORECASE):
            told.append((n, "asks, and ends with out"))
    return told


def _spoken(case: Case) -> bool:
    return case.scenario.get("kind") not in _SIGNAL


def _no_nature(case: Case) -> bool:
    other = case.scenario.get("kind", "distress") not in ("distress", "relay")
    return other or str(case.category or case.scenario.get("category")) not in NATURE


def _no_distress(case: Case) -> bool:
    return case.scenario.get("kind") not in ("distress", "urgency", "relay")


ORDER = (
    Filter("signal", "not this traffic's signal, or not three times", _signal, ("scenario",), _spoken),
    Filter("this_is", '"this is" is missing in the first message', _identity, ("scenario",), _spoken),
    Filter("message_order", "parts of the first message in another order", _order, ("scenario",), _no_distress),
    Filter("nature_told", "nothing tells of the distress", _nature_told, ("category",), _no_nature),
    Filter("nature_unlike", "the first message tells of another distress", _unlike, ("category",),
           lambda c: c.scenario.get("kind", "distress") != "distress" or c.category not in (*NATURE, "undesignated")),
    Filter("over_out", "over or out used against their meaning", _over),
)  # fmt: skip
