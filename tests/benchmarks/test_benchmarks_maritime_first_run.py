"""The first run's benchmark, rehearsed on a random base."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.maritime import first_run, page
from graftwork.errors import GraftError
from graftwork_runs import validate_record


def test_the_command_is_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "RECORDS", tmp_path)
    assert page.first_run().startswith("Not measured yet")
    out = tmp_path / "first-run.json"
    assert first_run.main(["--tiny", "--threads", "1", "--out", str(out)]) == 0
    record = validate_record(out)
    [written] = record.find(metric="dialogues")
    assert written.value == first_run.COUNT and str(tmp_path) not in out.read_text()
    assert record.verdict and record.verdict in page.first_run()
    assert first_run.main(["--threads", "0", "--out", str(out)]) == 2
    assert "--threads 0" in capsys.readouterr().err


def test_a_run_that_fails_says_why() -> None:
    with pytest.raises(GraftError, match=r'ended with 2: .*"count"'):
        first_run.measured(["--count", "x"], 1)


@pytest.mark.parametrize(
    ("seconds", "written", "word"),
    [(299.0, 10, "seen: "), (301.0, 10, "not seen"), (9.0, 9, "not seen")],
)
def test_the_verdict_needs_all_dialogues_in_time(seconds: float, written: int, word: str) -> None:
    record = first_run.record_of(seconds, written, 0.1, 2, "python -m x")
    assert record.verdict and record.verdict.startswith(word)
