"""The picture of the speed records: every measured ratio is in it, with its limit."""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed import figure
from benchmarks.speed.limits import LIMITS, RATIO
from graftwork_runs import validate_record


def test_every_measured_ratio_is_drawn_and_every_limit_is_at_its_row(tmp_path: Path) -> None:
    record = validate_record(figure.RECORDS / "llama.json")
    found = figure.panels("llama", record)
    drawn = [row for rows in found.values() for row, _ in rows]
    assert len(drawn) == sum(r.metric == RATIO and r.value is not None for r in record.rows)
    limits = {row.variant: limit for rows in found.values() for row, limit in rows if limit}
    assert limits == {variant: limit for (_, variant), limit in LIMITS["llama"].items()}
    values = [row.value for row, _ in found[next(iter(found))]]
    assert values == sorted(v for v in values if v is not None)
    picture = figure.draw(found, tmp_path / "speed.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    assert [p.name for p in tmp_path.iterdir()] == ["speed.png"]


def test_rows_are_coloured_by_whose_they_are() -> None:
    colours = {figure.colour(v) for v in ("graftwork LoRA 16", "peft DoRA 16", "full fine-tuning")}
    assert colours == set(figure.COLOURS.values())
