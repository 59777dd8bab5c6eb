"""`maritime scenario` and `maritime compose`: JSONL that is seeded, marked, resumable; bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftwork.errors import GraftError
from graftwork_maritime import NOTICE
from graftwork_maritime.app import main
from graftwork_maritime.dialogues import Dialogue, Turn, read
from graftwork_maritime.grammar import parse
from graftwork_maritime.resumable import write
from graftwork_maritime.scenario import Engine, Scenario, read_scenarios


def run(*args: object) -> int:
    return main([str(a) for a in args])


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()]


def test_scenarios_go_to_standard_output_or_a_file(tmp_path: Path, capsys) -> None:
    assert run("scenario", "--count", 3, "--exercise", "--preset", "paper", "--seed", 5) == 0
    shown = capsys.readouterr()
    assert NOTICE in shown.err
    found = [json.loads(line) for line in shown.out.splitlines()]
    assert [s["id"] for s in found] == [f"paper-5-{n:06}" for n in range(3)]
    assert all(s["notice"] == NOTICE and s["exercise"] for s in found)
    out = tmp_path / "s.jsonl"
    assert run("scenario", "--count", 2, "--start", 1, "--exercise", "--preset", "paper",
               "--seed", 5, "--out", out) == 0  # fmt: skip
    assert lines(out) == found[1:]
    assert [Scenario.from_dict(s).id for s in lines(out)] == ["paper-5-000001", "paper-5-000002"]


def test_composed_dialogues_have_scenario_provenance_and_notice(tmp_path: Path) -> None:
    out = tmp_path / "d.jsonl"
    assert run("compose", "--count", 4, "--variants", 2, "--exercise", "--out", out) == 0
    raw = lines(out)
    assert len({d["id"] for d in raw}) == len(raw) == 8
    assert all(d["notice"] == NOTICE and d["provenance"]["by"] == "composer" for d in raw)
    for dialogue in read(out):
        assert dialogue.scenario is not None
        scenario = Scenario.from_dict(dialogue.scenario)
        assert not parse(dialogue.turns, scenario).violations
        assert dialogue.category == scenario.category


def test_dialogues_of_scenarios_in_a_file(tmp_path: Path) -> None:
    scenarios, drawn, read_back = (tmp_path / n for n in ("s.jsonl", "a.jsonl", "b.jsonl"))
    assert run("scenario", "--count", 3, "--exercise", "--preset", "paper", "--out", scenarios) == 0
    assert run("compose", "--scenarios", scenarios, "--form", "paper", "--out", read_back) == 0
    assert run("compose", "--count", 3, "--exercise", "--preset", "paper", "--form", "paper",
               "--out", drawn) == 0  # fmt: skip
    assert [d["turns"] for d in lines(drawn)] == [d["turns"] for d in lines(read_back)]


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    args = ("compose", "--exercise", "--seed", 3)
    assert run(*args, "--count", 5, "--out", whole) == 0
    text = whole.read_bytes()
    for cut in (0, 40, len(text) // 2, len(text) - 1, len(text)):
        torn.write_bytes(text[:cut])
        assert run(*args, "--count", 5, "--out", torn) == 0
        assert torn.read_bytes() == text


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--count", 0), "--count is 0"),
        (("--preset", "moon"), "choose one of coastal, distress, paper"),
        (("--register", "none.csv"), "--register"),
        (("--count", "many"), "--help"),
    ],
)
def test_bad_arguments(args: tuple[object, ...], reason: str, capsys) -> None:
    for verb in ("scenario", "compose"):
        assert run(verb, "--exercise", *args) == 2
        shown = capsys.readouterr().err
        assert reason in shown and "Traceback" not in shown


def test_invented_vessels_are_for_exercises(capsys) -> None:
    assert run("scenario") == 2
    assert "--exercise" in capsys.readouterr().err


def test_a_register_of_ones_own(tmp_path: Path, capsys) -> None:
    register = tmp_path / "r.csv"
    register.write_text("name,mmsi,call_sign,type\nAnna,211000001,DAAA,Tugboat\n")
    assert run("scenario", "--register", register, "--count", 2) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(s["vessel"]["name"], s["exercise"]) for s in found} == {("Anna", False)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no scenario"),
        ("{", "line 1: not JSON"),
        ("[]", "line 1: a scenario must be an object"),
        ('{"id": "a"}', "line 1: seed is missing"),
    ],
)
def test_broken_scenario_files(tmp_path: Path, text: str, reason: str, capsys) -> None:
    file = tmp_path / "s.jsonl"
    file.write_text(text)
    assert run("compose", "--scenarios", file) == 2
    assert reason in capsys.readouterr().err


def test_a_position_on_land_is_refused_with_its_line(tmp_path: Path, capsys) -> None:
    file = tmp_path / "s.jsonl"
    assert run("scenario", "--count", 2, "--exercise", "--out", file) == 0
    first, second = file.read_text().splitlines()
    moved = json.loads(second)
    moved["position"] |= {"lat": 48.0, "lon": 10.0}
    file.write_text(f"{first}\n{json.dumps(moved)}\n")
    capsys.readouterr()
    assert run("compose", "--scenarios", file) == 2
    said = capsys.readouterr()
    assert "line 2: position 48, 10 is on land; give one at sea" in said.err and not said.out


@pytest.mark.parametrize(
    ("part", "key", "value", "reason"),
    [
        ("vessel", "mmsi", "12345", "MMSI '12345' has not nine digits"),
        ("vessel", "mmsi", "992345678", r"belongs to no ship \(aid to navigation\)"),
        ("vessel", "call_sign", "GABC", "call sign GABC is not of exercises"),
        (None, "exercise", False, "no country has the MID 2"),
        ("vessel", "mmsi", 123456789, "a value is of the wrong form"),
        ("position", "lat", "50 north", "a value is of the wrong form"),
    ],
)
def test_numbers_that_are_no_ships_are_refused_with_their_line(
    tmp_path: Path, part: str | None, key: str, value: object, reason: str
) -> None:
    good, bad = (s.as_dict() for s in Engine("distress", exercise=True).scenarios(0, 2))
    (bad if part is None else bad[part])[key] = value
    file = tmp_path / "s.jsonl"
    file.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(GraftError, match=rf"s\.jsonl line 2: .*{reason}"):
        read_scenarios(file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_scenarios_are_read_alone_or_out_of_dialogues(tmp_path: Path, encoding: str) -> None:
    one, two = Engine("distress", exercise=True).scenarios(0, 2)
    raw = one.as_dict() | {"place": {**(one.as_dict()["place"] or {}), "name": "Tórshavn"}}
    dialogue = Dialogue((Turn("ship", "x"),), scenario=two.as_dict())
    file = tmp_path / "s.jsonl"
    text = f"{json.dumps(raw, ensure_ascii=False)}\n{json.dumps(dialogue.to_json())}\n"
    file.write_bytes(text.encode(encoding))
    found = read_scenarios(file)
    assert [s.id for s in found] == [one.id, two.id] and found[0].place.name == "Tórshavn"


def test_a_file_of_other_settings_is_left_alone(tmp_path: Path, capsys) -> None:
    out = tmp_path / "s.jsonl"
    assert run("scenario", "--exercise", "--count", 3, "--out", out) == 0
    before = out.read_bytes()
    assert run("scenario", "--exercise", "--count", 3, "--seed", 1, "--out", out) == 2
    assert run("scenario", "--exercise", "--count", 2, "--out", out) == 2
    assert "another --out" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="choose another --out"):
        write(tmp_path / "none" / "s.jsonl", 1, str)
