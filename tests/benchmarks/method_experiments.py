"""What the tests of the methods' experiments share."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.methods.harness import Experiment
from graftwork_runs import Row, validate_record


def command_matches(
    experiment: Experiment, options: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the command at a tiny size: its record has the rows of the committed one, and it prints its verdict."""
    out, jobs = folder / "record.json", folder / "jobs.jsonl"
    jobs.unlink(missing_ok=True)
    assert experiment.main(["--seeds", "1", *options, "--out", str(out), "--jobs", str(jobs)]) == 0
    record, kept = validate_record(out), validate_record(experiment.target)
    assert record.verdict and record.verdict in capsys.readouterr().out
    assert named(record.rows) == named(kept.rows)
    assert not [r for r in record.rows if (r.note or "").startswith("failed")]
    done = jobs.read_text()
    experiment.main(["--seeds", "1", *options, "--out", str(out), "--jobs", str(jobs)])
    assert jobs.read_text() == done  # nothing ran again
    assert validate_record(out).rows == record.rows


def named(rows: list[Row]) -> set[tuple[str, str, str]]:
    """Of each row, its names without the number of a step; no two rows have the same."""
    assert len({(r.case, r.variant, r.metric) for r in rows}) == len(rows)
    return {(r.case, r.variant, r.metric.rstrip("0123456789")) for r in rows}


def put(rows: list[Row], value: float, *names: tuple[str, str, str]) -> list[Row]:
    """The rows with those of `names` at `value`, bounds too."""
    missing = {*names} - {(r.case, r.variant, r.metric) for r in rows}
    assert not missing, missing
    return [
        r.model_copy(update={"value": value, "lo": value, "hi": value, "note": None})
        if (r.case, r.variant, r.metric) in names
        else r
        for r in rows
    ]
