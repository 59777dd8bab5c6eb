"""The scripted coast station, how replies to it are judged, and the command that measures."""

from __future__ import annotations

import json
from argparse import Namespace
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.maritime import live, live_roles
from benchmarks.maritime.live_roles import MOVES
from benchmarks.maritime.wordings import SETS
from graftwork_maritime.grammar import lexicon
from graftwork_maritime.lessons import LEARNT_KINDS, Move, script
from graftwork_maritime.lessons.script import KINDS
from graftwork_maritime.lessons.wordings import FIRST
from graftwork_maritime.live import Composer, Scene, Session, truth
from graftwork_maritime.live.replies import KINDS as REPLIES
from graftwork_maritime.scenario import Scenario
from graftwork_runs import validate_record
from graftwork_runs.surroundings import device_name
from tests.maritime.live_kit import Says, one


def scripts(count: int) -> list[tuple[Scenario, list[Move]]]:
    return [(s, script(s, MOVES, 7)) for s in islice(live.scenarios(), count)]


def test_scripts_are_pure_and_hold_every_kind() -> None:
    found = scripts(40)
    assert found == scripts(40)
    assert {m.kind for _, moves in found for m in moves} == set(KINDS)
    for scenario, moves in found:
        assert len(moves) >= MOVES and scenario.kind in LEARNT_KINDS
        for move in moves:
            assert set(move.replies) <= set(REPLIES) and "{" not in move.text
            assert move.key is None or move.key in truth.keys(scenario)


def test_what_is_misheard_is_wrong_and_what_is_read_back_is_right() -> None:
    wrong = right = 0
    for scenario, moves in scripts(60):
        for move in moves:
            if move.kind == "misheard":
                assert truth.wrong(move.text, scenario, "coast") == [move.key], move.text
                wrong += 1
            if move.kind == "read-back":
                assert truth.wrong(move.text, scenario, "coast") == [], move.text
                right += 1
    assert wrong > 20 and right > 20


def test_silence_begins_and_ends_with_its_order() -> None:
    seen = 0
    for _, moves in scripts(40):
        kinds = [m.kind for m in moves]
        if "seelonce" in kinds:
            at = kinds.index("seelonce")
            end = next(n for n, m in enumerate(moves) if "Feenee" in m.text)
            assert at < end and kinds[end + 1] == "released"
            assert all(
                m.kind == "held" or lexicon.COAST.search(m.text) or m.kind == "asked"
                for m in moves[at + 1 : end]
            )
            seen += 1
    assert seen > 5


def test_a_reply_is_right_by_kind_and_fact() -> None:
    scenario = one("fire", kind="distress")
    ask = Move("asked", "How many people have you got?", ("answer", "repeat"), "persons")
    for text, good in (
        (f"There are {scenario.vessel.persons} persons on board.", True),
        (f"There are {scenario.vessel.persons + 1} persons on board.", False),
        ("No information.", False),
        (None, False),
    ):
        assert live_roles.right(ask, Session(scenario, Says(text)).hear(ask.text), scenario) is good
    order = Move("seelonce", "Seelonce Mayday.", ("silent",))
    assert live_roles.right(order, Session(scenario, Says(None)).hear(order.text), scenario)
    assert not live_roles.right(
        order, Session(scenario, Says("Received.")).hear(order.text), scenario
    )


def test_a_partner_that_says_one_thing_is_not_right(tmp_path: Path) -> None:
    lines = live.hold(
        lambda s, seed: Says("Received, standing by."), 40, "one", False, say=lambda line: None
    )
    known = {(r.case, r.metric): r.value or 0.0 for r in live.rows(lines, "one")}
    assert known["instruction", "right kind"] == 1 and known["asked", "right kind"] == 0
    assert known["all", "right kind"] < 0.5 and known["all", "no fact changed"] == 1
    assert live.verdict(live.rows(lines, "one"), "one").startswith("not seen at this scale:")


def test_a_failed_dialogue_is_told_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(live.scenarios()).id

    class Fails(Composer):
        def reply(self, scene: Scene) -> str | None:
            if scene.scenario.id == first:
                raise RuntimeError("out of memory")
            return super().reply(scene)

    file = tmp_path / "lines.jsonl"
    lines = live.hold(Fails, 20, "x", False, [file], lambda line: None)
    known = {r.metric: r.value for r in live.rows(lines, "x") if r.case == "all"}
    assert known["failed"] == MOVES and "out of memory" in capsys.readouterr().err
    assert live.rows(lines, "x") == live.rows(
        live.hold(Fails, 20, "x", False, [file], lambda line: None), "x"
    )
    again = live.hold(Composer, 20, "x", False, [file], lambda line: None)
    assert not any("error" in line for line in again)
    assert again[MOVES:] == [line for line in lines if "error" not in line][: len(again) - MOVES]


@pytest.mark.parametrize("partner", ["composer", "model"])
def test_the_command_is_rehearsed(
    partner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_roles, "MOVES", 4)
    out = tmp_path / "record.json"
    lines = tmp_path / "lines.jsonl"
    assert (
        live.main(["--partner", partner, "--tiny", "--out", str(out), "--lines", str(lines)]) == 0
    )
    record = validate_record(out)
    assert record.notes[-1] == f"The replies were made on: {device_name('cpu')}."
    variants = {r.variant for r in record.rows}
    assert (
        len(variants) == (1 if partner == "composer" else 2)
        and str(tmp_path) not in out.read_text()
    )
    assert all(json.loads(line)["notice"] for line in lines.read_text().splitlines())
    if partner == "model":
        kept = [
            r.value
            for r in record.rows
            if r.variant.endswith("facts kept") and r.metric == "no fact changed"
        ]
        assert kept and set(kept) == {1.0}


def test_every_asked_key_is_one_that_can_be_said() -> None:
    known = set(truth.keys(one("fire", kind="distress"))) | {"cargo", "place"}
    assert all(set(said.asked) <= known for said in SETS.values())


def test_every_set_has_the_same_keys_and_shares_no_wording() -> None:
    seen: set[str] = set()
    for said in SETS.values():
        levels = (said.asked, said.plain, said.elaborate, said.read)
        for level, first in zip(
            levels, (FIRST.asked, FIRST.plain, FIRST.elaborate, FIRST.read), strict=True
        ):
            assert set(level) == set(first) and all(level.values())
        assert all(w.count("{}") == 1 for row in said.read.values() for w in row)
        listed = [*said.unexpected, *said.again, *said.instructions]
        listed += [w for level in levels for row in level.values() for w in row]
        new = {w.lower() for w in listed}
        assert len(new) == len(listed) and not new & seen
        seen |= new


def test_parts_together_are_the_whole(tmp_path: Path) -> None:
    def quiet(line: str) -> None:
        pass

    files = [tmp_path / f"{n}.jsonl" for n in range(2)]
    for n, file in enumerate(files):
        live.hold(Composer, 40, "x", False, [file], quiet, (n, 2))

    class Never(Composer):
        def reply(self, scene: Scene) -> str | None:
            raise AssertionError("all is there")

    together = live.hold(Never, 40, "x", False, files, quiet)
    assert len(together) >= 40
    assert (
        len(
            {
                line["scenario"]
                for f in files
                for line in map(json.loads, f.read_text().splitlines())
            }
        )
        == 4
    )
    with pytest.raises(SystemExit):
        live.main(["--part", "2/2"])


def test_a_model_holds_its_dialogues_once_if_asked() -> None:
    asked = Namespace(base="tiny", adapter=None, device="cpu", temperature=0.0, tiny=True)
    asked.partner, asked.form = "model", "live"
    for once, names in ((True, ["tiny"]), (False, ["tiny", "tiny, facts kept"])):
        asked.once = once
        assert list(live.makers(asked)) == names
