"""Our own filters: dialogues that pass all, and for each filter what it must refuse and what it must let through."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork_maritime.dialogues import Dialogue, Turn, from_text
from graftwork_maritime.filters.case import Case
from graftwork_maritime.filters.house import HOUSE
from graftwork_maritime.filters.house.identity import mid_of
from graftwork_maritime.filters.house.position import axes
from graftwork_maritime.filters.house.said import figures, numbers, spelled
from graftwork_maritime.filters.reading import case_of
from graftwork_maritime.filters.sets import SETS, Rejections, choose, judge
from graftwork_maritime.grammar import compose
from graftwork_maritime.scenario import Engine
from graftwork_maritime.scenario.identities import mmsi_class
from graftwork_maritime.spoken import Position, digits, spell

SCENARIO: dict[str, Any] = {
    "kind": "distress",
    "category": "fire",
    "vessel": {
        "name": "Quiet Meridian",
        "type": "Fishing Vessel",
        "mmsi": "201345678",
        "call_sign": "ZQ51",
        "persons": 12,
    },
    "position": {"lat": 54.7, "lon": 10.1333, "digit_by_digit": True},
    "place": {"name": "Port Amber", "bearing": "north east", "distance_nm": 21},
    "port": {"name": "Gull Haven", "distance_nm": 30},
    "station": {"name": "Amber Rescue", "mmsi": "002010001"},
}
TEXT = """\
Mayday, Mayday, Mayday. This is Quiet Meridian, Quiet Meridian, Quiet Meridian, MMSI two zero one three four five six \
seven eight, call sign Zulu Quebec five one. My position is five four degrees four two minutes North, zero one zero \
degrees zero eight minutes East, two one miles north east of Port Amber. I am on fire in the engine room. I require \
fire fighting assistance. One two persons on board. Over.
Quiet Meridian, Quiet Meridian, Quiet Meridian, this is Amber Rescue, received Mayday. What is your course? Over.
Amber Rescue, this is Quiet Meridian. My course is zero four five degrees, three zero miles from Gull Haven. Over.
Quiet Meridian, this is Amber Rescue. How many persons are injured? Over.
Amber Rescue, this is Quiet Meridian. Two persons are injured. Over.
Seelonce Mayday, Seelonce Mayday, Seelonce Mayday. All stations, this is Amber Rescue. Seelonce Mayday. Out."""


def case(text: str = TEXT, category: str | None = None, **changed: Any) -> Case:
    scenario = {**copy.deepcopy(SCENARIO), **changed}
    dialogue = from_text(text)
    category = category or scenario["category"]
    return Case(Dialogue(dialogue.turns, scenario=scenario, category=category), category=category)


def swap(old: str, new: str, **changed: Any) -> Case:
    assert old in TEXT
    return case(TEXT.replace(old, new), **changed)


def opened(text: str, kind: str, **changed: Any) -> Case:
    return case(
        text + "\nQuiet Meridian, this is Amber Rescue. Received. Out.", kind=kind, **changed
    )


def others(*turns: tuple[str, str]) -> Case:
    known = copy.deepcopy(SCENARIO)
    return Case(Dialogue(tuple(Turn(s, t) for s, t in turns), scenario=known), category="fire")


PAN = "Pan-pan, Pan-pan, Pan-pan. All stations, this is Quiet Meridian. Three miles off. I need a doctor. Over."
FAILS: dict[str, Case] = {
    "mmsi_country": swap("two zero one three", "seven nine nine three"),
    "position_at_sea": swap("zero one zero degrees zero eight", "zero zero nine degrees two four"),
    "mmsi_form": swap("MMSI two zero one three", "MMSI two zero three"),
    "mmsi_matches": swap("two zero one three four five", "two zero one three four six"),
    "call_sign_matches": swap("Zulu Quebec five one", "Zulu Quebec five niner"),
    "name_said": case(TEXT.replace("Quiet Meridian", "Loud Meridian")),
    "called_station": swap(
        "Amber Rescue, this is Quiet Meridian. Two", "Silver Tern, this is Quiet Meridian. Two"
    ),
    "position_form": swap("four two minutes North", "seven two minutes North"),
    "position_said": opened(
        "Mayday, Mayday, Mayday. This is Quiet Meridian. I am on fire. Over.", "distress"
    ),
    "position_matches": swap("five four degrees", "five five degrees"),
    "direction_matches": swap("north east of", "south of"),
    "distance_matches": swap("two one miles", "one one miles"),
    "port_distance_matches": swap("three zero miles", "one zero miles"),
    "bearing_form": swap("zero four five degrees", "four five degrees"),
    "signal": swap("Mayday, Mayday, Mayday. This", "Mayday, Mayday. This"),
    "this_is": swap(". This is Quiet Meridian, Quiet", ". Quiet Meridian, Quiet"),
    "message_order": swap(
        "I am on fire in the engine room. I require fire fighting assistance.",
        "I require fire fighting assistance. I am on fire in the engine room.",
    ),
    "nature_told": case(
        TEXT.replace("on fire", "in trouble").replace("fire fighting", "immediate")
    ),
    "nature_unlike": case(
        TEXT.replace("I am on fire", "I am sinking").replace("fire fighting", "immediate")
    ),
    "over_out": swap("How many persons are injured? Over.", "How many persons? Over and out."),
    "persons_match": swap("One two persons on board", "One three persons on board"),
    "persons_repeated": swap("received Mayday.", "received Mayday, one three persons on board."),
    "silence": others(
        ("ship", TEXT.split("\n")[0]),
        ("coast", "Seelonce Mayday. This is Amber Rescue."),
        ("other", "Amber Rescue, this is Silver Tern. Radio check."),
    ),
    "speaker_part": swap("received Mayday.", "received Mayday, my engine room is on fire."),
    "relay": swap("Mayday, Mayday, Mayday. This", "Mayday Relay, Mayday Relay, Mayday Relay. This"),
    "acknowledgement": others(
        ("coast", "Quiet Meridian, this is Amber Rescue. Received Mayday."),
        ("ship", "Amber Rescue, this is Quiet Meridian. Yes."),
    ),
    "answers": swap("Two persons are injured", "The weather is fine"),
    "cancellation": opened(
        "All stations, this is Quiet Meridian. I am well. Over.", "cancel", category="fire"
    ),
    "distress_signal": opened(TEXT.split("\n")[0], "medical"),
    "two_signals": swap("received Mayday.", "received Mayday, pan-pan."),
    "clock_words": swap("Two persons are injured.", "Two persons since 5 p.m. are injured."),
    "written_marks": swap("I am on fire", "(coughs) I am on fire"),
    "repeated_sentence": swap(
        "persons are injured. Over", "persons are injured. Two persons are injured. Over"
    ),
    "axis_figures": swap("zero one zero degrees zero", "one zero degrees zero"),
    "type_matches": swap("This is Quiet", "This is Tanker Quiet"),
    "cargo_carried": swap("I am on fire in", "My cargo is on fire in"),
}
PASSES: dict[str, Case] = {
    "the whole dialogue": case(),
    "numerals": swap(
        "two zero one three four five six seven eight",
        "201345678",
        position={"lat": 54.7, "lon": 10.13},
    ),
    "no MMSI": swap(", MMSI two zero one three four five six seven eight", ""),
    "another wording": swap("I am on fire in the engine room", "There is an explosion on board"),
    "its own type": swap("This is Quiet", "This is Fishing Vessel Quiet"),
    "unknown": swap("Two persons are injured", "No information"),
    "urgency": opened(PAN, "urgency", category="medical"),
    "cancelled": opened(
        "All stations, all stations, all stations. This is Quiet Meridian. Cancel my distress alert. Over.",
        "cancel",
    ),
    "a distress call goes through the silence": others(
        ("ship", TEXT.split("\n")[0]),
        ("coast", "Seelonce Mayday. This is Amber Rescue."),
        ("other", "Mayday, Mayday, Mayday. This is Silver Tern."),
    ),
    "silence has ended": others(
        ("ship", TEXT.split("\n")[0]),
        ("coast", "Seelonce Mayday. This is Amber Rescue. Out."),
        ("coast", "Mayday. All stations, this is Amber Rescue. Seelonce Feenee. Out."),
        ("other", "Amber Rescue, this is Silver Tern. Radio check."),
    ),
}


def failing(one: Case) -> set[str]:
    return {finding.filter for finding in judge(one, HOUSE)}


@pytest.mark.parametrize("name", FAILS)
def test_a_violation_is_found(name: str) -> None:
    assert name in failing(FAILS[name])


def test_every_filter_has_a_violation() -> None:
    assert set(FAILS) == {f.name for f in HOUSE}


# What cannot be wrong alone.
ALONG = {
    "mmsi_form": {"mmsi_matches"},
    "mmsi_country": {"mmsi_matches"},
    "position_at_sea": {"position_matches"},
    "name_said": {"called_station"},
    "position_said": set(),
    "nature_told": set(),
    "nature_unlike": {"nature_told"},
    "distress_signal": {"signal"},
    "relay": {"signal"},
    "this_is": {"message_order", "signal"},
    "acknowledgement": {"signal", "nature_told", "position_said", "message_order"},
    "cancellation": set(),
    "position_form": {"position_matches"},
}


@pytest.mark.parametrize("name", FAILS)
def test_nothing_else_is_found(name: str) -> None:
    assert failing(FAILS[name]) <= {name} | ALONG.get(name, set())


@pytest.mark.parametrize("name", PASSES)
def test_what_is_right_passes(name: str) -> None:
    assert failing(PASSES[name]) == set(), judge(PASSES[name], HOUSE)


@pytest.mark.parametrize(
    ("mmsi", "kind", "mid"),
    [
        ("211345678", "ship", "211"),
        ("002111234", "coast station", "211"),
        ("021112345", "group", "211"),
        ("111211501", "search and rescue aircraft", "211"),
        ("992111234", "aid to navigation", "211"),
        ("982111234", "craft of a parent ship", "211"),
        ("821112345", "handheld", "211"),
        ("970123456", "AIS search and rescue transmitter", None),
        ("972123456", "man overboard device", None),
        ("974123456", "EPIRB with AIS", None),
    ],
)
def test_the_country_of_an_mmsi(mmsi: str, kind: str, mid: str | None) -> None:
    assert (mmsi_class(mmsi), mid_of(mmsi)) == (kind, mid)


@given(st.from_regex(r"[2-7][0-9]{8}", fullmatch=True))
def test_figures_are_found_again(mmsi: str) -> None:
    text = f"this is Amber, MMSI {digits(mmsi)}, over"
    assert [f.value for f in figures(text, 9)] == [mmsi]


@given(st.from_regex(r"[A-Z]{2}[0-9]{1,2}[A-Z]?", fullmatch=True))
def test_call_signs_are_found_again(sign: str) -> None:
    assert [s.value for s in spelled(f"call sign {spell(sign)}. Over")] == [sign]


@given(
    st.floats(-89.9, 89.9),
    st.floats(-179.9, 179.9),
    st.booleans(),
    st.sampled_from([(None, None), (0, 0), (2, 0), (0, 2), (2, 2)]),
)
def test_positions_are_found_again(
    lat: float, lon: float, one_by_one: bool, minutes: tuple[int | None, int | None]
) -> None:
    said = Position(lat, lon, one_by_one, *minutes)
    found = [a.value for a, _ in axes(f"My position is {said.words()}. I am on fire.")]
    exact = said.rounded()
    assert found == pytest.approx([exact.lat, exact.lon], abs=1e-6)


def test_numbers_stand_apart() -> None:
    assert [n.value for n in numbers("twenty one miles, 12 persons and one five zero")] == [
        "21", "12", "150"]  # fmt: skip


def test_filters_are_chosen_by_name_and_by_set() -> None:
    assert [f.name for f in choose(["house"])] == [f.name for f in HOUSE]
    some = [f.name for f in choose(["paper", "signal"], ["mayday", "signal"])]
    assert "mayday" not in some and "signal" not in some and len(some) == 26
    with pytest.raises(GraftError, match="did you mean mmsi_form"):
        choose(["mmsi_from"])


def test_the_table_counts_each_and_the_first() -> None:
    table = Rejections(choose(["mmsi_form", "mmsi_matches", "relay"]))
    table.add(case())
    table.add(FAILS["mmsi_form"])
    table.add(Case(from_text("Mayday.")))
    rows = {r["filter"]: r for r in table.rows()}
    assert (table.seen, table.refused) == (3, 1)
    assert rows["mmsi_form"] == {"filter": "mmsi_form", "judged": 3, "failed": 1, "first": 1}
    assert rows["mmsi_matches"] == {"filter": "mmsi_matches", "judged": 2, "failed": 1, "first": 0}


@given(st.lists(st.sampled_from(TEXT.split()), min_size=1, max_size=60))
def test_any_words_are_judged(said: list[str]) -> None:
    judge(case(" ".join(said)), HOUSE)


SET_SCENARIOS = [("paper", 0), ("coastal", 3), ("distress", 8)]


@pytest.mark.parametrize(("preset", "index"), SET_SCENARIOS)
def test_each_rule_of_the_grammar_is_a_filter(preset: str, index: int) -> None:
    scenario = Engine(preset=preset, exercise=True).scenario(0, index)
    turns = compose(scenario, 0)
    whole = case_of(Dialogue(turns, scenario=scenario.as_dict()))
    assert judge(whole, SETS["grammar"]) == []
    first = Turn("ship", turns[0].text.replace("Mayday, ", "", 1))
    short = case_of(Dialogue((first, *turns[1:]), scenario=scenario.as_dict()))
    assert "signal-count" in {f.filter for f in judge(short, SETS["grammar"])}


def test_a_scenario_that_is_none_names_dialogue_and_field() -> None:
    with pytest.raises(GraftError, match="dialogue d: scenario: "):
        case_of(Dialogue((Turn("ship", "x"),), "d", {"id": "x"}))
