"""Composed dialogues with the spans of their slots: found by the composer's own tables and the scenario's facts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from random import Random

from benchmarks.maritime.slots.spans import Labelled, Span
from graftwork_maritime.dialogues import Dialogue
from graftwork_maritime.grammar import compose
from graftwork_maritime.grammar.phrases import categories, procedure
from graftwork_maritime.scenario import Engine, Scenario
from graftwork_maritime.spoken import cardinal, digits, read_number
from graftwork_maritime.spoken.numbers import NUMBER_WORDS

# Preset and form in turn; the paper's has cardinals, whole degrees and vessels without a type or number.
SOURCES = (("coastal", "full"), ("paper", "paper"), ("coastal", "full"), ("paper", "full"))
RENAMED = 0.7  # share of vessels whose name is made anew, so that no list of names can be learnt
FIGURES = 0.2  # share of dialogues whose numbers are written in figures, as transcripts often are
_LEAD = re.compile(
    r"(?:there (?:is|has been)|(?:the )?vessel (?:is|has(?: been| started)?|in)|please|(?:it|she) is|"
    r"we (?:are|have)|i am|my vessel is|my vessel has|our vessel is) (?:an? |in (?=collision))?",
    re.IGNORECASE,
)
_WORDS = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
_RUN = re.compile(
    rf"\b(?:{_WORDS})(?: (?:{_WORDS}))*(?: (?:decimal|point)(?: (?:{_WORDS}))+)?\b", re.IGNORECASE
)
_SYLLABLES = re.findall(
    r"\w+",
    "ba be bo bra cal cor da del dro el fa fen gar gra ha hol il jo ka kel la lin lor ma mer mi na nor o or pa pel qui "
    "ra ro sa sel sta ta tor ul va ven vi wa wen ya zor",
)


def scenarios(seed: int, count: int) -> Iterator[tuple[Scenario, str]]:
    """Scenarios of every source in turn, each with its form; a pure function of the seed."""
    engines = {preset: Engine(preset, exercise=True) for preset, _ in SOURCES}
    for index in range(count):
        preset, form = SOURCES[index % len(SOURCES)]
        scenario = engines[preset].scenario(seed, index // 2)
        draw = Random(f"name {seed} {index}")
        if draw.random() < RENAMED:
            vessel = replace(scenario.vessel, name=name(draw))
            scenario = replace(scenario, vessel=vessel)
        yield scenario, form


def name(draw: Random) -> str:
    """A vessel's name of one to three words that mean nothing."""
    return " ".join(
        "".join(draw.choice(_SYLLABLES) for _ in range(draw.choice((2, 2, 3)))).capitalize()
        for _ in range(draw.choice((1, 1, 2, 2, 3)))
    )


def composed(seed: int, count: int) -> Iterator[Labelled]:
    """Dialogues with every mention of every slot."""
    for scenario, form in scenarios(seed, count):
        turns = compose(scenario, seed, form)
        dialogue = Dialogue(turns, f"{scenario.id}-{form}", category=scenario.category)
        one = Labelled(dialogue, tuple(spans(scenario, dialogue)))
        draw = Random(f"figures {seed} {scenario.id} {form}")
        yield in_figures(one) if draw.random() < FIGURES else one


def spans(scenario: Scenario, dialogue: Dialogue) -> Iterator[Span]:
    """Where the turns say the scenario's facts.

    A search names no vessel in trouble; what it is about, and a relay's own ship, are not labelled.
    """
    for number, turn in enumerate(dialogue.turns, 1):
        found = [
            Span(slot, number, *match.span(group))
            for slot, group, pattern in _patterns(scenario)
            for match in pattern.finditer(turn.text)
        ]
        taken = 0
        for span in sorted(found, key=lambda s: (s.start, -s.end)):
            if span.start >= taken:
                yield span
                taken = span.end


def in_figures(one: Labelled) -> Labelled:
    """The same dialogue with its numbers in figures: "five four degrees" as "54 degrees"."""
    turns, moved = [], []
    for number, turn in enumerate(one.dialogue.turns, 1):
        text, at, places = "", 0, {0: 0}
        for run in _RUN.finditer(turn.text):
            text += turn.text[at : run.start()]
            places[run.start()] = len(text)
            text += read_number(run[0].lower())
            at = run.end()
            places[at] = len(text)
        text += turn.text[at:]

        def place(old: int, places: dict[int, int] = places) -> int:
            last = max(p for p in places if p <= old)
            return places[last] + old - last

        turns.append(replace(turn, text=text))
        moved += [
            replace(s, start=place(s.start), end=place(s.end))
            for s in one.spans
            if s.turn == number
        ]
    return Labelled(replace(one.dialogue, turns=tuple(turns)), tuple(moved))


def without_lead(text: str) -> int:
    """How many characters lead to the nature: "The vessel is on fire" has the nature "on fire"."""
    lead = _LEAD.match(text)
    return lead.end() if lead else 0


def _patterns(scenario: Scenario) -> Iterator[tuple[str, str, re.Pattern[str]]]:
    """Slot, group of the match that is its span, and where it is said."""
    vessel, place, parts = scenario.vessel, scenario.place, procedure()
    if scenario.category != "search":
        yield "vessel", "x", _pattern("{x}", x=vessel.name)
    yield "position", "x", _pattern("{x}", x=scenario.position.words())
    if place is not None and place.bearing is not None:
        for template in parts["place"]:
            template = template.rstrip(".")
            lead = re.match(
                r"(That is|This is|Bearing from|Nearest mark is|Our distance is) ", template
            )
            known = {"bearing": place.bearing, "place": place.name}
            yield "position", "span", _pattern(
                template, lead.end() if lead else 0, n=_number(place.distance_nm), **known
            )  # fmt: skip
    for template in parts["persons"]:
        yield "persons", "n", _pattern(template, n=_number(vessel.persons))
    for wording in scenario.help:
        for template in (*parts["help"], *parts["relay_help"]):
            yield "help", "help", _pattern(template, help=wording)
    for wording in categories()[scenario.category]["nature"]:
        yield "nature", "span", _pattern(wording.rstrip("."), without_lead(wording))


def _number(value: int) -> tuple[str, str]:
    """The ways in which the composer says a number."""
    return digits(value), cardinal(value)


def _pattern(template: str, start: int = 0, **values: str | tuple[str, ...]) -> re.Pattern[str]:
    """A wording as a pattern: a group for each slot, and `span` for what stands from `start` on."""
    text = f"{re.escape(template[:start])}(?P<span>{re.escape(template[start:])})"
    for key, value in values.items():
        known = "|".join(map(re.escape, (value,) if isinstance(value, str) else value))
        text = text.replace(rf"\{{{key}\}}", rf"(?P<{key}>(?<!\w)(?:{known})(?!\w))", 1)
    return re.compile(text.replace("miles", "miles?"), re.IGNORECASE)
