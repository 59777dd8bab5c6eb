"""What a question is about.

Words that name a thing (latitude, souls, call sign) tell it in any wording. A scenario's own facts are
known by the content words of their questions and statements; a question with as many unknown words as understood
ones is not answered with a guess, nor is one for another thing's attribute ("the weight of your cargo").
"""

from __future__ import annotations

import re
from collections import Counter

from ..grammar.phrases import categories
from ..scenario.model import Scenario
from . import truth

_SHIP = "(?:vessel|ship|boat|craft|yacht)"
_PEOPLE = "(?:persons?|people|souls?|men|man|crew|passengers?|hands|pob|human beings|individuals|lives|heads)"
# By key: words that name it.
_NAMED: dict[str, tuple[str, ...]] = {
    "position": (
        "positions?", "posit", "latitude", "longitude", "lat", "co-?ordinates?", "whereabouts?", "locat(?:ed|ion)",
        "gps", "fix", r"where\b(?! (?:was|were|did|do))[\w ]{0,12}\b(?:you|ship|vessel)",
        "you (?:are )?(?:where|at)",
        "(?:plot|find|locate|reach) you", "part of the (?:bay|sea|coast|channel|strait|gulf|ocean)",
        f"(?:you|{_SHIP}) lies?", "in which (?:area|part|waters?)", "find yourself",
    ),
    "place": (
        "bearings?", "distance", "how far", "how many miles", "nearest", "closest", "landmarks?", "relative to",
        "abeam", "known (?:place|point|mark)", "(?:off|near) which",
        "which (?:coast|headland|cape|port) (?:are|do) you",
        "from (?:the )?(?:land|shore|coast)", "headland",
    ),
    "persons": (
        rf"how many\b[\w ]{{0,8}}?\b{_PEOPLE}", f"{_PEOPLE},? how many", rf"number\b[\w ]{{0,8}}?\b{_PEOPLE}",
        "souls?", "how many (?:of you|are you|are there|on ?board|aboard|(?:have|are) you)", "complement",
        "total (?:number|crew|persons|people|of)", "crew and passengers", "passengers and crew", "head ?count",
        r"p\.?o\.?b", "(?:number|count) (?:on ?board|aboard)",
        f"{_PEOPLE} (?:number|count|total)", "how (?:big|large|numerous) is your (?:crew|company|party)",
        f"{_PEOPLE} (?:are |is )?(?:on (?:board|ship)|onboard|aboard|embarked|in all)",
    ),
    "mmsi": (
        r"m\.?m\.?s\.?i", "maritime mobile (?:service )?(?:identity|number)", "maritime identity",
        "(?:nine|9)[ -](?:digits?|figures?|numerals?|numbers?)", "digital selective call(?:ing)?",
        "(?:id|identity|identification|dsc|selective call) number",
    ),
    "call_sign": (
        "call[ -]?signs?", "calling sign", "(?:call|signal|identification) letters?",
        "letters and (?:figures|numbers|digits)", "radio (?:sign|identification)",
    ),
    "name": (
        f"names? of (?:your|the) {_SHIP}", f"(?:your|{_SHIP}(?:'s)?) name", "who are you", f"what {_SHIP} (?:are|is)",
        f"which {_SHIP} (?:are|is)", f"{_SHIP} called",
    ),
    "type": (f"(?:type|kind|sort|class) of {_SHIP}", f"what {_SHIP} type"),
    "help": (
        "help", "assist(?:ance|ed)?", "aid", "support", "relief", "succou?r", "you (?:need|want|require)(?! to)",
        "(?:what|you) (?:need|want)(?! to)", "(?:shall|must|may|can|could|should) we (?:send|do|bring|be of)",
        "your (?:needs?|requirements?)", "in need", "(?:of|be of|at your|greatest) service", "do for you", "resources",
        "of use to you", "useful",
    ),
    "nature": (
        "nature", "troubles?(?! (?:you|yourself))", "problems?", "emergency", "difficult(?:y|ies)", "predicament",
        "matter", "wrong", "happen(?:s|ed|ing)?", "going on", "occurr?(?:ed|ing)", "befall(?:en|s)?", "befell",
        "kind of distress", "situation", "why (?:do |did |are )?you (?:call|send)", "reason (?:for|of) your call",
        "misfortune", "mishap", "accident", "incident", "calamity", "plight",
    ),
    "cargo": (
        "cargo(?:es)?", "freight", "laden", r"(?:what|anything)\b[\w ]{0,20}\b(?:carry|loaded|load)",
        "are you (?:carrying|loaded)", "in (?:your|the) holds?", "goods", "hazardous", "substances",
    ),
    "weather": (
        "weather", "winds?", "sea state", "swell", "visibility", "waves?", "the sea", "sea (?:how|and|conditions?)",
        r"meteorolog\w+", "conditions (?:where|around|outside|at|with|there)", "the elements", "beaufort",
    ),
}  # fmt: skip
_OF_ALL = {  # where nothing else is understood
    "position": r"\bwhere\b(?! (?:was|were|did|do)\b)",
    "name": r"\bwhat is your name\b",
}
_TELLS = {
    key: 2.0 if key == "persons" else 3.0 for key in _NAMED
}  # how many are hurt is another question
_ABOUT = {
    "position": "position latitude longitude coordinates where located location gps fix whereabouts lat lon place",
    "place": "bearing distance nearest landmark place far land closest miles from off port coast point known",
    "persons": "persons person people souls crew passengers many number aboard board men pob total complement",
    "mmsi": "mmsi identity number maritime mobile digits nine figures service",
    "call_sign": "call sign callsign letters",
    "name": "name vessel ship called who",
    "type": "type kind vessel ship craft",
    "nature": "nature distress happened happening trouble problem wrong matter emergency situation difficulty state",
    "help": "help assistance require required need want assist kind type form send nature",
    "cargo": "cargo carry carrying load loaded freight kind type nature goods",
    "weather": "weather wind sea visibility force waves conditions state direction strength",
}
_EMPTY = """
what which whom whose is are was were be been the your you yours of a an do does did please can could would
will tell me us give report say again said on to in at any there and it its it's have has had over out this that
station i we our my kindly sir madam repeat confirm advise for with now or received understood roger mayday
pan thank copy so all about if by no not exact exactly precise present currently question request how much
let know ask inform correct read back mistake negative affirmative vessel's ship's sort describe detail details
"""
_STOP = set(_EMPTY.split())
_ATTRIBUTE = re.compile(
    r"\b(?:what|which) (?:is|are|was|were) (?:the|your) ((?:\w+ ){0,2}?\w+) of\b|\bwho (?:is|owns|was) the (\w+)\b",
    re.IGNORECASE,
)
_WHEN = re.compile(r"\b(?:when|how (?:long|soon)|time|minutes|hours|ago|since)\b", re.IGNORECASE)


def topics(text: str, scenario: Scenario) -> tuple[str, ...]:
    """The keys that a question is about, the likeliest first; none when it is understood too little.

    A question for the trouble is one for the nature and for the fact that tells more of it: both, then.
    """
    text = plain(text, scenario)
    if exact := _verbatim(text, scenario):
        return (exact,)
    found = {**_by_name(text), **_by_facts(text, scenario)} or {
        key: 1.0 for key, words in _OF_ALL.items() if re.search(words, text, re.IGNORECASE)
    }
    if not found or _other(text, max(found, key=lambda key: found[key])):
        return ()
    first, *rest = sorted(found, key=lambda key: -found[key])
    if "nature" in (first, *rest[:1]) and rest:
        other = next((k for k in (first, *rest) if k in scenario.facts), None)
        if other and found[other] >= 2 and found["nature"] >= 2:
            return ("nature", other)
    return (first,)


def named(text: str) -> bool:
    """Whether something that can be asked for is named."""
    return bool(_by_name(text))


def _verbatim(text: str, scenario: Scenario) -> str | None:
    """The fact of which the composer's own question is asked, word for word."""
    low = text.lower()
    asked = categories()[scenario.category]
    hits = [key for key in scenario.facts if any(w.lower() in low for w in asked[key]["ask"])]
    return hits[0] if len(hits) == 1 else None


def _by_name(text: str) -> dict[str, float]:
    """Keys that are named; what is named first counts a little more."""
    found = {}
    for key, words in _NAMED.items():
        if hit := re.search(rf"\b(?:{'|'.join(words)})\b", text, re.IGNORECASE):
            found[key] = _TELLS[key] - hit.start() / 1000
    if "mmsi" in found and "persons" in found:
        del found["persons"]
    return found


def _by_facts(text: str, scenario: Scenario) -> dict[str, float]:
    """Facts by the words that they share with the question: those of their questions, of theirs alone, count more."""
    said = content(text)
    asks, more = _vocabulary(scenario)
    owners = Counter(word for known in asks.values() for word in known)
    common = {stem(w) for line in _ABOUT.values() for w in line.split()}
    found: dict[str, float] = {}
    for key, known in asks.items():
        explained = sum(word in known or word in more[key] or word in common for word in said)
        timed = key.endswith(("minutes", "_utc", "hours", "repair"))
        if explained * 2 <= len(said) or (timed and not _WHEN.search(text)):
            continue
        own = [w for w in said if w in known and w not in common]
        weight = sum(2.5 / owners[w] for w in own)
        weight += sum(1.0 for w in said if w in more[key] and w not in known and w not in common)
        weight += 0.1 * sum(w in known for w in said)
        if weight >= 1:
            found[key] = weight
    return found


def _other(text: str, key: str) -> bool:
    """Whether an attribute is asked for that is not the key's."""
    hit = _ATTRIBUTE.search(text)
    if not hit or key not in _ABOUT:
        return False
    about = {stem(w) for w in _ABOUT[key].split()}
    head = [stem(w) for w in (hit[1] or hit[2]).lower().split() if w not in _STOP]
    return bool(head) and head[-1] not in about


def _vocabulary(scenario: Scenario) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Words of each fact's questions, and of its statements."""
    lines = categories()[scenario.category]
    asks, more = {}, {}
    for key in scenario.facts:
        asks[key] = set(content(" ".join([*lines[key]["ask"], key.replace("_utc", "")])))
        more[key] = set(content(re.sub(r"\{\w+\}", " ", " ".join(lines[key]["say"]))))
    return asks, more


def plain(text: str, scenario: Scenario) -> str:
    """The sentences that ask, where there are such, without who calls whom and whom they are about."""
    text = re.sub(r"^.*?\bthis is [^.?!]*[.,]", " ", text, flags=re.IGNORECASE)
    asking = [s for s in re.findall(r"[^.?!]+[.?!]*", text) if "?" in s]
    text = " ".join(asking) or text
    for name in (scenario.vessel.name, scenario.station.name):
        text = re.sub(re.escape(name), " ", text, flags=re.IGNORECASE)
    return text


def content(text: str) -> list[str]:
    """Stems of the words that tell something."""
    return [stem(w) for w in re.findall(r"[a-z']+", text.lower()) if w not in _STOP and len(w) > 1]


def stem(word: str) -> str:
    """Five letters, without the plural's."""
    return word.replace("'s", "")[:5].rstrip("s")


def known(keys: tuple[str, ...], scenario: Scenario) -> tuple[str, ...]:
    """Those of which the scenario says something; of identities and cargo it says also that there are none."""
    there = (*truth.keys(scenario), "mmsi", "call_sign", "cargo")
    return tuple(key for key in keys if key in there)
