"""Where a dialogue opens the field of a fact, and which words the scenario has for it.

A field is opened by a cue ("MMSI", "position", "persons on board", "this is") or by what is said without one: two
spelled letters, four figures in a row, an axis of a position, a time with "UTC". Words are judged when they are whole.
What no cue opens, such as a third station's name or the help that is promised, is not a field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from graftwork_llm.pieces import raw

from ..scenario import Scenario
from ..spoken import cardinal, clock, digits, spell
from ..spoken.alphabet import FIGURE_OF, LETTER_OF, PRONOUNCED
from ..spoken.numbers import NUMBER_WORDS, TEENS, TENS

WINDOW = 160  # characters of a line that are looked at; longer than any cue with its words
_BETWEEN = (
    "number|is|are|was|of|the|our|my|your|her|vessel|ship|as|given|reported|repeat|i|say|again"
)
_FILL = rf"(?:[ ,:]+(?:{_BETWEEN}))*[ ,:]+"
# Words with a capital that begin a sentence, and so are no beginning of a name.
_OPENERS = """
Mayday Pan Securite Seelonce Coast Guard Radio Rescue Station Received Receiving This That There Then These The
Your You We What Where Which When Who Why How Is Are Was Do Does Did Can Could Have Has Had All And Any At In On
Of It Our My Her His Their Understood Roger Copy Copied Acknowledged Affirmative Negative Yes No Not Now Please
Thank Thanks Good Say Report Stand Standing Stay Keep Call Calling Message Over Out Position Request Require
Requesting Immediate Assistance Help Motor Vessel Ship Crew Persons Person People Passengers Total Number
Question Answer Information Instruction Advice Warning Intention North South East West Wind Weather Sea
Visibility Force Expect Estimated Time Prepare Proceed Send Sending Switch Muster Inform Let Show From For With
Fire Flooding Collision Grounding List Sinking Adrift Attack Undesignated Abandoning Man Woman Cause Reason
Damage Injured Nobody Rest
"""


@dataclass(frozen=True)
class Field:
    """One way in which a field is opened.

    Args:
        name: of the fact.
        pattern: finds, at the end of a line, what is `said` of it so far.
        values: what may be said; without any, nothing may.
        whole: `said` must be one of them; else a beginning, which is gone on with.
        soft: it may also be another thing, and is where no value begins so.
        speakers: whose lines, by label; all where empty.
    """

    name: str
    pattern: re.Pattern[str]
    values: tuple[str, ...]
    whole: bool = False
    soft: bool = False
    speakers: tuple[str, ...] = ()

    def said(self, line: str) -> tuple[int, int] | None:
        """Where in the line its value begins and ends; None where the line's end opens no such field."""
        if self.speakers and not line.lstrip().startswith(self.speakers):
            return None
        skipped = max(0, len(line) - WINDOW)
        found = self.pattern.search(line, skipped)
        if found is None:
            return None
        if self.soft and not any(v.startswith(found["said"]) for v in self.values):
            return None
        return found.span("said")


@dataclass(frozen=True)
class Called(Field):
    """A name that is said without a cue: a word that begins as the name and as no other word that is known.

    Args:
        known: the other words with a capital.
    """

    known: frozenset[str] = frozenset()

    def said(self, line: str) -> tuple[int, int] | None:
        """Three letters are enough; two where a coast station's line begins, for there it calls somebody."""
        found = self.pattern.search(line, max(0, len(line) - WINDOW))
        if found is None or any(word.startswith(found[0]) for word in self.known):
            return None
        name, start, said = self.values[0], found.start(), found[0]
        calls = line[:start].lstrip() == "COAST: "
        if name.startswith(said):
            opened = calls or len(said) >= min(3, len(name.split()[0]))
        else:
            opened = calls and len(said) > 1 and said[:2] == name[:2]
        return found.span() if opened else None


def may_open(line: str) -> bool:
    """Whether a field can open at the line's end; false for most words, and quick to say."""
    at = len(line)
    while at and (line[at - 1].isalnum() or line[at - 1] == "'"):
        at -= 1
    word = line[at:]
    return word[:1].isupper() or word.isdigit() or word.lower() in _LAST_WORDS


def fields(scenario: Scenario) -> tuple[Field, ...]:
    """All fields of a scenario; their values are raw text (`graftwork_llm.pieces.raw`)."""
    vessel, position = scenario.vessel, scenario.position
    mmsi = (spell(vessel.mmsi),) if vessel.mmsi else ()
    station = (digits(scenario.station.mmsi),) if scenario.station.mmsi else ()
    sign = (spell(vessel.call_sign),) if vessel.call_sign else ()
    words = position.words()
    persons = _numbers(vessel.persons, position.digit_by_digit)
    facts_utc = [str(v) for k, v in scenario.facts.items() if k.endswith("_utc")]
    times = tuple(dict.fromkeys(clock(t) for t in (*facts_utc, *_utc(scenario))))
    counts = [
        _numbers(v, position.digit_by_digit) for v in scenario.facts.values() if isinstance(v, int)
    ]
    others = (*persons, *(text for pair in counts for text in pair))
    longer = [digits(v) for v in scenario.facts.values() if isinstance(v, int) and v > 999]
    long = (*mmsi, *station, *(t.removesuffix(" UTC") for t in times), *longer, *persons)
    made = [
        Field("mmsi", _cue("MMSI", _run(_NUMBER)), mmsi, speakers=("SHIP", "OTHER")),
        Field("mmsi", _cue("MMSI", _run(_NUMBER)), (*mmsi, *station), speakers=("COAST",)),
        Field("call sign", _cue("call[- ]?sign", rf"{_run(_SPELLED)}|(?-i:[A-Z][A-Z0-9]{{2,6}})"), sign),
        Field("call sign", _bare(_CODE), sign),
        Field("position", _cue(r"(?<!to your )(?<!to the )(?<!to her )position", _run(_NUMBER)),
              (words, *_distances(scenario))),
        Field("position", _bare(rf"{_run(_NUMBER)} degrees?", r"(?<!bearing )(?<!course )(?<!heading )"),
              (words, words.partition(", ")[2]), soft=True),
        Field("position", _bare(rf"degrees?[ ,]+(?:{_NUMBER}|\d+|north|south|east|west)"), (), whole=True),
        Field("persons", _cue(rf"{_PERSONS}(?: are)? {_ABOARD}|number of persons", _run(_NUMBER)),
              persons),
        Field("persons", _after(rf"{_PERSONS}(?: are)?[ ,-]+{_ABOARD}"), persons, whole=True),
        Field("persons", _cue(_PERSONS, _run(_NUMBER), rf"[ ,]+{_ABOARD}"), persons, whole=True),
        # what else there can be so many of: what the scenario counts
        Field("persons", _after("persons|people|souls"), others, whole=True),
        Field("persons", _cue(_TOTAL, _run(_NUMBER)), others, speakers=("SHIP",)),
        Field("persons", re.compile(rf"(?:^SHIP:|[.?!]) (?P<said>{_run(_NUMBER)})$", re.IGNORECASE),
              (*others, *_distances(scenario), words, words.capitalize(), *scenario.help,
               *(h.capitalize() for h in scenario.help)), speakers=("SHIP",)),
        Field("time", _after("UTC"), tuple(t.removesuffix(" UTC") for t in times), whole=True),
        Field("figures", _figures(4), long, speakers=("SHIP", "OTHER")),
        Field("figures", _figures(5), long, speakers=("COAST",)),  # minutes until help comes have four
    ]  # fmt: skip
    if facts_utc:
        cue = "at|since|from|sighting|alert|time"
        made.append(Field("time", _cue(cue, _run(_NUMBER)), times))
    made += _names(scenario)
    return tuple(replace(f, values=tuple(dict.fromkeys(map(raw, f.values)))) for f in made)


def _names(scenario: Scenario) -> list[Field]:
    vessel, other = scenario.vessel, scenario.other_vessel
    speaks = other if scenario.kind == "relay" and other else vessel
    own = [speaks.name, *([f"{speaks.type} {speaks.name}"] if speaks.type else [])]
    names = (vessel.name, *([other.name] if other else []))
    same = (vessel.name, *([other.name] if other and other.type == vessel.type else []))
    first = r"(?P<said>(?-i:[A-Z])[\w'-]*)$"
    called = r"(?P<said>[A-Z][\w'-]+)$"
    return [
        Field("name", re.compile(rf"\bthis is[ ,:]+(?:the )?{first}", re.I), tuple(own), speakers=("SHIP",)),
        Field("name", re.compile(rf"\b(?:{_NAMED})(?: is)?[ ,:]+{first}", re.I), names),
        Field("name", re.compile(rf"\b{re.escape(raw(vessel.type))} {called}"), same, speakers=("SHIP",)),
        Field("name", re.compile(rf"\bCoast Guard to (?:the )?{called}"), (*names, vessel.type), speakers=("COAST",)),
        *(Called("name", _CAPITAL, (name,), known=frozenset({*_KNOWN, *_others(name, scenario)})) for name in names),
    ]  # fmt: skip


def _others(name: str, scenario: Scenario) -> set[str]:
    """The words with a capital that the scenario has elsewhere."""
    told = raw(json.dumps(scenario.as_dict(), ensure_ascii=False)).replace(raw(name), "")
    return set(re.findall(r"[A-Z][\w'-]+", told))


def _utc(scenario: Scenario) -> Sequence[str]:
    told = [scenario.utc, *([scenario.dsc.utc] if scenario.dsc else [])]
    return [found[0] for text in told if (found := re.search(r"\d\d:\d\d", text))]


def _numbers(value: int, one_by_one: bool) -> tuple[str, ...]:
    """As the scenario says numbers, in the middle and at the beginning of a sentence."""
    said = digits(value) if one_by_one else cardinal(value)
    return said, said.capitalize()


def _distances(scenario: Scenario) -> tuple[str, ...]:
    near = [p for p in (scenario.place, scenario.port, scenario.harbour) if p is not None]
    one_by_one = scenario.position.digit_by_digit
    said = [n for p in near for n in _numbers(p.distance_nm, one_by_one)]
    units = ("miles", "nautical miles", "mile", "nautical mile")
    return tuple(f"{n} {unit}" for n in said for unit in units)


def _words(known: Iterable[str]) -> str:
    return "|".join(sorted(known, key=lambda w: (-len(w), w)))


_NUMBER = _words(NUMBER_WORDS)
_FIGURE = _words([*FIGURE_OF, *PRONOUNCED])
_SPELLED = _words([*LETTER_OF, *FIGURE_OF, *PRONOUNCED])
_LETTER = _words(LETTER_OF)
_TITLED = _words([w.capitalize() for w in LETTER_OF])
_GAP = r"[ -]+(?:(?:decimal|point)[ -]+)?"
# Letters and figures in a row: two where the letter has a capital, three and more in any case.
_CODE = (
    rf"(?:(?:{_NUMBER}|\d+){_GAP})*(?-i:{_TITLED})(?:{_GAP}(?:{_SPELLED}|{_NUMBER}|\d+))+"
    rf"|(?:(?:{_NUMBER}|\d+){_GAP})+(?-i:{_TITLED})"
    rf"|(?:(?:{_NUMBER}|\d+){_GAP})+(?:{_LETTER})(?:{_GAP}(?:{_SPELLED}|{_NUMBER}|\d+))+"
    rf"|(?:{_LETTER})(?:{_GAP}(?:{_SPELLED}|{_NUMBER}|\d+)){{2,}}"
)
_NAMED = "vessel'?s? name|name of (?:the|our|my|this) (?:vessel|ship)"
_PERSONS = "(?:persons?|people|souls?|crew members?|crew|passengers?)"
_TOTAL = "total(?: of)?|all together|altogether|in all|there are|crew and passengers"
_ABOARD = "(?:on ?board|aboard)"
_KNOWN = (*_OPENERS.split(), *(w.capitalize() for w in LETTER_OF))
# Beginnings of number words that are none of other words that one says.
_OTHERS = {"thi", "thir", "for", "fort", "fou", "sev", "seve"}
_BEGUN = {w[:n] for w in (*FIGURE_OF, *TEENS, *TENS) for n in range(3, len(w))} - _OTHERS
_LAST_WORDS = {w for k in (*NUMBER_WORDS, *LETTER_OF) for w in k.split("-")[-1:]} | {
    *_BEGUN, "utc", "board", "aboard", "degree", "degrees", "north", "south", "east", "west", "persons", "people",
    "souls",
}  # fmt: skip
_CAPITAL = re.compile(r"(?<![\w'-])[A-Z][\w'-]*$")


def _run(words: str) -> str:
    """Words or numerals in a row, the last one perhaps begun."""
    return rf"(?:(?:{words}|\d+)[ ,-]+)*(?:{words}|\d+|{_words(_BEGUN)})"


@cache
def _figures(least: int) -> re.Pattern[str]:
    """So many figures in a row."""
    return _bare(rf"(?:(?:{_FIGURE}|\d)[ -]+){{{least - 1},}}(?:{_FIGURE}|\d+)|\d{{{least},}}")


@cache
def _cue(cue: str, said: str, unit: str = "") -> re.Pattern[str]:
    return re.compile(rf"\b(?:{cue}){_FILL}(?P<said>{said}){unit}$", re.IGNORECASE)


@cache
def _bare(said: str, before: str = "") -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){before}(?P<said>{said})$", re.IGNORECASE)


@cache
def _after(unit: str) -> re.Pattern[str]:
    """A number before its unit."""
    run = rf"(?:(?:{_NUMBER}|\d+)[ -]+)*(?:{_NUMBER}|\d+)"
    return re.compile(rf"(?<![\w-])(?P<said>{run})[ -]+(?:{unit})$", re.IGNORECASE)
