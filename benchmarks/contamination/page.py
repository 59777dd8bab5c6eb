"""Tables of the contamination experiment for the documentation."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.contamination.collect import NEAR, PEAK, RECORDS, SHOWN
from graftwork_runs import Record, validate_record
from graftwork_runs.tables import figure, markdown, source

UNMEASURED = "Not measured yet.\n"
SMALL, FULL, SMOLLM = "small", "transformer", "smollm2"


def found(record: Record) -> str:
    """A line for each condition."""
    return f"{_lines(record, SHOWN)}\n\n{source(record)} {' '.join(record.notes)}\n"


def copied(record: Record) -> str:
    """Near-duplicates and distinct n-grams of the greedy answers, and the peaks, by condition."""
    metrics = [NEAR, f"{NEAR}, clean", "distinct-3", "distinct-3, clean", PEAK, f"{PEAK}, clean"]
    rest = [r for r in record.rows if r.case == "all conditions"]
    told = "; ".join(f"{r.metric}: {figure(r)}" for r in rest)
    return f"{_lines(record, metrics)}\n\nAUC of CDD over all conditions: {told}.\n"


def _lines(record: Record, metrics: list[str]) -> str:
    rows = []
    for case, variant in dict.fromkeys((r.case, r.variant) for r in record.rows):
        mine = {r.metric: r for r in record.rows if (r.case, r.variant) == (case, variant)}
        if metrics[0] in mine:
            rows.append([variant, case, *(figure(mine.get(m)) for m in metrics)])
    return markdown(["tuned", "on", *metrics], rows)


def _table(name: str, form: Callable[[Record], str]) -> Callable[[], str]:
    path = RECORDS / f"{name}.json"
    return lambda: form(validate_record(path)) if path.is_file() else UNMEASURED


GENERATORS: dict[str, Callable[[], str]] = {
    f"contamination-{name}{suffix}": _table(name, form)
    for name in (SMALL, FULL, SMOLLM)
    for suffix, form in (("", found), ("-copying", copied))
}
