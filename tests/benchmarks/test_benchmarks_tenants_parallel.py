"""The benchmark of tenants on several GPUs: both rows in small, its limits, what a failure leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tenants import parallel
from benchmarks.tenants.__main__ import main
from graftwork_runs import Row, validate_record
from tests.benchmarks.forked_ranks import LIBRARIES
from tests.warm import Pool

TINY = ["--parts", "parallel", "--tiny", "--device", "cpu", "--dtype", "float32", "--rounds", "2"]


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch, warm: Pool) -> None:
    """A row's processes are forked from one that has their libraries."""

    def launch(file: Path, count: int, limit: float, worker: str) -> str | None:
        done = warm(*LIBRARIES).call(
            "tests.benchmarks.forked_ranks:launch", str(file), count, limit, worker
        )
        assert done.returncode == 0, done.stderr
        return done.value  # type: ignore[no-any-return]

    monkeypatch.setattr(parallel, "launch", launch)


def test_both_rows_run_in_small_and_are_measured_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "parallel.json"
    assert main([*TINY, "--out", str(out)]) == 0
    record = validate_record(out)
    assert record.verdict.startswith("not testable here")
    assert record.command == f"python -m benchmarks.tenants {' '.join(TINY)}"
    value = {(r.variant, r.metric): r.value for r in record.rows}
    assert value["2 GPUs", "bit-equal in all processes"] == 1
    assert value["2 GPUs", "difference"] < 1e-4  # type: ignore[operator]
    assert value["2 GPUs", "change by training"] > 1e-3  # type: ignore[operator]
    assert value["one GPU", "tokens per second"] and value["2 GPUs", "tokens per second"]
    capsys.readouterr()
    assert main([*TINY, "--out", str(out)]) == 0
    assert "measured before" in capsys.readouterr().out


def test_fewer_gpus_end_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--parts", "parallel", "--device", "cpu"]) == 0
    assert "nothing measured: 0 GPU(s) here, 2 asked for" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--parts", "parallel", "training"])


def test_a_row_that_fails_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "launch", lambda *_: "process 1 ended with 1: out of memory")
    out = tmp_path / "parallel.json"
    assert main([*TINY, "--out", str(out)]) == 0
    record = validate_record(out)
    assert {r.note for r in record.rows} == {"process 1 ended with 1: out of memory"}
    assert parallel.judge(record.rows).startswith("not testable here")


def test_limits() -> None:
    def rows(rate: float, apart: float, same: float = 1.0) -> list[Row]:
        def row(variant: str, metric: str, value: float) -> Row:
            return Row(case="x", variant=variant, metric=metric, value=value)

        return [
            row("one GPU", "tokens per second", 100.0),
            row("2 GPUs", "tokens per second", rate),
            row("2 GPUs", "difference", apart),
            row("2 GPUs", "bit-equal in all processes", same),
        ]

    assert parallel.judge(rows(181, 1e-6)).startswith("seen: 3 of 3")
    assert parallel.judge(rows(179, 1e-6)).startswith("partly: 2 of 3")
    assert parallel.judge(rows(181, 1e-3)).startswith("partly: 2 of 3")
    assert parallel.judge(rows(179, 1e-3, 0.0)).startswith("not seen at this scale: 0 of 3")
    assert parallel.judge(rows(181, 1e-6)[:3]).startswith("partly: 2 of 3")
