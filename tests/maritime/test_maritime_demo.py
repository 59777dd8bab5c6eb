"""`maritime demo`: a fixed exchange with its report, and the page's switch."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftwork_maritime import NOTICE
from graftwork_maritime.app import main
from graftwork_runs import validate_record


def test_the_fixed_exchange_is_told_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--run_dir", "run"]) == 0
    said = capsys.readouterr().out
    assert NOTICE in said and said.count("SHIP ") == 9 and "! readback-wrong" in said
    assert said.count("COAST (nothing)") == 1  # it was called a second time for a reason
    for kind in ("call", "answer", "correct", "no-information", "silent", "repeat", "acknowledge"):
        assert f"[{kind}]" in said
    record = validate_record(Path("run/record.json"))
    [changed] = record.find(metric="replies that change a fact")
    assert changed.value == 0 and NOTICE in record.notes
    report = Path("run/report.html").read_text("utf8")
    assert NOTICE in report and "Seelonce Mayday" in report
    assert "70° 12.01′ N, 017° 36.93′ E" in report and ">yes<" in report and "[&#" not in report


def test_a_dry_run_and_the_page_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--serve"], ["--partner", "model", "--temperature", "0.9"]):
        assert main(["demo", "--dry_run", *more]) == 0
    assert not list(tmp_path.iterdir())
    assert main(["demo", "--partner", "gull", "--dry_run"]) == 2
    assert "partner 'gull'; choose one of model, composer" in capsys.readouterr().err
