"""Rows of a record."""

from __future__ import annotations

from pathlib import Path

from graftwork_runs import Row, validate_record


def figure(
    case: str,
    variant: str,
    metric: str,
    value: float | None,
    unit: str | None = None,
    note: str | None = None,
) -> Row:
    """A figure without bounds; of one that is missing, `note` says why."""
    return Row(case=case, variant=variant, metric=metric, value=value, unit=unit, note=note)


def known_rows(record: Path, variant: str) -> list[Row]:
    """The figures that a record has of a variant; none where there is no record."""
    if not record.is_file():
        return []
    rows = validate_record(record).rows
    return [r for r in rows if r.variant == variant and r.value is not None]
