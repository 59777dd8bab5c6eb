"""Rows of a record."""

from __future__ import annotations

from graftwork_runs import Row


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
