"""The benchmark of a whole fit: one start on both sides, how figures are judged, what its command keeps."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest
import torch

from benchmarks.fit import __main__ as command
from benchmarks.fit import judging, runs
from benchmarks.fit.runs import OURS, Found, Run, Work, _clock, last_line
from benchmarks.fit.setting import base, checksum, read_tokens, setting, write_tokens
from graftwork.errors import GraftError
from graftwork_runs import validate_record
from tests.benchmarks.forked_ranks import LIBRARIES
from tests.warm import Done, Pool

DEFAULT, HALF = "peft, default", "peft, autocast_adapter_dtype=False"


def found(seconds: float, losses: list[float], **more: Any) -> Found:
    return {
        "process_seconds": 2 * seconds, "steps_seconds": seconds, "step_seconds": seconds / 10,
        "before_seconds": 0.75 * seconds, "after_seconds": 0.25 * seconds,
        "peak_bytes": 2**30, "losses": losses, "base": "b", "start": 1.0, "trained": 5,
        "trained_dtypes": ["torch.float32"], **more,
    }  # fmt: skip


def test_tokens_and_base_are_functions_of_the_seed(tmp_path: Path) -> None:
    s = setting("tiny")
    for name in ("a", "b"):
        write_tokens(tmp_path / name, s, steps=3)
    one, two = read_tokens(tmp_path / "a"), read_tokens(tmp_path / "b")
    assert torch.equal(one, two) and one.shape == (3 * s.batch, s.tokens)
    assert int(one.min()) >= 0 and int(one.max()) < s.vocabulary
    models = [dict(base(s, "cpu").named_parameters()) for _ in range(2)]
    assert checksum(models[0]) == checksum(models[1])
    with torch.no_grad():
        next(iter(models[1].values()))[0, 0] += 1e-3
    assert checksum(models[0]) != checksum(models[1])
    with pytest.raises(GraftError, match="setting 'huge': there are llama, small, tiny"):
        setting("huge")


def test_most_tokens_follow_from_the_one_before(tmp_path: Path) -> None:
    s = setting("small")
    write_tokens(tmp_path / "ids", s, steps=20)
    ids = read_tokens(tmp_path / "ids")
    pairs = torch.stack([ids[:, :-1].flatten(), ids[:, 1:].flatten()])
    kinds = torch.unique(pairs, dim=1).shape[1]
    assert kinds < 0.6 * pairs.shape[1]


def test_the_fastest_setting_is_found_among_those_that_ran() -> None:
    tried = {
        DEFAULT: found(2.0, [1.0]),
        HALF: found(1.0, [1.0], trained_dtypes=["torch.bfloat16"]),
        "peft, default, bf16 autocast": {"error": "exit 1"},
        OURS: found(0.1, [1.0]),
    }
    assert judging.fastest(tried) == HALF
    assert judging.fastest(tried, float32=True) == DEFAULT
    assert judging.fastest({DEFAULT: {"error": "no"}}) is None


def test_rows_compare_repetition_by_repetition_and_bars_are_judged() -> None:
    runs = {
        Run("x", OURS, 2, 1): found(3.0, [1.0, 0.5]),
        Run("x", OURS, 2, 2): found(6.0, [1.0, 0.50005]),
        Run("x", DEFAULT, 2, 1): found(5.0, [1.0, 0.50002], peak_bytes=2**31),
        Run("x", DEFAULT, 2, 2): found(6.0, [1.0, 0.5]),
    }
    rows = judging.rows("x: case", runs)
    got = {(r.variant, r.metric): r for r in rows}
    ratio = got[f"{OURS} / {DEFAULT}", "all steps ratio"]
    assert (ratio.lo, ratio.value, ratio.hi) == (0.6, 0.8, 1.0)
    apart = got[f"{OURS} / {DEFAULT}", "curve difference"].hi
    assert apart is not None and math.isclose(apart, 5e-5, rel_tol=1e-3)
    assert got[OURS, "curve of the repetition"].value == pytest.approx(5e-5)
    best = {"x: case": (DEFAULT, DEFAULT)}
    said = judging.verdict(rows, best, {"x: case": "float32"}, cuda=False)
    assert said.startswith("partly: beside peft's fastest that trains the same 1 of 3 limits hold")
    assert "float32" not in said
    assert "x, curve difference: 3.5e-05 (limit 0.0001)" in said
    assert "peak" in judging.verdict(rows, best, {"x: case": "float32"}, cuda=True)


def test_each_opponent_has_its_own_verdict() -> None:
    runs = {
        Run("x", OURS, 2, 1): found(3.0, [1.0, 0.5]),
        Run("x", DEFAULT, 2, 1): found(5.0, [1.0, 0.5002], peak_bytes=2**31),
        Run("x", HALF, 2, 1): found(3.5, [1.0, 0.4]),
    }
    rows = judging.rows("x: case", runs)
    said = judging.verdict(rows, {"x: case": (HALF, DEFAULT)}, {"x: case": "bfloat16"}, cuda=True)
    same, other = said.split("; beside its fastest, whose factors are not float32, ")
    assert said.startswith("partly") and "4 of 4 limits hold" in same and "0 of 3" in other
    assert "curve" in same and "curve" not in other and "x, peak ratio: 1 (limit 0.85)" in other
    assert judging.verdict([], {}, {}, cuda=True).startswith("not testable")


def test_a_process_is_divided_into_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = {"begin": 103.0, "steps_seconds": 4.0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    parts = runs.divided(9.0, 100.0, noted)
    assert (parts["before_seconds"], parts["after_seconds"], parts["process_seconds"]) == (3, 2, 9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    parts = runs.divided(110.0, 5.0, noted)  # processor time: the process's own begins at 0
    assert (parts["before_seconds"], parts["after_seconds"]) == (103.0, 3.0)


def test_the_other_side_loads_nothing_of_lightning() -> None:
    code = "import sys, benchmarks.fit.peft_trainer; assert 'lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_failed_run_is_a_row_that_says_why_and_other_starts_are_refused() -> None:
    rows = judging.rows("x", {Run("x", OURS, 2, 1): {"error": "exit 1: out of memory"}})
    assert [(r.value, r.note) for r in rows] == [(None, "exit 1: out of memory")]
    other = {
        Run("x", OURS, 1, 1): found(1.0, [1.0]),
        Run("x", DEFAULT, 1, 1): found(1.0, [1.0], base="c"),
    }
    with pytest.raises(GraftError, match="did not start from the same model"):
        judging.rows("x", other)
    with pytest.raises(GraftError, match="of 1 and 2 steps"):
        judging.difference([1.0], [1.0, 2.0])


def test_no_run_is_begun_after_the_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--cases", "tiny", "--minutes", "0", "--work", str(tmp_path / "w")]
    assert command.main(arguments) == 1
    assert "nothing is measured yet" in capsys.readouterr().err
    assert not list(tmp_path.rglob("found.json"))
    assert command.main(["--steps", "0"]) == 2


def test_both_sides_run_in_small_and_agree(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    warm: Pool,
) -> None:
    def run(command: list[str], stdout: TextIO, env: dict[str, str], **more: Any) -> Done:
        done = warm(*LIBRARIES).run(command, env=env)
        stdout.write(done.stdout + done.stderr)
        return done

    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(**{**vars(subprocess), "run": run}))
    monkeypatch.setattr(runs, "_clock", time.perf_counter)  # the processes are nobody's children
    out, work = tmp_path / "fit.json", tmp_path / "w"
    words = ["--cases", "tiny", "--settings", DEFAULT]
    words += ["--steps", "8", "--trial", "8", "--repeats", "1"]
    assert command.main([*words, "--work", str(work), "--out", str(out)]) == 0
    record = validate_record(out)
    [apart] = record.find(variant=f"{OURS} / {DEFAULT}", metric="curve difference")
    assert apart.value is not None and apart.value < 1e-5
    [first] = record.find(variant=OURS, metric="first loss")
    assert first.value is not None and abs(first.value - math.log(128)) < 0.2
    assert "--cases tiny --settings 'peft, default' --steps 8" in record.command
    assert record.details["tried"] == [DEFAULT]
    assert str(tmp_path) not in record.to_json()
    assert record.seconds is not None and record.seconds > 0
    kept = Work(work).result(Run("tiny", OURS, 8, 1))
    assert kept is not None and len(kept["losses"]) == 8
    # the second call finds every run done
    before = {p: p.stat().st_mtime_ns for p in work.rglob("found.json")}
    assert command.main([*words, "--work", str(work), "--out", str(out)]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in work.rglob("found.json")}
    assert "graftwork, 8 steps" in capsys.readouterr().out


def test_the_clock_of_processes_that_ended() -> None:
    begun = _clock()
    subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    assert _clock() > begun


def test_a_log_tells_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\nRuntimeError: out of memory\n\n")
    assert last_line(log) == "RuntimeError: out of memory"
    log.write_text("\n")
    assert last_line(log) == "no output"


def test_processes_keep_their_bytecode_whatever_the_shell_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    subprocess.run(
        [sys.executable, "-c", "import benchmarks.fit.judging"],
        env=runs.surroundings(1, tmp_path), check=True,
    )  # fmt: skip
    assert list(tmp_path.rglob("judging.*.pyc"))
