"""The grammar on composed dialogues of every category, on free wordings, and on any text at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork_maritime.dialogues import Dialogue, Turn, from_text
from graftwork_maritime.filters.case import Case
from graftwork_maritime.filters.sets import SETS, judge
from graftwork_maritime.grammar import FORMS, compose, parse
from graftwork_maritime.grammar.items import read_items
from graftwork_maritime.grammar.phrases import categories
from graftwork_maritime.scenario import Scenario, paper_context
from graftwork_maritime.scenario.kinds import CATEGORIES, FACTS
from graftwork_maritime.spoken import spell
from tests.maritime.world_kit import composed, drawn, said

PAIRS = [("coastal", "full", 135), ("paper", "paper", 80), ("distress", "full", 44)]
SAID = """
mayday pan-pan securite relay this is over out decimal point degrees minutes north N west ° zero five ninety hundred
thousand 48 12.5 MMSI call sign Alfa x-ray channel bearing crew persons on board UTC hours seelonce feenee correction
QUESTION . , ? ' é 漢
"""
WORDS = SAID.split()


@pytest.mark.parametrize(("preset", "form", "count"), PAIRS)
def test_composed_dialogues_break_no_rule(preset: str, form: str, count: int) -> None:
    seen = set()
    for scenario, turns in composed(preset, form, count):
        state = parse(turns, scenario)
        assert not state.violations, (scenario.id, state.violations[0], turns)
        assert not parse(turns).violations
        seen.add((scenario.kind, scenario.category))
    expected = {(s.kind, s.category) for s in drawn(preset, count)}
    assert seen == expected
    if preset == "coastal":
        assert seen == {(k, c) for k, names in CATEGORIES.items() for c in names}


@pytest.mark.parametrize(("preset", "form", "count"), PAIRS)
def test_composed_dialogues_keep_every_fact(preset: str, form: str, count: int) -> None:
    for scenario, turns in composed(preset, form, count):
        text = "\n".join(t.text for t in turns).lower()
        vessel = scenario.vessel
        for key, value in scenario.facts.items():
            assert said(scenario, key, value) in text, (scenario.id, key, value, turns)
        for word in scenario.help:
            assert word in text
        assert vessel.name.lower() in text or scenario.kind == "safety"  # a coast station alone
        assert scenario.position.words().lower() in text
        if scenario.kind in ("distress", "urgency", "medical", "relay"):
            count = said(scenario, "", vessel.persons)
            assert re.search(rf"\b{count} persons|on board(,| is) {count}\.", text)
            for number in (vessel.mmsi, vessel.call_sign):
                assert number is None or spell(number).lower() in text
        struck = scenario.other_vessel
        if struck and scenario.kind in ("distress", "relay"):
            assert struck.name.lower() in text


@pytest.mark.parametrize(("preset", "form", "count"), PAIRS)
def test_the_state_says_what_the_scenario_says(preset: str, form: str, count: int) -> None:
    kinds = {"medical": "urgency", "sar": "routine"}
    for scenario, turns in composed(preset, form, count):
        state = parse(turns)
        assert state.kind == kinds.get(scenario.kind, scenario.kind)
        if scenario.kind not in ("distress", "relay"):
            continue
        truth = scenario.position.rounded()
        assert state.position == (truth.lat, truth.lon)
        assert (state.mmsi, state.call_sign) == (scenario.vessel.mmsi, scenario.vessel.call_sign)
        assert state.persons == scenario.vessel.persons
        assert state.help
        assert state.name == scenario.vessel.name
        if scenario.kind == "distress":
            assert state.acknowledged or form == "paper"
        if scenario.category != "undesignated":
            assert scenario.category in {n for m in state.messages for n in m.natures}, turns


def test_silence_is_imposed_and_ended() -> None:
    ends = [parse(turns).procedure for _, turns in composed("distress", "full", 44)]
    assert ends.count("ended") >= 5 and ends.count("open") >= 5


def test_a_dialogue_is_a_pure_function_of_scenario_and_seed() -> None:
    scenario = drawn("coastal", 135)[0]
    assert compose(scenario, 4) == compose(scenario, 4)
    assert len({compose(scenario, seed) for seed in range(30)}) == 30


def test_the_papers_form_alternates_and_keeps_to_its_words() -> None:
    for scenario, turns in composed("paper", "paper", 80):
        assert [t.speaker for t in turns] == ["ship", "coast"] * (len(turns) // 2) + ["ship"] * (
            len(turns) % 2
        )
        text = " ".join(t.text for t in turns).lower()
        assert "we are a" not in text and "i am a" not in text
        if scenario.position.digit_by_digit:
            assert not {"twenty", "thirty", "hundred", "eleven"} & set(
                text.replace(".", "").split()
            )
        if scenario.vessel.mmsi is None:
            assert "mmsi" not in text


def test_the_papers_form_passes_the_papers_rules() -> None:
    for scenario, turns in composed("paper", "paper", 80):
        dialogue = Dialogue(turns, scenario=scenario.as_dict(), category=scenario.category)
        case = Case(dialogue, paper_context(scenario), scenario.category)
        assert judge(case, SETS["paper"]) == [], turns


def test_forms_that_do_not_exist() -> None:
    gale = next(s for s in drawn("coastal", 135) if s.kind == "safety")
    with pytest.raises(GraftError, match="full, paper"):
        compose(gale, 0, "short")
    with pytest.raises(GraftError, match="for distress"):
        compose(gale, 0, "paper")
    assert FORMS == ("full", "paper")


def test_each_fact_has_statements_and_questions() -> None:
    for category, facts in FACTS.items():
        table = categories()[category]
        assert set(table) == {"nature", *facts}
        for fact in facts:
            assert len(table[fact]["say"]) >= 3 and len(table[fact]["ask"]) >= 3
            assert all("{x}" in wording for wording in table[fact]["say"])
            assert all(wording.endswith("?") for wording in table[fact]["ask"])
    assert set(categories()) == set(FACTS)


@given(st.text() | st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join))
def test_any_text_parses(text: str) -> None:
    items = read_items(text)
    assert all(0 <= i.start < i.end <= len(text) for i in items)
    assert [i.start for i in items] == sorted(i.start for i in items)
    parse((Turn("ship", text), Turn("coast", text)))


FREE = """\
Mayday Mayday Mayday, sailing yacht Blue Perrin here, Blue Perrin, we hit something and are taking on water \
fast, four miles south of Lizard Point, four people on board, please send help
Blue Perrin, Solwin Coastguard, received Mayday, how many liferafts do you have?
One liferaft. Our position is 49°54.2'N 005°12.0'W
Blue Perrin, Solwin Coastguard, helicopter launched, expect it in two zero minutes
"""
CAPITALS = """\
SHIP: MAYDAY MAYDAY MAYDAY THIS IS OSTREL DAWN OSTREL DAWN OSTREL DAWN CALL SIGN QX4B2 MMSI 291123456 MAYDAY \
OSTREL DAWN MY POSITION IS 50 DEGREES 12 MINUTES NORTH 001 DEGREES 30 MINUTES WEST FIRE IN ENGINE ROOM REQUIRE \
FIRE FIGHTING ASSISTANCE 14 PERSONS ON BOARD OVER
COAST: MAYDAY OSTREL DAWN THIS IS SOLWIN RADIO RECEIVED MAYDAY OVER
"""
NUMBER_FIRST = """\
Mayday, Mayday, Mayday. This is two nine one one two eight nine zero zero cargo vessel GREEN MARLOW, Quebec six \
Whisky Hotel eight. I am adrift at sixteen degrees fifty-nine minutes South, one hundred thirty-seven degrees five \
nine decimal one minutes West. Tug assistance requested. Over.
GREEN MARLOW, this is Coast Guard. Received Mayday. What is the cause? Over.
"""


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (
            FREE,
            {
                "name": "Blue Perrin",
                "category": "flooding",
                "persons": 4,
                "position": (49.903333, -5.2),
            },
        ),
        (
            CAPITALS,
            {
                "name": "OSTREL DAWN",
                "category": "fire",
                "call_sign": "QX4B2",
                "mmsi": "291123456",
                "persons": 14,
                "position": (50.2, -1.5),
            },
        ),
        (
            NUMBER_FIRST,
            {
                "name": "GREEN MARLOW",
                "category": "adrift",
                "call_sign": "Q6WH8",
                "mmsi": "291128900",
                "position": (-16.983333, -137.985),
            },
        ),
    ],
)
def test_free_wordings(text: str, known: dict[str, object]) -> None:
    state = parse(from_text(text).turns)
    assert not state.violations
    assert {key: getattr(state, key) for key in known} == known
    assert state.as_dict()["name"] == known["name"]


def test_dialogues_that_the_grammars_author_wrote_by_hand() -> None:
    text = (Path(__file__).parent / "free_dialogues.txt").read_text(encoding="utf8")
    states = [parse(from_text(block).turns) for block in text.split("===\n")]
    assert [s.violations for s in states] == [[]] * len(states)
    assert [s.kind for s in states] == [
        *(
            "distress",
            "distress",
            "urgency",
            "safety",
            "relay",
            "cancel",
            "distress",
            "distress",
            "urgency",
            "distress",
        )
    ]
    assert [s.name for s in states] == [
        *(
            "Kestrin Maid",
            "Perrin Light",
            "Selvan Bay",
            None,
            "Blue Arrow",
            "Linden",
            "Tarrow Star",
            "Skerrin",
        ),
        *("Corrin", "Windrose"),
    ]
    assert [s.category for s in states if s.kind in ("distress", "relay")] == [
        *("sinking", "overboard", "fire", "attack", "collision", "list")
    ]
    assert states[-1].mmsi == "291333123" and states[2].call_sign == "QTRA"
    assert [s.procedure for s in states].count("ended") == 1


def test_urgency_safety_and_cancellation_in_free_words() -> None:
    urgent = parse(
        from_text("Pan-pan, pan-pan, pan-pan. All ships. This is tug Oxmoor. Engine stopped.").turns
    )
    assert (urgent.kind, urgent.name, urgent.violations) == ("urgency", "Oxmoor", [])
    gale = parse(
        (Turn("coast", "Sécurité, sécurité, sécurité. All stations. This is Solwin Radio. Gale."),)
    )
    assert (gale.kind, gale.violations) == ("safety", [])
    text = (
        "All stations, all stations, all stations. This is Oxmoor, position 50 degrees 12 minutes North, 1 degree "
        "3 minutes West. Cancel my distress alert of 1225 UTC. Out."
    )
    cancel = parse((Turn("ship", text),))
    assert (cancel.kind, cancel.procedure, cancel.violations) == ("cancel", "cancelled", [])


def test_values_of_one_turn() -> None:
    text = (
        "Bearing 045 degrees from the light, 3 nautical miles, at one one two five UTC on channel one six. "
        "POB 7. Heel fifteen degrees to port."
    )
    found = [
        (i.kind, i.value)
        for i in read_items(text)
        if i.kind not in ("word", "pause", "stop", "bearing")
    ]
    assert found == [
        ("bearing_degrees", "045"),
        ("miles", "3"),
        ("time", "11:25"),
        ("channel_number", "16"),
        ("persons", "7"),
        ("degrees", "15"),
    ]


def test_a_scenario_of_another_vessel_is_noticed() -> None:
    one, two = (pair for pair in composed("distress", "full", 44)[:2])
    rules = {v.rule for v in parse(one[1], two[0]).violations}
    assert "fact-wrong" in rules
    assert isinstance(one[0], Scenario)
