"""Tables of what models write, from the headline's records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from graftwork_runs import Record, Row, validate_record
from graftwork_runs.tables import markdown

RECORDS = Path(__file__).parents[1] / "records" / "maritime"


def _known(name: str) -> Record:
    return validate_record(RECORDS / f"{name}.json")


def _measured_arms(record: Record) -> list[str]:
    return list(dict.fromkeys(r.variant for r in record.rows if r.value is not None))


def _missing(record: Record) -> str:
    """Which arms have no figure yet."""
    has = _measured_arms(record)
    lacks = dict.fromkeys(r.variant for r in record.rows if r.variant not in has)
    return f"Not run yet: {'; '.join(lacks)}.\n\n" if lacks else ""


def _arms_table(name: str, heads: dict[str, str], show: Callable[[float], str]) -> str:
    """A row for each arm that has figures, a column for each metric; bounds where there are several seeds."""
    record = _known(name)
    rows = []
    for arm in _measured_arms(record):
        cells, seeds = [], ""
        for metric in heads:
            found = record.find(variant=arm, metric=metric)
            row = found[0] if found and found[0].value is not None else None
            cells.append("–" if row is None else _bounded(row, show))
            if row is not None and row.lo is not None:
                seeds = str(row.n)
        rows.append([arm, *cells, seeds or "–"])
    lines = markdown(["written by", *heads.values(), "seeds"], rows)
    return f"{lines}\n\n{_missing(record)}{record.verdict}"


def _bounded(row: Row, show: Callable[[float], str]) -> str:
    assert row.value is not None
    said = show(row.value)
    if row.lo is None or row.hi is None or (row.n or 0) < 2:
        return said
    return f"{said} ({show(row.lo)} to {show(row.hi)})"


HEADLINE = {
    "accepted": "accepted by the paper's rules", "all 27": "all 27 rows", "published format": "format",
    "published information": "information", "R <= 0.7": "no near duplicate", "stricter": "our filters and grammar",
}  # fmt: skip
COPYING = {
    "copied whole": "copied whole", "near duplicates": "near duplicates", "runs in training": "runs in training",
    "distinct-1": "distinct-1", "distinct-2": "distinct-2", "distinct-3": "distinct-3",
}  # fmt: skip


def headline() -> str:
    """The headline's arms beside the paper's tuned model."""
    return _arms_table("headline", HEADLINE, lambda v: f"{100 * v:.1f} %")


def headline_refused() -> str:
    """How many dialogues each of the paper's rows refuses, the rows that refuse any."""
    refused = _known("headline").details["refused"]
    names = [
        n for n in next(iter(refused.values())) if any(counts[n] for counts in refused.values())
    ]
    rows = [[n.replace("_", " "), *(str(counts[n]) for counts in refused.values())] for n in names]
    return markdown(["row", *refused], rows)


def copying() -> str:
    """Nearness to training text, and variety."""
    return _arms_table("copying", COPYING, lambda v: f"{v:.3f}")


GENERATORS = {
    "maritime/headline": headline,
    "maritime/headline-refused": headline_refused,
    "maritime/copying": copying,
}
