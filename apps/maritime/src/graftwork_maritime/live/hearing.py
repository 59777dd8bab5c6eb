"""What a station wants that one hears: a question and of what, a read-back and whether it is right, silence, and more.

Questions are matched by their content words with the words of what can be asked; a word that belongs to several keys
counts less. A question with as many unknown words as understood ones is not answered with a guess.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from ..grammar.message import read_message
from ..grammar.phrases import categories
from ..scenario.model import Scenario
from . import truth

ACTS = (
    "nothing", "seelonce", "feenee", "elsewhere", "again", "readback", "question", "statement",
)  # fmt: skip
_GENERAL = {
    "position": "position latitude longitude coordinates where located location gps fix whereabouts lat lon",
    "place": "bearing distance nearest landmark place far land closest miles from off",
    "persons": "persons person people souls crew passengers many number aboard board men pob total complement",
    "mmsi": "mmsi identity number maritime mobile digits nine",
    "call_sign": "call sign callsign",
    "name": "name vessel ship called who",
    "type": "type kind vessel ship craft",
    "nature": "nature distress happened happening trouble problem wrong matter emergency situation",
    "help": "help assistance require required need want assist",
    "cargo": "cargo carry carrying load loaded freight",
    "weather": "weather wind sea visibility force waves conditions",
}
_EMPTY = """
what which whom whose is are was were be been the your you yours of a an do does did please can could would
will tell me us give report say again said on to in at any there and it its it's have has had over out this that
station i we our my kindly sir madam repeat confirm advise for with now or received understood roger mayday
pan thank copy so all about if by no not exact exactly precise present currently question request how much
let know ask inform correct read back mistake negative affirmative vessel's ship's
"""
_STOP = set(_EMPTY.split())
_FIXED = (
    (r"\bwhere (are|is) (you|your (vessel|ship))\b", "position"),
    (r"\bwho are you\b", "name"),
)
_AGAIN = re.compile(
    r"say (all |it )?again|repeat|did not (hear|receive|read|copy)|cannot (hear|read)|unreadable|broken( up)?\b(?! \w)"
    r"|not (readable|clear)|pardon",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\?|\b(what|which|where|who|how (many|much|far|long|fast|old)|when|why|tell (me|us)|give (me|us|your)|(state|"
    r"report|advise) (your|the|how|what|if|whether)|request your|(need|want|like) to know|furnish"
    r"|let (me|us) (know|have))\b",
    re.IGNORECASE,
)
_READS = re.compile(
    r"\b(read(ing)? back|i (read|understand|have|copied|copy|received|repeat)|understood|confirm|"
    r"is that (correct|right)|correct\?|you are|your)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Heard:
    """What was heard.

    Args:
        act: one of `ACTS`; a statement is an instruction, an information or a receipt.
        key: of the fact that is asked for or read back; None where it is not understood.
        wrong: keys that were read back wrongly.
    """

    act: str
    key: str | None = None
    wrong: tuple[str, ...] = ()


def listen(text: str, scenario: Scenario, speaker: str = "coast") -> Heard:
    """What a turn wants of the vessel."""
    if not text.strip():
        return Heard("nothing")
    message = read_message(1, speaker, text)
    if "silence" in message.acts:
        return Heard("seelonce")
    if "silence_end" in message.acts:
        return Heard("feenee")
    if _for_another(text, message.addressed, scenario):
        return Heard("elsewhere")
    asks = _ASKS.search(text) is not None
    if _AGAIN.search(text):
        return Heard("again", topic(text, scenario))
    read = _read_back(text, scenario)
    if read and (_READS.search(text) or not asks):
        return Heard("readback", read[0], tuple(truth.wrong(text, scenario, speaker)))
    return Heard("question", topic(text, scenario)) if asks else Heard("statement")


def topic(text: str, scenario: Scenario) -> str | None:
    """The key that a question is about, or None when it is understood too little."""
    fixed = next((key for words, key in _FIXED if re.search(words, text, re.IGNORECASE)), None)
    if fixed:
        return fixed
    content = _content(_plain(text, scenario))
    if not content:
        return None
    vocabulary = _vocabulary(scenario)
    owners = Counter(word for known in vocabulary.values() for word in known)
    scores = {
        key: sum(1 / owners[word] for word in content if word in known)
        for key, known in vocabulary.items()
    }
    first = {
        key: -min((n for n, w in enumerate(content) if w in known), default=99)
        for key, known in vocabulary.items()
    }
    best = max(scores, key=lambda key: (scores[key], key in scenario.facts, first[key]))
    explained = sum(word in vocabulary[best] for word in content)
    strange = sum(word not in owners for word in content)
    return best if explained > strange else None


def _vocabulary(scenario: Scenario) -> dict[str, set[str]]:
    asked = categories()[scenario.category]
    known = truth.keys(scenario)
    found = {
        key: {_stem(w) for w in line.split()} for key, line in _GENERAL.items() if key in known
    }
    for key in scenario.facts:
        lines = " ".join([*asked[key]["ask"], *asked[key]["say"], key.replace("_utc", "")])
        found[key] = set(_content(re.sub(r"\{\w+\}", " ", lines)))
    return found


def _plain(text: str, scenario: Scenario) -> str:
    """The sentences that ask, where there are such, without who calls whom and whom they are about."""
    asking = [s for s in re.findall(r"[^.?!]+[.?!]*", text) if "?" in s]
    text = " ".join(asking) or text
    text = re.sub(r"\b(state|report)( your| the| how| if)", r"\2", text, flags=re.IGNORECASE)
    text = re.sub(r"^.*?\bthis is [^.?!]*[.,]", " ", text, flags=re.IGNORECASE)
    for name in (scenario.vessel.name, scenario.station.name):
        text = re.sub(re.escape(name), " ", text, flags=re.IGNORECASE)
    return text


def _content(text: str) -> list[str]:
    return [_stem(w) for w in re.findall(r"[a-z']+", text.lower()) if w not in _STOP and len(w) > 1]


def _stem(word: str) -> str:
    return word.replace("'s", "")[:5].rstrip("s")


def _for_another(text: str, addressed: str | None, scenario: Scenario) -> bool:
    """Whether a turn calls a station that is not this one."""
    other = scenario.other_vessel
    own = other if scenario.kind == "relay" and other else scenario.vessel
    if addressed is None or own.name.lower() in text.lower():
        return False
    low = addressed.lower()
    return addressed[:1].isupper() and not re.match(
        r"(all (stations|ships)|vessel|station|ship|mayday|received|roger|unknown|pan)", low
    )


def _read_back(text: str, scenario: Scenario) -> list[str]:
    """Keys of which the turn says a value, right or wrong."""
    message = read_message(1, "coast", text)
    found = [
        key
        for key, values in (
            ("mmsi", [v for v in message.mmsi if not v.startswith("00")]),
            ("call_sign", message.call_signs),
            ("position", message.positions),
            ("persons", message.persons),
        )
        if values
    ]
    low = text.lower()
    own = [
        k
        for k, v in scenario.facts.items()
        if isinstance(v, str) and truth.words(k, scenario).lower() in low
    ]
    wrong = [k for k in truth.wrong(text, scenario, "coast") if k not in found]
    return [*found, *own, *wrong]
