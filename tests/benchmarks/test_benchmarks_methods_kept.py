"""A killed command goes on, a failed trial costs itself alone, and a larger plan has a record of its own."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import pytest

from benchmarks.methods import harness, page
from benchmarks.methods.harness import Experiment, compare, only, run_arms
from benchmarks.methods.kept import Failed, Kept
from graftwork import GraftError
from graftwork_runs import Row, validate_record


def test_a_trial_runs_once_whatever_became_of_the_command(tmp_path: Path) -> None:
    path, calls = tmp_path / "a" / "jobs.jsonl", []

    def trial(name: str, figures: dict[str, float]) -> dict[str, float]:
        calls.append(name)
        return figures

    first = Kept(path, {"steps": 3})
    assert first.run("one", lambda: trial("one", {"m": 1.5})) == {"m": 1.5}
    assert first.run("lost", lambda: trial("lost", {"m": math.inf})) == {"m": math.inf}
    with path.open("a") as file:
        file.write('{"name": "torn", "fig')
    second = Kept(path, {"steps": 3})
    assert second.run("one", lambda: trial("one", {})) == {"m": 1.5}
    assert second.run("lost", lambda: trial("lost", {})) == {"m": math.inf}
    assert second.run("torn", lambda: trial("torn", {"m": 2.0})) == {"m": 2.0}
    assert calls == ["one", "lost", "torn"]
    lines = path.read_text().splitlines()[1:]
    path.write_text(
        "\n".join([path.read_text().splitlines()[0], *lines]).replace(
            '"seconds": 0.0', '"seconds": 2.5'
        )
    )
    assert Kept(path, {"steps": 3}).before == 7.5
    assert [json.loads(line).get("name") for line in path.read_text().splitlines()] == [
        None,
        *calls,
    ]
    with pytest.raises(GraftError, match="--jobs"):
        Kept(path, {"steps": 4})


def test_a_failed_trial_is_told_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "jobs.jsonl"

    def broken() -> dict[str, float]:
        raise RuntimeError("out of memory")

    found = Kept(path).run("one", broken)
    assert isinstance(found, Failed) and found.note == "RuntimeError: out of memory"
    assert "one: RuntimeError: out of memory" in capsys.readouterr().out
    assert Kept(path).run("one", lambda: {"m": 1.0}) == {"m": 1.0}
    with pytest.raises(RuntimeError):  # nothing is kept, so nothing is hidden
        Kept().run("one", broken)

    def stopped() -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Kept(path).run("two", stopped)


def test_the_other_arms_stand_when_one_fails(tmp_path: Path) -> None:
    def good(seed: int, rate: float) -> dict[str, float]:
        return {"error": 2.0 + seed}

    def bad(seed: int, rate: float) -> dict[str, float]:
        if seed == 1 or rate > 0.05:
            raise ValueError("no")
        return {"error": 1.0}

    kept = Kept(tmp_path / "jobs.jsonl")
    arms = {"good": good, "bad": bad}
    rows = compare("c", arms, (0.1, 0.01), [0, 1], "error", [("bad", "good")], kept=kept)
    assert only(rows, "c", "bad", "rate").value == 0.01  # a rate that fails is not chosen
    assert only(rows, "c", "bad", "error").note == "failed: ValueError: no"
    assert only(rows, "c", "good", "error").value == 2.5
    with pytest.raises(LookupError):
        only(rows, "c", "bad", "error, ratio to good")
    _, found = run_arms("c", arms, (0.1, 0.01), [0, 1], "error", kept=kept)
    assert list(found) == ["good"]


def test_fewer_seeds_may_choose_a_rate() -> None:
    seen: list[int] = []

    def trial(seed: int, rate: float) -> dict[str, float]:
        seen.append(seed)
        return {"error": rate}

    run_arms("c", {"a": trial}, (0.1, 0.2), [0], "error", sweep=2)
    assert seen == [*harness.SWEEP[:2], *harness.SWEEP[:2], 0]


def experiment(fails: bool = False) -> Experiment:
    def trial(seed: int, rate: float) -> dict[str, float]:
        if fails:
            raise ValueError("no")
        return {"error": rate}

    def rows(seeds: list[int], options: argparse.Namespace) -> list[Row]:
        return compare("c", {"ours": trial}, (0.1,), seeds, "error", [], kept=options.kept)

    def judge(rows: list[Row]) -> str:
        return f"seen: {only(rows, 'c', 'ours', 'error').value:g}"

    one = Experiment(
        name="made_up", claim="It works.", model="small", data="some", measure=rows, judge=judge,
        shown=[("c", "ours", "error")], sizes={"steps": 7},
    )  # fmt: skip
    large = dataclasses.replace(
        one, name="larger/made_up", model="large", sizes={"seeds": 6, "steps": 70}
    )
    return dataclasses.replace(one, larger=large)


def test_a_larger_plan_has_its_own_sizes_record_and_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RECORDS", tmp_path)
    assert experiment().main(["--larger", "--steps", "9"]) == 0
    record = validate_record(tmp_path / "larger" / "made_up.json")
    assert record.command == "python -m benchmarks.methods.made_up --larger --seeds 6 --steps 9"
    assert record.details["model"] == "large" and record.seeds == list(range(6))
    assert (tmp_path / "larger" / "made_up.jobs.jsonl").exists()
    with pytest.raises(GraftError, match='"steps": 9'):
        experiment().main(["--larger"])
    assert experiment().main(["--jobs", str(tmp_path / "small.jsonl")]) == 0
    assert validate_record(tmp_path / "made_up.json").details["model"] == "small"
    table = page.experiments(tmp_path)
    assert table.index("`methods/made_up`") < table.index("`methods/larger/made_up`")
    assert (tmp_path / "small.jsonl").exists()


def test_a_plan_whose_trials_fail_says_so(tmp_path: Path) -> None:
    out = tmp_path / "made_up.json"
    options = ["--larger", "--out", str(out), "--jobs", str(tmp_path / "jobs.jsonl")]
    assert experiment(fails=True).main(options) == 0
    record = validate_record(out)
    assert str(record.verdict).startswith("not testable here: trials failed")
    assert record.rows[-1].note == "failed: ValueError: no"
