"""Several commands fill one record: what was measured again is replaced, the rest stays, other machines are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.merging import merged
from graftwork.errors import GraftError
from graftwork_runs import Record, Row


def row(variant: str, value: float | None, case: str = "a", metric: str = "ms") -> Row:
    note = None if value is not None else "out of memory"
    return Row(case=case, variant=variant, metric=metric, value=value, note=note)


def record(rows: list[Row], **more: Any) -> Record:
    fields: dict[str, Any] = {
        "record": "speed/x", "claim": "c", "command": "one", "date": "2026-01-01T00:00:00Z",
        "device": "d", "versions": {"torch": "2"}, "rows": rows, "seconds": 2.0, **more,
    }  # fmt: skip
    return Record(**fields)


def count(rows: Sequence[Row]) -> str:
    return f"partly: {len(rows)} rows"


def test_rows_are_replaced_by_variant_where_they_stood(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    first = record([row("x", 1.0), row("x", 2.0, metric="GiB"), row("y", 3.0), row("z", 9, "b")])
    assert merged(first, path, count) is first
    first.write(path)
    second = record([row("x", 5.0), row("w", 6.0)], command="two", notes=["n"])
    got = merged(second, path, count)
    assert [(r.case, r.variant, r.value) for r in got.rows] == [
        ("a", "x", 5.0), ("a", "y", 3.0), ("a", "w", 6.0), ("b", "z", 9.0),
    ]  # fmt: skip
    assert got.command == "one && two" and got.seconds == 4.0 and got.notes == ["n"]
    assert got.verdict == "partly: 4 rows"
    got.write(path)
    assert merged(second, path, count).command == "one && two"


def test_a_failure_does_not_replace_a_figure(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    record([row("x", 1.0), row("y", None)]).write(path)
    got = merged(record([row("x", None), row("y", 2.0), row("z", None)]), path, count)
    assert {r.variant: r.value for r in got.rows} == {"x": 1.0, "y": 2.0, "z": None}


@pytest.mark.parametrize(
    ("field", "value"), [("device", "e"), ("versions", {"torch": "3"}), ("record", "speed/y")]
)
def test_other_places_do_not_mix(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "r.json"
    record([row("x", 1.0)]).write(path)
    with pytest.raises(GraftError, match=f"its {field} is"):
        merged(record([row("x", 1.0)], **{field: value}), path, count)
