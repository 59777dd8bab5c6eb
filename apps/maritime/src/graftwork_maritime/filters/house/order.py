"""In which order: the signal of the kind of traffic, three times, and the parts of a first message (SMCP A1)."""

from __future__ import annotations

import re
from itertools import pairwise

from ...grammar import lexicon
from ...grammar.opening import SIGNAL_OF, asks_one, calls_by_names, counts, reports_to_one
from ...grammar.opening import opening as begins
from ...spoken.numbers import NUMBER_WORDS
from ..case import Case, Filter, Told
from .whose import without_names

MAYDAY, PAN, SECURITE = r"\bmay ?day\b", r"\bpan[ -]?pan\b", r"\bs[ée]curit[ée]\b"
RELAY = r"\bmay ?day[\s-]+relay\b"
_SIGNAL = {
    "distress": "Mayday",
    "relay": "Mayday relay",
    "urgency": "Pan-pan",
    "medical": "Pan-pan",
    "safety": "Securite",
}
_SIGNALS = {"Mayday": MAYDAY, "Pan-pan": PAN, "Securite": SECURITE}
_HELP = r"\b(?:require|need|request(?:ing)?)\b(?!\s+(?:your|repeat))|\bassistance\b|\bplease help\b"
_PLACE = r"\bdegrees?\b|\bmiles?\b|\bposition\b|\bcables?\b"
_IDENTITY = r"\bthis is\b|\bmmsi\b"


def _first(pattern: str, text: str, begin: int = 0) -> int | None:
    found = re.compile(pattern, re.IGNORECASE).search(text, begin)
    return found.start() if found else None


def opening(case: Case) -> tuple[int, str]:
    """The turn, from 1, that opens the traffic, and its text."""
    message = begins(case.state)
    return message.line, message.text


def _head(text: str) -> str:
    """Up to the words that say who calls."""
    at = _first(_IDENTITY, text)
    return text[: at if at is not None else len(text)]


def _signal(case: Case) -> list[Told]:
    kind = case.scenario["kind"]
    name = _SIGNAL[kind]
    message = begins(case.state)
    said = message.signal
    if said == SIGNAL_OF[kind]:
        wrong = message.repeats not in counts(case.state, message)
        told = f"{name} is said {message.repeats} times at the head, not 3"
    elif said is None:
        wrong = not (kind == "safety" and (asks_one(message) or reports_to_one(message)))
        told = f"{name} is said 0 times at the head, not 3"
    else:
        wrong, told = True, f"the signal is {said}, and this traffic's is {name}"
    return [(message.line, told)] if wrong else []


def _identity(case: Case) -> list[Told]:
    line, text = opening(case)
    message = case.state.messages[line - 1]
    said = _first(r"\bthis is\b", text) is not None or calls_by_names(message)
    return [] if said else [(line, '"this is" is not said')]


def _nature(case: Case) -> int | None:
    """Where the nature of the distress is first told, after who calls."""
    words = NATURE.get(str(case.category or case.scenario.get("category")), ())
    _, text = opening(case)
    begin = len(_head(text))
    return _first("|".join(words), without_names(case, text), begin) if words else None


# Words of each distress in the SMCP's phrases and common variants.
NATURE: dict[str, tuple[str, ...]] = {
    "fire": (r"\bfires?\b", r"\bexplo(?:sion|ded)\b", r"\bburn", r"\bsmoke\b", r"\bablaze\b", r"\bflames?\b"),
    "flooding": (r"\bflood", r"\b(?:tak|took|mak|shipp)\w* (?:on |in )?water\b", r"\bleak", r"\bingress\b",
                 r"\bholed\b", r"\bwater (?:is )?(?:coming|entering|rising|in the)\b", r"\b(?:hole|breach)\b"),
    "collision": (r"\bcollision\b", r"\bcollid", r"\bstruck\b", r"\bhit\b", r"\brammed\b", r"\bran into\b"),
    "grounding": (r"\bagrounds?\b", r"\bground(?:ed|ing)\b", r"\bstranded\b", r"\bashore\b", r"\bbeached\b",
                  r"\bon (?:the |a )?(?:rocks?|reef|sandbank|shoal|bottom)\b"),
    "list": (r"\blist(?:ing|ed)?\b", r"\bcapsiz", r"\bheel", r"\blean", r"\bon (?:her|my|its) side\b"),
    "sinking": (r"\bsink(?:ing)?\b", r"\bsank\b", r"\bsunk\b", r"\bgoing (?:down|under)\b", r"\bfounder"),
    "adrift": (r"\badrift\b", r"\bdrift", r"\bdisabled\b", r"\bnot under command\b", r"\bbreakdown\b",
               r"\bengines? (?:failed|failure|trouble|stopped|(?:is|are) out)|\bno (?:engine|propulsion)\b"),
    "attack": (r"\battack", r"\bpira", r"\barmed\b", r"\bhijack", r"\bboarded by\b", r"\bgun", r"\brobber", r"\bweapon",
               r"\bshots?\b", r"\bshooting\b", r"\bboarders\b"),
    "abandoning": (r"\babandon",),
    "overboard": (r"\bover ?(?:board|the side)\b", r"\bfell\b", r"\bfallen\b", r"\bin the (?:water|sea)\b",
                  r"\blost (?:a )?\w+", r"\bwashed\b", r"\bmissing\b"),
}  # fmt: skip


_FOLLOWS = (
    "abandoning",
    "sinking",
    "list",
    "flooding",
    "adrift",
)  # what fire or collision leads to


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
    swapped = {"position", "nature"}  # either is first in what the regulations print
    return [
        (line, f"{late} is told before {early}")
        for (early, a), (late, b) in pairwise(there)
        if b < a and {early, late} != swapped
    ]


# Parts of an opening that say who, where, how many, what is wanted, or how the weather is.
_OTHER_PARTS = re.compile(
    r"\bthis is\b|\bmay ?day\b|\bmmsi\b|\bcall ?sign\b|\bmiles?\b|\bposition\b|\bpersons?\b|\bpeople\b|\bsouls\b"
    r"|\bcrew\b|\bpassengers\b|\bon ?board\b|\bin (?:trouble|distress|danger|difficult\w+)\b"
    r"|^\W*(?:wind|sea (?:is|state|rough|slight|moderate|calm)|swell|visibility)\b"
    r"|\b(?:north|south|east|west)\b|\bdistance\b|\bbearing\b|\btug|\bassist|\bcargo (?:is|of)\b",
    re.IGNORECASE,
)


def _untold(case: Case) -> bool:
    """Whether the opening has nothing left, beside its other parts, that can tell what is wrong.

    Whoever says it in words that no list has is not refused for it.
    """
    _, text = opening(case)
    for clause in re.split(r"[.,;:?!]", without_names(case, text)):
        other = (
            _OTHER_PARTS.search(clause) or lexicon.HELP.search(clause) or lexicon.natures(clause)
        )
        words = {w for w in re.findall(r"[a-z]+", clause) if w not in NUMBER_WORDS}
        if not other and not lexicon.POSITION.search(clause) and len(words) > 2:
            return False
    return True


def _nature_told(case: Case) -> list[Told]:
    category = str(case.category or case.scenario.get("category"))
    text = without_names(case, case.text)
    if re.search("|".join(NATURE[category]), text, re.IGNORECASE) or not _untold(case):
        return []
    return [(None, f"nothing tells of the {category}")]


def _unlike(case: Case) -> list[Told]:
    """In the opening, another distress is told and the scenario's is not, nor anything that can be it."""
    category = str(case.category or case.scenario.get("category"))
    line, text = opening(case)
    text = without_names(case, text)
    told = lexicon.natures(text)
    own = category in told or re.search("|".join(NATURE.get(category, ("$^",))), text, re.I)
    if own or not told or (category in _FOLLOWS and not _untold(case)):
        return []
    return [(line, f"the opening tells of {' and '.join(told)}, and the scenario is {category}")]


_AGAIN = r"(?:please|pls|request(?: you)?(?: to)?),? say (?:all )?again\b"


def _over(case: Case) -> list[Told]:
    turns = case.dialogue.turns
    told: list[Told] = []
    for n, turn in enumerate(turns, 1):
        if re.search(r"\bover and out\b", turn.text, re.IGNORECASE):
            told.append((n, '"over and out" says two things: over awaits an answer, out ends'))
        elif re.search(r"\b(?:over,? out|out,? over)\W*$", turn.text, re.IGNORECASE):
            told.append((n, "over awaits an answer and out ends: say one of them"))
        elif n < len(turns) and re.search(r"\?\W*out\W*$", turn.text, re.IGNORECASE):
            told.append((n, "asks, and ends with out"))
        elif re.search(rf"{_AGAIN}[^.?!]*[.?!]\W*out\W*$", turn.text, re.IGNORECASE):
            told.append((n, "asks for it again, and ends with out"))
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
           lambda c: c.scenario.get("kind", "distress") != "distress" or c.category not in NATURE),
    Filter("over_out", "over or out used against their meaning", _over),
)  # fmt: skip
