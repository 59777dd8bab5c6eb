"""The benchmark of several GPUs: its rows in small, its limits, what a failure leaves, and that nothing is repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import __main__ as command
from graftwork_runs import Row, validate_record
from tests.benchmarks.forked_ranks import LIBRARIES
from tests.warm import Pool


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch, warm: Pool) -> None:
    """A row's processes are forked from one that has their libraries."""

    def launch(file: Path, count: int, limit: float) -> str | None:
        done = warm(*LIBRARIES).call(
            "tests.benchmarks.forked_ranks:launch", str(file), count, limit
        )
        assert done.returncode == 0, done.stderr
        return done.value  # type: ignore[no-any-return]

    monkeypatch.setattr(command, "launch", launch)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scale")


def rehearse(work: Path, *more: str) -> int:
    small = "--tiny --device cpu --rounds 2 --burst 1 --limit 250"
    return command.main([*small.split(), "--work", str(work / "rows"), *more])


def test_all_rows_run_in_small_and_are_measured_once(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = work / "record.json"
    assert rehearse(work, "--out", str(out)) == 0
    record = validate_record(out)
    assert record.verdict.startswith("not testable here")
    assert (
        record.command
        == "python -m benchmarks.scale --tiny --device cpu --rounds 2 --burst 1 --limit 250"
    )
    value = {(r.variant, r.metric): r.value for r in record.rows}
    for variant in ("DDP, 2", "FSDP2, 2"):
        assert value[variant, "bit-equal in all processes"] == 1
        assert value[variant, "difference"] < 1e-4
        assert value[variant, "change by training"] > 1e-3
        assert value[variant, "over one GPU"] > 0
        assert value[variant, "save"] == value["one GPU", "save"] > 0
    assert str(work) not in out.read_text()
    capsys.readouterr()
    rehearse(work)
    assert capsys.readouterr().out.count("measured before") == 3


def test_fewer_than_two_gpus_end_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--device", "cuda", "--gpus", "64"]) == 0
    assert "nothing measured" in capsys.readouterr().out


def test_a_row_that_fails_is_recorded_and_the_others_stay(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.launch

    def launch(file: Path, count: int, limit: float) -> str | None:
        return (
            "process 1 ended with 1: out of memory"
            if "ddp" in file.name
            else real(file, count, limit)
        )

    rows = work / "rows"
    kept = json.loads((rows / "one-1.json").read_text())
    monkeypatch.setattr(command, "launch", launch)
    (rows / "ddp-2.result.json").unlink()
    out = work / "failed.json"
    rehearse(work, "--out", str(out))
    record = validate_record(out)
    [step] = record.find(variant="DDP, 2", metric="step")
    assert step.value is None and "out of memory" in (step.note or "")
    assert record.find(variant="FSDP2, 2", metric="difference")[0].value is not None
    assert kept == json.loads((rows / "one-1.json").read_text())


def row(variant: str, metric: str, value: float | None) -> Row:
    return Row(case="c", variant=variant, metric=metric, value=value, note="why")


@pytest.mark.parametrize(
    "rows, missed",
    [
        ([("DDP, 2", "over one GPU", 1.8), ("FSDP2, 2", "over one GPU", 1.5)], []),
        ([("DDP, 2", "over one GPU", 1.79)], ["1.79 times the throughput (limit 1.8)"]),
        ([("FSDP2, 4", "over one GPU", 2.4)], ["2.4 times the throughput (limit 2.5)"]),
        ([("DDP, 2", "difference", 2e-3)], ["difference 0.002 (limit 0.001)"]),
        ([("DDP, 2", "difference", None)], ["difference None"]),
        ([("FSDP2, 2", "bit-equal in all processes", 0.0)], ["hold different adapters"]),
        ([("one GPU", "step", 3.0)], []),
    ],
)
def test_limits(rows: list[Any], missed: list[str]) -> None:
    found = command.misses([row(*r) for r in rows])
    assert len(found) == len(missed)
    assert all(part in text for part, text in zip(missed, found, strict=True))


def test_a_dead_process_ends_its_row(tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text("{}")
    error = command.launch(file, 2, 200)
    assert error is not None and "ended with 1: KeyError" in error
