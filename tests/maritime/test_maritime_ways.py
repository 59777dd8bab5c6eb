"""What phrase book and radio regulations leave open passes our filters, rules and phrases; `ways.txt` has the turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graftwork_maritime.dialogues import Dialogue, from_text
from graftwork_maritime.filters.reading import case_of
from graftwork_maritime.filters.sets import choose, judge

OURS = choose(["house", "grammar", "phrases"])
FIRE: dict[str, Any] = {
    "id": "ways", "seed": 0, "exercise": True, "kind": "distress", "category": "fire",
    "vessel": {"name": "Pellamor Otter", "type": "Cargo Vessel", "mmsi": "285004417", "call_sign": "QRTM4",
               "persons": 21, "cargo": "grain"},
    "position": {"lat": 49.75, "lon": -4.5, "digit_by_digit": True, "minutes": 0, "lon_minutes": 0,
                 "connector": "decimal"},
    "place": {"name": "Lizard Point", "bearing": "south east", "distance_nm": 31},
    "utc": "2026-05-04T14:20Z", "station": {"name": "Carrick Coast Guard", "mmsi": "002850001"},
    "help": ["fire-fighting assistance"], "facts": {},
}  # fmt: skip
PARTS = dict(
    part.strip().split("\n", 1)
    for part in (Path(__file__).parent / "ways.txt").read_text("utf8").split("== ")[1:]
)
CALL = PARTS.pop("call")
END = "COAST: Pellamor Otter, Carrick Coast Guard, standing by on channel one six. Out."


@pytest.mark.parametrize("way", PARTS)
def test_what_is_left_open_passes(way: str) -> None:
    read = from_text(f"{CALL}\n{PARTS[way]}\n{END}")
    case = case_of(Dialogue(read.turns, scenario=FIRE, category="fire"))
    assert judge(case, OURS) == []


OPENINGS = {
    "the nature before the position": CALL.replace("I am on fire in the engine room. ", "").replace(
        "Position four", "I am on fire in the engine room. Position four"
    ),
    "where by bearing and distance alone": CALL.replace(
        "four nine degrees four five minutes North, zero zero four degrees three zero minutes West",
        "three one miles south east of Lizard Point",
    ),
    "the identity after the name": CALL.replace("This is Pellamor", "This is cargo vessel Pellamor"),
    "smoke": CALL.replace("I am on fire in the engine room", "Heavy smoke and flames in the engine room"),
    "persons last": CALL.replace("Two one persons on board", "Number of persons on board two one"),
    "persons in all": CALL.replace("Two one persons on board", "We are two one persons in all"),
}  # fmt: skip


@pytest.mark.parametrize("way", OPENINGS)
def test_calls_of_other_forms_pass(way: str) -> None:
    assert OPENINGS[way] != CALL
    case = case_of(
        Dialogue(from_text(f"{OPENINGS[way]}\n{END}").turns, scenario=FIRE, category="fire")
    )
    assert judge(case, OURS) == []
