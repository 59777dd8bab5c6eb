"""Lessons: the right reply to each move, without another fact; and the form in which a model is told of a pause."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

import graftwork as gw
from benchmarks.maritime.live import scenarios
from benchmarks.maritime.live_roles import right
from graftwork.errors import GraftError
from graftwork_llm.decoding import Sampling
from graftwork_maritime.app import APP
from graftwork_maritime.dialogues import Turn
from graftwork_maritime.grammar import parse
from graftwork_maritime.lessons import LEARNT_KINDS, lesson
from graftwork_maritime.lessons.lesson import joined, moves
from graftwork_maritime.lessons.wordings import FIRST, SECOND
from graftwork_maritime.live import Scene, truth
from graftwork_maritime.live.model import Model
from graftwork_maritime.live.replies import kind_of
from graftwork_maritime.live.session import Exchange
from graftwork_maritime.model.data import ComposedData, composed
from graftwork_maritime.model.prompts import LIVE, PAUSE, WATCH, answer, prompt
from graftwork_maritime.scenario import Engine
from tests.maritime.live_kit import Network, Words, one


def test_each_reply_is_the_one_that_its_move_expects() -> None:
    asked = 0
    for scenario in islice(scenarios(), 60):
        turns = lesson(scenario, 3)
        assert turns == lesson(scenario, 3) and turns != lesson(scenario, 4)
        assert turns[0].speaker == "ship" and turns[1].speaker != "ship"
        at = 1
        for move in moves(scenario, 3):
            heard, at = turns[at], at + 1
            assert heard.speaker == move.speaker
            assert heard.text == PAUSE if not move.text else heard.text.endswith(move.text)
            reply = turns[at] if at < len(turns) and turns[at].speaker == "ship" else None
            at += reply is not None
            said = reply.text if reply else None
            done = Exchange(heard, reply, kind_of(said, scenario), (), "", parse(()), (), 0.0)
            assert right(move, done, scenario), (move, said)
            assert not said or truth.wrong(said, scenario) == [], said
            asked += move.kind == "asked"
        assert at == len(turns)
    assert asked > 60


def test_wordings_of_sets_are_joined() -> None:
    both = joined((FIRST, SECOND))
    assert both.again == (*FIRST.again, *SECOND.again)
    assert both.asked["mmsi"] == (*FIRST.asked["mmsi"], *SECOND.asked["mmsi"])
    only = lesson(one("fire", kind="distress"), 0, FIRST)
    assert not any(t.text.endswith(w) for t in only for w in SECOND.instructions)


def test_what_a_model_must_say_is_in_its_prompt() -> None:
    found = 0
    for scenario in islice(scenarios(), 40):
        told = prompt(scenario, LIVE)
        if scenario.weather is not None:
            found += 1
            assert (
                f"\nweather: wind {scenario.weather.wind}," in told and scenario.weather.sea in told
            )
            assert "\nweather:" not in prompt(scenario, "paper")
        for key, value in scenario.facts.items():
            assert not isinstance(value, str) or value in told, key
    assert found > 20


def test_live_data_holds_lessons_and_what_no_lesson_is_about_in_full() -> None:
    engine, forms = Engine("coastal", exercise=True), set[tuple[bool, str]]()
    for scenario in engine.scenarios(1, 40):
        form, turns = composed(scenario, 1, LIVE)
        forms.add((scenario.kind in LEARNT_KINDS, form))
        assert turns
    assert forms == {(True, LIVE), (True, WATCH), (False, "full")}
    assert ComposedData(form=LIVE).form == LIVE
    with pytest.raises(GraftError, match="live"):
        ComposedData(form="other")


@pytest.mark.parametrize(
    ("form", "said", "reply"),
    [
        (LIVE, "SHIP: Still here. Over.\nCOAST: x", "Still here. Over."),
        (LIVE, "COAST: And you?", None),
        (LIVE, "", None),
        ("full", " Still here. Over.", "Still here. Over."),
    ],
)
def test_a_pause_is_a_turn_where_the_model_learnt_it_so(
    form: str, said: str, reply: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def complete(network: object, prompts: list[list[int]], *args: object, **given: int) -> list:
        read.append("".join(map(chr, prompts[0][-given["told"] :])))
        return [[ord(c) for c in said]]

    monkeypatch.setattr("graftwork_maritime.live.model.complete", complete)
    monkeypatch.setattr("graftwork_maritime.live.model.encode", lambda *a, **k: Encoded())
    scenario = one("fire", kind="distress")
    partner = Model(Network(), Words(), Sampling(0), stops=(), form=form)
    turns = (Turn("ship", "Mayday. Over."),)
    scene = Scene(scenario, "ship", turns, "", parse(()))
    assert partner.reply(scene) == reply
    label = "SHIP:" if form != LIVE else f"COAST: {PAUSE}\n"
    assert read[-1] == answer(turns) + "\n" + label
    partner.reply(Scene(scenario, "ship", turns, "", parse(()), attempt=1))
    assert read[-1] == read[0]  # the same pause
    later = (*turns, Turn("coast", "Hello. Over."))
    partner.reply(Scene(scenario, "ship", later, "Hello. Over.", parse(())))
    pause = f"COAST: {PAUSE}\n" if form == LIVE else ""
    assert read[-1] == f"SHIP: Mayday. Over.\n{pause}COAST: Hello. Over.\n"


class Encoded:
    prompt: tuple[int, ...] = ()


def test_a_graft_of_lessons_writes_whole_dialogues_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = [w for k in ("train", "val", "test") for w in (f"--data.{k}", "2")]
    fit = ["fit", "--data.form", LIVE, *sizes, "--data.longest", "9000", "--run_dir", "runs/a"]
    assert APP.main(fit) == 0
    assert gw.inspect("runs/a/graft")["app"]["maritime"]["plays"] == ["ship", "coast"]
    words = ["generate", "--adapter", "runs/a/graft", "--count", "1", "--most", "3"]
    assert APP.main([*words, "--output", "d.jsonl"]) == 0
    [line] = Path("d.jsonl").read_text("utf8").splitlines()
    assert json.loads(line)["provenance"]["form"] == "full"
