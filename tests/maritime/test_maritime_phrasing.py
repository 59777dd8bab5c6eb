"""The phrase book's ways: what keeps to them, and what each of them finds."""

from __future__ import annotations

import pytest

from graftwork_maritime.dialogues import Turn
from graftwork_maritime.filters.sets import SETS
from graftwork_maritime.grammar import PHRASES, RULES, parse, phrasing
from tests.maritime.world_kit import composed

FOUND = {
    "ambiguous-word": [
        "You should alter course.",
        "Can I enter the fairway?",
        "We may need a tug.",
    ],
    "bare-answer": ["Yes. Over.", "Solwin Radio, Orsanna Star. No.", "Affirmative, over."],
    "off-standard-word": ["Okay, I turn now.", "Do you copy? Over.", "Hang on, mate."],
    "figures-as-numbers": ["Twenty five persons on board.", "My speed is fourteen knots."],
    "bearing-figures": ["Bearing nine zero degrees from the light.", "My course is 45 degrees."],
    "unit-missing": ["My distance is one two.", "Speed one zero, over."],
    "contraction": [
        "I don't require a tug.",
        "It's on the port side.",
        "We’ve stopped the engine.",
    ],
    "marker-misused": ["Instruction: I will reduce speed."],
    "correction-form": ["Position five zero north, sorry, five one north.", "I mean four persons."],
}
KEPT = [
    "My course is zero four five degrees, speed one two knots.",
    "Yes, I see the lights. Over.",
    "Mistake. Correction, four persons on board.",
    "Mayday, Mayday, Mayday. This is Orsanna Star.",
    "The date is 4 May 2026. I cannot stop.",
    "Distance one two nautical miles. Visibility two miles.",
    "Can you proceed without assistance?",  # phrases of the phrase book
    "Yes, I can stop flooding.",
    "Starboard fifteen. Port ten.",
    "My chief mate is injured. There is no problem with the engine.",
    "Sorry for the delay. Two persons are injured.",
    "The vessel's rudder is lost. Saint Abb's Head is in sight.",
    "Intention: I will reduce speed.",
    "I left port on the fourth of May.",
]


def rules(text: str) -> set[str]:
    called = Turn("coast", "Orsanna Star, this is Solwin Radio. What is your course?")
    state = parse((Turn("ship", "This is Orsanna Star."), called, Turn("ship", text)))
    return {v.rule for v in phrasing(state) if v.line == 3}


@pytest.mark.parametrize(("rule", "text"), [(r, t) for r, texts in FOUND.items() for t in texts])
def test_what_is_found(rule: str, text: str) -> None:
    assert rules(text) == {rule}


@pytest.mark.parametrize("text", KEPT)
def test_what_is_kept(text: str) -> None:
    assert rules(text) == set()


@pytest.mark.parametrize(
    ("said", "found"), [("The tug comes.", set()), ("Does the tug come?", {"bare-answer"})]
)
def test_correct_alone_confirms_what_was_read_back(said: str, found: set[str]) -> None:
    turns = (Turn("ship", f"{said} Over."), Turn("coast", "Correct. Out."))
    assert {v.rule for v in phrasing(parse(turns))} == found


def test_composed_dialogues_keep_to_the_phrase_book() -> None:
    for _, turns in composed("coastal", "full", 135):
        assert phrasing(parse(turns)) == []


def test_each_way_is_tried_and_is_a_filter_of_its_own_set() -> None:
    assert set(FOUND) == set(PHRASES)
    assert [f.name for f in SETS["phrases"]] == list(PHRASES)
    assert not set(PHRASES) & set(RULES)
