"""Correct dialogues in forms that the composer does not write pass house and grammar; `forms.txt` has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graftwork_maritime.dialogues import Dialogue, from_text
from graftwork_maritime.filters.reading import case_of
from graftwork_maritime.filters.sets import choose, judge

REFUSING = choose(["house", "grammar"])
PARTS = [
    part.strip().split("\n", 1)
    for part in (Path(__file__).parent / "forms.txt").read_text("utf8").split("== ")[1:]
]


def scenario(kind: str, vessel: str, persons: str, position: str, more: str = "") -> dict[str, Any]:
    lat, lon = map(float, position.split())
    traffic, category = kind.split()
    known = {k: v.replace("-", " ") for k, v in (word.split("=") for word in more.split())}
    return {
        "id": "forms", "seed": 0, "exercise": True, "kind": traffic, "category": category,
        "vessel": {"name": vessel, "type": "Cargo Vessel", "mmsi": None, "call_sign": None, "persons": int(persons),
                   "cargo": "grain", **known},
        "position": {"lat": lat, "lon": lon, "digit_by_digit": True, "minutes": 0, "lon_minutes": 0,
                     "connector": "decimal"},
        "place": None, "utc": "2027-02-01T10:00Z", "station": {"name": "Somewhere Rescue", "mmsi": "002850001"},
        "help": [], "facts": {},
    }  # fmt: skip


@pytest.mark.parametrize("head,text", PARTS, ids=[head.split(" | ")[0] for head, _ in PARTS])
def test_a_correct_form_passes(head: str, text: str) -> None:
    _, kind, *facts = head.split(" | ")
    turns = from_text(text).turns
    assert len(turns) >= 3 and {t.speaker for t in turns} <= {"ship", "coast", "other"}
    known = scenario(kind, *facts)
    category = kind.split()[1]
    assert judge(case_of(Dialogue(turns, scenario=known, category=category)), REFUSING) == []
    assert judge(case_of(Dialogue(turns)), [f for f in REFUSING if f.name != "mmsi_country"]) == []
