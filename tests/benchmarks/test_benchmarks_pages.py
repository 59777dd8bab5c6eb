"""A record with figures of several kinds becomes one table for each case and kind."""

from __future__ import annotations

from typing import Any

from benchmarks.pages import by_case
from graftwork_runs import Record, Row


def row(variant: str, metric: str, value: float | None, **more: Any) -> Row:
    return Row(case="x: 1", variant=variant, metric=metric, value=value, **more)


def test_variants_with_the_same_metrics_share_a_table() -> None:
    rows = [
        row("ours", "step", 2.0, unit="ms"),
        row("ours", "last loss", 1.5),
        row("ours", "curve of the repetition", 0.0),
        row("theirs", "step", 4.0, unit="ms"),
        row("theirs", "last loss", 1.5),
        row("ours / theirs", "ratio", 0.5, lo=0.25, hi=0.75),
        row("broken", "step", None, note="out of memory"),
    ]
    record = Record(
        record="speed/x", claim="c", command="python -m x", date="2026-01-01T00:00:00Z",
        device="d", versions={"torch": "2"}, rows=rows, notes=["A note."], verdict="seen: all",
    )  # fmt: skip
    said = by_case(record)
    assert "**x: 1**" in said and said.count("| --- |") + said.count("---:") >= 3
    assert "| ours | 2 ms | 1.50 |" in said and "| theirs | 4 ms | 1.50 |" in said
    assert "| ours / theirs | 0.500 (0.250 to 0.750) |" in said
    assert "| broken | out of memory |" in said
    assert "curve of the repetition" not in said
    assert said.rstrip().endswith("seen: all</sub> A note.")
