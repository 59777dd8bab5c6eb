"""The engine: pure in its seed, at sea, near its place; every kind and category; the published distribution."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest

from graftwork.errors import GraftError
from graftwork_maritime.scenario import PRESETS, Engine, Scenario, paper_context
from graftwork_maritime.scenario.gazetteer import compass, find
from graftwork_maritime.scenario.identities import check_ship, mmsi_class
from graftwork_maritime.scenario.kinds import CATEGORIES, FACTS, HELP, NATURES, PAPER
from graftwork_maritime.scenario.model import Vessel
from graftwork_maritime.scenario.names import NAMES
from graftwork_maritime.scenario.sea import is_sea, land_distance

PAPER_COUNT = 400
PINNED = "75d00812afc296f951adda60c987bd1ae1fb1ab981e9de9280aaa2cb2badbead"


@pytest.fixture(scope="module")
def coastal() -> list[Scenario]:
    return list(Engine("coastal", exercise=True).scenarios(0, 120))


@pytest.fixture(scope="module")
def paper() -> list[Scenario]:
    return list(Engine("paper", exercise=True).scenarios(0, PAPER_COUNT))


def test_the_same_seed_gives_the_same_lines_everywhere(coastal: list[Scenario]) -> None:
    again = Engine("coastal", exercise=True)
    assert [again.scenario(0, n) for n in (7, 3)] == [coastal[7], coastal[3]]
    assert again.scenario(1, 7) != coastal[7]
    text = "\n".join(s.to_json() for s in coastal)
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED


def test_every_kind_and_category_is_drawn(coastal: list[Scenario]) -> None:
    drawn = {(s.kind, s.category) for s in coastal}
    assert drawn == {(k, c) for k, categories in CATEGORIES.items() for c in categories}


def test_json_there_and_back(coastal: list[Scenario], paper: list[Scenario]) -> None:
    for scenario in coastal + paper[:50]:
        assert Scenario.from_dict(json.loads(scenario.to_json())) == scenario


def test_positions_are_at_sea_near_land_and_the_place_is_where_it_says(
    coastal: list[Scenario], paper: list[Scenario]
) -> None:
    for scenario in coastal + paper:
        lat, lon = scenario.position.lat, scenario.position.lon
        assert is_sea(lat, lon)
        land = land_distance(lat, lon)
        assert land is not None
        if scenario.category == "grounding":
            assert land <= 1
        if scenario.category == "ice":
            assert abs(lat) > 50
        place = scenario.place
        assert place is not None and place.distance_nm >= 1
        spots = find(place.name)
        points = PRESETS[scenario.id.split("-")[0]].points
        assert place.bearing in {compass(lat, lon, spot, points) for spot in spots}


def test_facts_identities_and_alerts(coastal: list[Scenario]) -> None:
    for scenario in coastal:
        vessel = scenario.vessel
        assert vessel.name in NAMES and vessel.persons >= 4 and scenario.exercise
        check_ship(vessel.mmsi, vessel.call_sign, exercise=True)
        assert mmsi_class(scenario.station.mmsi or "") == "coast station"
        missing = set(FACTS[scenario.category]) - set(scenario.facts)
        assert missing <= {"struck"}
        assert bool(scenario.help) == (scenario.category in HELP)
        if scenario.kind == "distress":
            assert scenario.dsc is not None and scenario.dsc.nature == NATURES[scenario.category]
            assert scenario.dsc.utc < scenario.utc and scenario.dsc.mmsi == vessel.mmsi
        if scenario.kind == "relay":
            assert scenario.other_vessel is not None and "struck" not in missing


def test_the_published_distribution(paper: list[Scenario]) -> None:
    assert Counter(s.category for s in paper) == dict.fromkeys(PAPER, PAPER_COUNT // 10)

    def share(of) -> float:
        return sum(map(of, paper)) / len(paper)

    # four standard deviations of a share of 400
    assert share(lambda s: s.vessel.mmsi is None) == pytest.approx(0.60, abs=0.1)
    assert share(lambda s: s.vessel.call_sign is None) == pytest.approx(0.5, abs=0.1)
    assert share(lambda s: s.position.digit_by_digit) == pytest.approx(0.5, abs=0.1)
    assert share(lambda s: s.position.minutes is None) == pytest.approx(0.5, abs=0.1)
    known = 0.6 * (1 - 0.31)  # types other than Other, kept
    assert share(lambda s: s.vessel.type != "Motor Vessel") == pytest.approx(known, abs=0.1)
    assert {s.place.bearing for s in paper if s.place} == {
        f"{a} {b}" for a in ("north", "south") for b in ("east", "west")
    }
    struck = [s for s in paper if s.category == "collision"]
    assert 0 < sum(s.other_vessel is not None for s in struck) < len(struck)


def test_the_papers_context(paper: list[Scenario]) -> None:
    for scenario in paper[:60]:
        context = paper_context(scenario)
        assert context["vessel_coordinate_dms"] == scenario.position.words()
        assert (context["vessel_MMSI"] is None) == (scenario.vessel.mmsi is None)
        assert ("collided_vessel_name" in context) == (scenario.category == "collision")
        assert context["digit_by_digit"] in (True, None)
        if context["digit_by_digit"]:
            assert not {"twenty", "hundred"} & set(str(context).lower().split())


def test_a_register_is_drawn_from_and_needs_no_exercise() -> None:
    vessels = [Vessel("Anna", "Tugboat", "211000001", "DAAA"), Vessel("Berta", "Other", None, None)]
    engine = Engine("distress", vessels)
    drawn = [engine.scenario(0, n) for n in range(12)]
    assert {s.vessel.name for s in drawn} == {"Anna", "Berta"}
    assert not any(s.exercise for s in drawn)
    assert {s.vessel.mmsi for s in drawn} == {"211000001", None}
    assert {s.station.mmsi for s in drawn} == {None}


def test_invented_vessels_need_the_exercise_flag() -> None:
    with pytest.raises(GraftError, match="--exercise"):
        Engine("coastal")
    with pytest.raises(GraftError, match="coastal, distress, paper"):
        Engine("nowhere", exercise=True)


def test_invented_names_hold_no_word_of_the_radio() -> None:
    from graftwork_maritime.grammar import lexicon
    from graftwork_maritime.spoken.alphabet import LETTER_OF
    from graftwork_maritime.spoken.numbers import NUMBER_WORDS

    words = {w.lower() for name in NAMES for w in name.split()}
    assert not words & (NUMBER_WORDS | LETTER_OF.keys())
    assert not any(lexicon.natures(name) or lexicon.HELP.search(name) for name in NAMES)
    assert len(set(NAMES)) == len(NAMES) > 1000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "party"}, "kind is 'party'"),
        ({"category": "gale"}, "distress has fire"),
        ({"vessel": {"nam": "x"}}, "vessel.nam"),
        ({"vessel": {}}, "vessel.name is missing"),
        ({"position": {"lat": 91, "lon": 0}}, "position.lat"),
        ({"place": "Dover"}, "place must be an object"),
        ({"colour": 1}, "colour is no key"),
    ],
)
def test_broken_scenarios(coastal: list[Scenario], change: dict[str, object], reason: str) -> None:
    with pytest.raises(GraftError, match=reason):
        Scenario.from_dict({**coastal[0].as_dict(), **change})


def test_what_may_be_left_out_of_a_scenario() -> None:
    least = {
        "id": "a",
        "seed": 0,
        "exercise": True,
        "kind": "distress",
        "category": "fire",
        "vessel": {"name": "Orsanna Star"},
        "position": {"lat": 1.0, "lon": 2.0, "digit_by_digit": True, "minutes": 2},
        "notice": "for training, never for transmission",
    }
    scenario = Scenario.from_dict(least)
    assert scenario.position.lon_minutes == 2 and scenario.station.name == "Coast Guard"
    assert paper_context(scenario)["closest_place_name"] is None
