"""The scripted ship, lessons of a coast station, how its replies are judged, and what it is told."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks.maritime import live
from benchmarks.maritime.live_roles import COAST, MOVES, SHIP, Role, right_of_coast
from benchmarks.maritime.wordings import SHIPS
from graftwork.errors import GraftError
from graftwork_llm.decoding import Sampling
from graftwork_maritime.dialogues import Dialogue, Turn
from graftwork_maritime.grammar import parse
from graftwork_maritime.grammar.phrases import procedure
from graftwork_maritime.lessons import Move, either, watch_lesson, watching
from graftwork_maritime.lessons.script import OTHER
from graftwork_maritime.lessons.watching import KINDS, Hailed
from graftwork_maritime.lessons.watching import MOVES as LESSON
from graftwork_maritime.lessons.wordings import SHIPS as LEARNT
from graftwork_maritime.lessons.wordings import Spoken, spoken
from graftwork_maritime.live import Composer, Scene, Session, aid
from graftwork_maritime.live.coast_replies import KINDS as REPLIES
from graftwork_maritime.live.coast_replies import asked, kind_of
from graftwork_maritime.live.hail import ACTS, WANTED
from graftwork_maritime.live.model import Model
from graftwork_maritime.live.session import Exchange
from graftwork_maritime.model.data import FolderData
from graftwork_maritime.model.prompts import LIVE, PAUSE, WATCH, prompt
from graftwork_maritime.scenario import Scenario
from graftwork_runs import validate_record
from tests.maritime.live_kit import Network, Says, Words, one

ALL = spoken(LEARNT.values())
SLOTS = {
    "position": {"x"}, "persons": {"x"}, "help": {"x"}, "name": {"x"}, "read": {"unit", "n"},
    "offer": {"other", "name"}, "noise": {"other", "station"},
}  # fmt: skip


def scripts(count: int) -> list[tuple[Scenario, list[Hailed]]]:
    return [(s, watching(s, MOVES, 7, ALL)) for s in islice(live.scenarios(), count)]


def test_scripts_are_pure_and_hold_every_kind() -> None:
    found = scripts(60)
    assert found == scripts(60)
    assert {one.move.kind for _, moves in found for one in moves} == set(KINDS)
    for _, moves in found:
        assert len(moves) >= MOVES and moves[0].move.kind == "call"
        for each in moves:
            assert set(each.move.replies) <= set(REPLIES) and each.hail.act in ACTS
            assert "{" not in each.move.text and set(each.hail.missing) <= set(WANTED)


def test_what_a_call_leaves_out_is_asked_for_in_order_and_help_is_sent_once_all_is_known() -> None:
    helped = 0
    for _, moves in scripts(60):
        missing = len(WANTED)
        sent = False
        for each in moves:
            assert len(each.hail.missing) <= missing  # nothing is forgotten
            missing = len(each.hail.missing)
            if each.move.replies == ("ask",):
                assert each.move.key == each.hail.missing[0]
            if each.move.replies == ("help",) and each.hail.act == "message":
                assert not each.hail.missing and not sent
                helped += 1
            sent = sent or each.move.replies == ("help",)
            if each.move.kind in ("read-back", "misheard"):
                assert sent
    assert helped > 20


def test_what_is_misheard_or_changed_differs_from_what_was_said() -> None:
    seen = {"misheard": 0, "read-back": 0, "changed": 0}
    for scenario, moves in scripts(60):
        known = aid.aid(scenario)
        for each in moves:
            if each.move.kind in ("misheard", "read-back"):
                wrong = aid.wrong(each.move.text, known)
                assert wrong == (["minutes"] if each.hail.wrong else []), each.move.text
            if each.move.kind == "changed" and each.move.key == "position":
                assert scenario.position.words() not in each.move.text
            if each.move.kind == "restated" and "degrees" in each.move.text:
                assert scenario.position.words().lower() in each.move.text.lower()
            if each.move.kind in seen:
                seen[each.move.kind] += 1
    assert min(seen.values()) > 15


def test_each_reply_of_a_lesson_is_the_one_that_its_move_expects() -> None:
    for scenario in islice(live.scenarios(), 60):
        turns = watch_lesson(scenario, 3)
        assert turns == watch_lesson(scenario, 3) and turns != watch_lesson(scenario, 4)
        moves = [each.move for each in watching(scenario, LESSON, 3, ALL)]
        assert len(turns) == 2 * len(moves)
        for move, heard, reply in zip(moves, turns[::2], turns[1::2], strict=True):
            assert heard.text == (move.text or PAUSE) and reply.speaker == "coast"
            assert right_of_coast(move, done(scenario, reply.text), scenario), (move, reply.text)
            assert aid.wrong(reply.text, aid.aid(scenario)) == []


def done(scenario: Scenario, text: str) -> Exchange:
    return Exchange(None, Turn("coast", text), kind_of(text, scenario), (), "", parse(()), (), 0.0)


def test_lessons_are_of_both_parts() -> None:
    forms = [either(s, 0)[0] for s in islice(live.scenarios(), 200)]
    assert 30 < forms.count(WATCH) < 70 and set(forms) == {LIVE, WATCH}


def test_every_set_has_its_slots_and_shares_no_wording() -> None:
    seen: set[str] = set()
    for said in SHIPS.values():
        for field in fields(Spoken):
            for text in getattr(said, field.name):
                assert set(re.findall(r"{(\w+)}", text)) == SLOTS.get(field.name, set()), text
        listed = [w.lower() for f in fields(Spoken) for w in getattr(said, f.name)]
        assert len(set(listed)) == len(listed) and not set(listed) & seen
        seen |= set(listed)
    assert len(SHIPS) == len(LEARNT) + 2


def test_the_station_is_told_what_it_knows_and_nothing_of_the_vessel() -> None:
    for scenario in islice(live.scenarios(), 40):
        told, known = prompt(scenario, WATCH), aid.aid(scenario)
        assert scenario.station.name in told and known.unit in told
        assert known.minutes in aid.minutes(told)
        for secret in (scenario.vessel.name, scenario.position.words(), scenario.vessel.mmsi):
            assert not secret or secret not in told
        assert aid.aid(scenario) == known  # as it was


def test_minutes_and_units_are_told_from_positions_and_names() -> None:
    known = aid.Aid("a tug", 35)
    assert aid.said("A tug arrives in three five minutes.", known)
    assert aid.wrong("A salvage tug arrives in thirty-five minutes.", known) == ["unit"]
    assert aid.wrong("A tug arrives in 36 minutes.", known) == ["minutes"]
    assert aid.minutes("five four degrees one two minutes North") == []
    assert aid.wrong("Tug Oxmoor, this is X Radio. The lifeboat stands by.", known) == []
    for units in procedure()["units"].values():
        for unit in units:
            assert aid.said(f"{unit} comes in 9 minutes", aid.Aid(unit, 9)), unit


@pytest.mark.parametrize("form", [LIVE, "full"])
def test_a_model_that_plays_the_coast_station_is_told_what_the_station_knows(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Encoded:
        prompt: tuple[int, ...] = ()

    def encode(words: object, asked: str, **_: object) -> Encoded:
        told.append(asked)
        return Encoded()

    def complete(*_: object, guides: object = None, **more: object) -> list[list[int]]:
        assert guides is None  # what a person calls about is free, also under `constrained`
        return [[ord(c) for c in "COAST: Received. Over."]]

    monkeypatch.setattr("graftwork_maritime.live.model.complete", complete)
    monkeypatch.setattr("graftwork_maritime.live.model.encode", encode)
    scenario = one("fire", kind="distress")
    pieces: Any = object()
    partner = Model(Network(), Words(), Sampling(0), stops=(), form=form, pieces=pieces)
    turns = (Turn("ship", "Mayday. Over."),)
    said = partner.reply(Scene(scenario, "coast", turns, "Mayday. Over.", parse(())))
    assert said == "Received. Over."
    assert told == [prompt(scenario, WATCH if form == LIVE else "full")]


def test_a_ship_that_tells_of_minutes_reads_nothing_back() -> None:
    scenario = one("fire", kind="distress")
    known, name = aid.aid(scenario), scenario.vessel.name
    session = Session(scenario, Composer(scenario), role="coast")
    first = session.hear(
        f"Mayday, Mayday, Mayday. This is {name}. We abandon ship in five minutes. Over."
    )
    assert first.kind == "ask"
    session.hear(f"This is {name}. When does help arrive? Over.")
    for minutes, kind in ((known.minutes, "confirm"), (known.minutes + 1, "correct")):
        assert session.hear(f"{known.unit} in {minutes} minutes. Over.").kind == kind
    assert session.hear("The fire is out of control in five minutes. Over.").kind == "ask"


@pytest.mark.parametrize(
    ("text", "kind", "about"),
    [
        (None, "silent", set()),
        ("Mayday. All stations, all stations, all stations. This is X. Seelonce Mayday. Out.", "silence", set()),
        ("Ada, this is X. Received, your false alert is cancelled. Out.", "cancelled", set()),
        ("Ada, Ada, Ada, this is X. Do you receive me? Over.", "call", set()),
        ("Your position differs from your first message. Say again your position. Over.", "query", {"position"}),
        ("I say again. Negative. Over.", "repeat", set()),
        ("Negative. Correction. The lifeboat comes. Over.", "correct", set()),
        ("No information. Over.", "no-information", set()),
        ("That is correct. Over.", "confirm", set()),
        ("Received. Proceed to Ada and report on arrival. Over.", "task", set()),
        ("Received Mayday. How many persons are on board? Over.", "ask", {"persons"}),
        ("What is the nature of your distress? Over.", "ask", {"category"}),
        ("Say the name of your vessel. Over.", "ask", {"name"}),
        ("Understood, thank you. Out.", "acknowledge", set()),
        ("Ada. Over.", "other", set()),
    ],
)  # fmt: skip
def test_a_reply_has_a_kind(text: str | None, kind: str, about: set[str]) -> None:
    assert kind_of(text, one("fire", kind="distress")) == kind
    assert about <= asked(text or "")


def test_a_correction_needs_the_help_and_a_task_the_vessel() -> None:
    scenario = one("fire", kind="distress")
    known = aid.aid(scenario)
    move = Move("misheard", "x", ("correct",))
    said = f"Negative. Correction. {known.unit} arrives in {known.minutes} minutes. Over."
    assert right_of_coast(move, done(scenario, said), scenario)
    assert not right_of_coast(move, done(scenario, "Negative. Over."), scenario)
    task = Move("offer", "x", ("task",))
    assert right_of_coast(
        task, done(scenario, f"Proceed to {scenario.vessel.name} and report."), scenario
    )
    assert not right_of_coast(task, done(scenario, "Proceed to Ada and report."), scenario)
    ask = Move("told", "x", ("ask",), "persons")
    assert not right_of_coast(ask, done(scenario, "What is your position?"), scenario)


def test_a_wrong_arrival_counts_as_changed_and_is_kept_from_being_said() -> None:
    scenario = one("fire", kind="distress")
    known = aid.aid(scenario)
    wrong = f"{known.unit} arrives in {known.minutes + 1} minutes. Over."
    call = f"Mayday, Mayday, Mayday. This is {scenario.vessel.name}. When does help arrive? Over."
    plain = Session(scenario, Says(wrong), role="coast").hear(call)
    assert plain.changed == ("minutes",)
    kept = Session(scenario, Says(wrong), "coast", Composer(scenario)).hear(call)
    assert kept.by == "composer" and kept.changed == () and kept.kind == "help"


def test_a_folder_of_lessons_has_both_prompts(tmp_path: Path) -> None:
    found = [(s, *either(s, 0)) for s in islice(live.scenarios(), 20)]
    lines = [
        Dialogue(tuple(turns), s.id, s.as_dict(), s.category, {"form": form}).to_json()
        for s, form, turns in found
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = FolderData(str(tmp_path), form=LIVE).source("train")
    for (scenario, form, _), n in zip(found, range(len(source)), strict=True):
        assert source[n][1] == prompt(scenario, form)
    assert {form for _, form, _ in found} == {LIVE, WATCH}


@pytest.mark.parametrize(("role", "names"), [(SHIP, {None}), (COAST, {None, OTHER})])
def test_third_stations_are_named_to_the_one_that_must_call_them(
    role: Role, names: set[str | None]
) -> None:
    heard: set[str | None] = set()
    for scenario in islice(live.scenarios(), 12):
        partner = Says("Received. Over.")
        live.dialogue(scenario, partner, keep=False, role=role)
        heard |= {s.turns[-1].name for s in partner.scenes if s.turns and s.heard}
    assert heard == names


def test_the_command_measures_a_coast_station(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    words = [
        "--partner",
        "composer",
        "--role",
        "coast",
        "--wordings",
        "second",
        "--tiny",
        "--out",
        str(out),
    ]
    assert live.main(words) == 0
    record = validate_record(out)
    assert record.record == "maritime/coast-composer-second" and "scripted ship" in record.claim
    assert {r.case for r in record.rows} <= {live.ALL, *COAST.kinds}
    with pytest.raises(GraftError, match="choose one of first"):
        live.main(["--role", "coast", "--wordings", "eighth"])
