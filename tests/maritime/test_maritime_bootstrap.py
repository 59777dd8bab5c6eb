"""The Self-Instruct loop: what is refused and why, a pool that grows, runs that were stopped, bad seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graftwork.errors import GraftError
from graftwork_llm.decoding import Sampling
from graftwork_llm.tiny import tiny
from graftwork_maritime.app import main
from graftwork_maritime.dialogues import Dialogue, read
from graftwork_maritime.filters.paper import PAPER
from graftwork_maritime.filters.sets import choose
from graftwork_maritime.grammar import compose
from graftwork_maritime.model import bootstrap
from graftwork_maritime.model.accounts import attempts_in
from graftwork_maritime.model.bootstrap import Bootstrap, Plan, seeds_of
from graftwork_maritime.model.data import FolderData
from graftwork_maritime.model.generate import Origin
from graftwork_maritime.model.prompts import RULE, answer
from graftwork_maritime.model.seeding import scenario_source, seed_pairs
from graftwork_maritime.scenario import Engine, Scenario

ORIGIN = Origin("tiny", None, "paper", 0, Sampling(0.9, 0.9, 50, 400), "0.1.0")
PLAN = Plan(ORIGIN, tuple(choose(["paper"])), examples=2, tries=3, round_size=4)


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return list(Engine("paper", exercise=True).scenarios(77, 12))


@pytest.fixture(scope="module")
def seeds() -> list[tuple[Dialogue, Scenario]]:
    return seed_pairs(None, "paper", "paper", 0)


class Writer:
    """In the place of the model: right dialogues, but wrong ones for the tries that `wrong` names, in words of its own.

    Its answers are a function of the prompt's last scenario and of the row's number, as a model's are.
    """

    def __init__(self, scenarios: Sequence[Scenario], wrong: Callable[[int], str | None]) -> None:
        self.words = tiny()[1]
        self.by_name = {s.vessel.name: (n, s) for n, s in enumerate(scenarios)}
        self.wrong, self.rows, self.prompts = wrong, 0, list[str]()
        self.stop_after: int | None = None

    def __call__(self, model: Any, prompts: Any, seeds: Sequence[int], **_: Any) -> list[list[int]]:
        out = []
        for ids, seed in zip(prompts, seeds, strict=True):
            text = self.words.decode(ids)
            self.prompts.append(text)
            self.rows += 1
            name = text.rpartition("vessel name: ")[2].partition("\n")[0]
            n, scenario = self.by_name[name]
            said = answer(compose(scenario, seed % 1000, "paper"))
            said = self.wrong(n) or f"{said.rstrip('. ')}.\n{RULE}\n\nform: paper"
            out.append(self.words(said, add_special_tokens=False)["input_ids"])
        return out


def looped(
    folder: Path, scenarios: Sequence[Scenario], seeds: Any, plan: Plan = PLAN, batch: int = 3
) -> Bootstrap:
    model, words = tiny(width=32, layers=1)
    return Bootstrap(
        model, words, seeds, lambda n: scenarios[n] if n < len(scenarios) else None, folder, plan, batch=batch
    )  # fmt: skip


def test_right_dialogues_join_the_pool_and_are_shown_later(
    tmp_path: Path, scenarios: list[Scenario], seeds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(scenarios, lambda n: None)
    monkeypatch.setattr(bootstrap, "complete", writer)
    loop = looped(tmp_path / "b", scenarios, seeds[:20])  # two of each category
    assert loop.run(10, 100) == 10
    lines = list(read(tmp_path / "b" / "train.jsonl"))
    assert len(lines) == 8 and all(RULE not in d.text for d in lines)
    first = lines[0].provenance
    assert first["round"] == 0 and first["try"] == 0 and len(first["examples"]) == 2
    assert first["filters"] == [f.name for f in PAPER]
    data = FolderData(str(tmp_path / "b"), form="paper")
    assert [len(data.source(s)) for s in ("train", "val", "test")] == [8, 1, 1]
    assert all(p.count("Dialogue:") == 3 for p in writer.prompts)


def test_own_examples_come_once_the_pool_has_as_many_as_seeds(
    tmp_path: Path, scenarios: list[Scenario], seeds: Any
) -> None:
    fire = [p for p in seeds if p[1].category == "fire"][:3]
    loop = looped(tmp_path, scenarios, fire, replace(PLAN, examples=3))
    own = [(replace(d, id=f"own-{n}"), s) for n, (d, s) in enumerate(seeds) if s.category == "fire"]
    for size, wanted in ((0, 0), (2, 0), (3, 1), (6, 2), (9, 2)):
        shown = loop._examples(scenarios[0], 0, own[:size])
        assert len(shown) == 3 and sum(d.id.startswith("own-") for d, _ in shown) == wanted
    assert loop._examples(scenarios[0], 0, own) == loop._examples(scenarios[0], 0, own)


def test_the_refused_are_tried_again_then_given_up_and_all_is_counted(
    tmp_path: Path, scenarios: list[Scenario], seeds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(scenarios, lambda n: "SHIP: Hello (there)" if n == 1 else None)
    monkeypatch.setattr(bootstrap, "complete", writer)
    loop = looped(tmp_path, scenarios, seeds)
    assert loop.run(5, 100) == 5
    tried = attempts_in(tmp_path / "attempts.jsonl")
    mine = [a for a in tried if a.index == 1]
    assert [a.round for a in mine] == [0, 1, 2] and not any(a.accepted for a in mine)
    assert [a.dialogue.provenance["try"] for a in mine] == [0, 1, 2]
    assert mine[0].failed[:2] == ("parentheses", "incomplete") and '"("' in mine[0].reason
    table = json.loads((tmp_path / "rejections.json").read_text())
    rows = {r["filter"]: r for r in table["total"]["rows"]}
    assert rows["parentheses"] == {
        "filter": "parentheses",
        "judged": len(tried),
        "failed": 3,
        "first": 3,
    }
    assert rows["incomplete"]["failed"] == 3 and rows["incomplete"]["first"] == 0
    assert rows["hallucinated_mmsi"]["judged"] <= len(tried)
    assert table["total"]["seen"] == len(tried) == sum(r["seen"] for r in table["rounds"])
    assert [r["refused"] for r in table["rounds"]][:3] == [1, 1, 1]


def test_near_duplicates_are_refused_unless_that_is_switched_off(
    tmp_path: Path, scenarios: list[Scenario], seeds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = answer(seeds[0][0].turns)
    fires = [s for s in Engine("paper", exercise=True).scenarios(77, 40) if s.category == "fire"]
    writer = Writer(fires, lambda n: copy)
    monkeypatch.setattr(bootstrap, "complete", writer)
    only = replace(PLAN, filters=tuple(choose(["not_unique"])), tries=1)
    assert looped(tmp_path / "a", fires, seeds, only).run(3, 4) == 0
    assert all(a.failed == ("not_unique",) for a in attempts_in(tmp_path / "a" / "attempts.jsonl"))
    free = replace(PLAN, filters=tuple(choose(["not_unique"], ["not_unique"])))
    assert looped(tmp_path / "b", fires, seeds, free).run(3, 9) == 3


class Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, scenarios: list[Scenario], seeds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(n: int) -> str | None:
        return "SHIP: Nothing" if n in (2, 5) else None

    monkeypatch.setattr(bootstrap, "complete", Writer(scenarios, wrong))
    assert looped(tmp_path / "whole", scenarios, seeds).run(9, 100) == 9
    judged = Bootstrap._judged
    seen: Iterator[int] = iter(range(100))

    def stopping(self: Bootstrap, *args: Any) -> Any:
        if next(seen) == 7:
            raise Stopped
        return judged(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Bootstrap, "_judged", stopping)
        looped(tmp_path / "cut", scenarios, seeds).run(9, 100)
    file = tmp_path / "cut" / "attempts.jsonl"
    assert len(attempts_in(file)) == 7
    file.write_bytes(file.read_bytes() + b'{"round": 1, "ind')
    assert looped(tmp_path / "cut", scenarios, seeds, batch=2).run(9, 100) == 9
    for name in ("attempts.jsonl", "train.jsonl", "val.jsonl", "test.jsonl", "rejections.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    before = file.read_bytes()
    assert looped(tmp_path / "cut", scenarios, seeds).run(9, 100) == 9
    assert file.read_bytes() == before
    assert looped(tmp_path / "cut", scenarios, seeds).run(10, 100) == 10
    assert file.read_bytes().startswith(before)


def test_attempts_and_scenarios_may_run_out(
    tmp_path: Path, scenarios: list[Scenario], seeds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(scenarios, lambda n: "SHIP: Nothing")
    monkeypatch.setattr(bootstrap, "complete", writer)
    assert looped(tmp_path / "a", scenarios, seeds).run(9, 6) == 0
    assert writer.rows == 6
    assert looped(tmp_path / "b", scenarios[:3], seeds).run(9, 600) == 0
    assert len(attempts_in(tmp_path / "b" / "attempts.jsonl")) == 9


def test_a_folder_of_other_settings_or_another_file_is_refused(
    tmp_path: Path, scenarios: list[Scenario], seeds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "complete", Writer(scenarios, lambda n: None))
    looped(tmp_path, scenarios, seeds).run(1, 1)
    with pytest.raises(GraftError, match="begun with another seeds, tries; name another output"):
        looped(tmp_path, scenarios, seeds[1:], replace(PLAN, tries=9))
    with pytest.raises(GraftError, match="is not scenario 0; name another output"):
        looped(tmp_path, scenarios[1:], seeds).run(2, 9)
    (tmp_path / "attempts.jsonl").write_text("{}\n")
    with pytest.raises(GraftError, match=r"attempts.jsonl: line 1: no attempt of a bootstrap"):
        looped(tmp_path, scenarios, seeds).run(2, 9)
    (tmp_path / "settings.json").write_text("[")
    with pytest.raises(GraftError, match=r"settings.json: not what a bootstrap wrote"):
        looped(tmp_path, scenarios, seeds)
    with pytest.raises(GraftError, match="examples must be at least 0"):
        replace(PLAN, examples=-1)
    with pytest.raises(GraftError, match="batch must be at least 1"):
        looped(tmp_path / "n", scenarios, seeds, batch=0)


def test_bad_seeds_are_one_message_with_line_and_remedy(
    tmp_path: Path, scenarios: list[Scenario], seeds: Any
) -> None:
    file = tmp_path / "s.jsonl"
    whole = json.dumps(seeds[0][0].to_json())
    bad = json.loads(whole)
    bad["scenario"]["category"] = "picnic"
    for text, reason in (
        ('{"turns": [{"speaker": "ship", "text": "x"}]}', r"line 2: a seed needs its scenario"),
        (json.dumps(bad), r"line 2: scenario: category is 'picnic'"),
        ("{", r"line 2: not JSON"),
    ):
        file.write_text(f"{whole}\n{text}\n")
        with pytest.raises(GraftError, match=reason):
            seeds_of(file)
    with pytest.raises(
        GraftError, match="seeds: 0 of category flooding, and a prompt has 2 examples"
    ):
        looped(tmp_path / "b", scenarios, [p for p in seeds if p[1].category == "fire"]).run(3, 9)
    lines = "".join(s.to_json() + "\n" for s in (scenarios[0], scenarios[1], scenarios[0]))
    file.write_text(lines)
    with pytest.raises(GraftError, match="scenarios 1 and 3 have the id"):
        scenario_source(str(file), "paper", 0)


def test_the_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ["--count", "2", "--attempts", "3", "--most", "4", "--examples", "1"]
    args = ["bootstrap", *sizes, "--output", "pool"]
    assert main([*args, "--filters", "paper,house"]) == 0
    out = capsys.readouterr().out
    assert "round 0: 0 of 2 accepted" in out and "3 dialogues, 3 refused" in out
    assert "0 of 2 dialogues accepted: pool" in out
    assert len(attempts_in(Path("pool/attempts.jsonl"))) == 3
    assert main([*args, "--filters", "paper"]) == 2
    assert "begun with another filters" in capsys.readouterr().err
    for more, reason in (
        (["--count", "0"], "count and attempts must be at least 1"),
        (["--filters", "papper"], "did you mean paper?"),
        (["--preset", "coastal"], "take --form full"),
        (["--form", "long"], "form 'long'; choose one of"),
    ):
        assert main(["bootstrap", "--output", "other", *more]) == 2
        assert reason in capsys.readouterr().err
    assert not Path("other").exists()
