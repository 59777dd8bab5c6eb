"""The experiments' commands run, at a tiny size, and judge by their rows alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.methods import geometry, loft
from graftwork_runs import Record, validate_record


@pytest.mark.parametrize("command", [loft, geometry])
def test_a_command_writes_a_record(
    command: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "record.json"
    assert command.main(["--seeds", "1", "--steps", "3", "--out", str(out)]) == 0  # type: ignore[attr-defined]
    record = validate_record(out)
    assert record.verdict and record.verdict in capsys.readouterr().out
    kept = validate_record(command.TARGET)  # type: ignore[attr-defined]
    assert {(r.case, r.variant, r.metric) for r in record.rows} == {
        (r.case, r.variant, r.metric) for r in kept.rows
    }
    assert len(kept.seeds) >= 5


def changed(record: Record, factor: float, variant: str) -> list:
    return [
        r.model_copy(update={"value": (r.value or 0) * factor}) if r.variant == variant else r
        for r in record.rows
    ]


def test_lofts_verdict_follows_its_rows() -> None:
    record = validate_record(loft.TARGET)
    assert loft.judge(record.rows) == record.verdict
    assert loft.judge(changed(record, 1e-9, "LoFT")).startswith("seen: ")
    assert "at 0 of 4 rates" in loft.judge(changed(record, 1e9, "LoFT"))
