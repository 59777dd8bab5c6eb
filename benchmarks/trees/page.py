"""Tables of the trees for the documentation."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.speed import page as speed
from benchmarks.trees.collect import ALL, KINDS, NOT_RUN, RECORDS
from benchmarks.trees.judge import METRICS
from graftwork_runs import Record, Row, validate_record
from graftwork_runs.tables import figure, markdown, source

UNMEASURED = "Not measured yet on a card.\n"


def answers(record: Record) -> str:
    """A line for each way to answer: metrics, what trained, the file, the rate, seeds; then the names of what lacks."""
    columns = ["answered by", *METRICS, "trained", "file", "rate", "seeds, exact match"]
    rows, lacks = [], []
    for name in dict.fromkeys(row.variant for row in record.rows):
        exact = _of(record, ALL, name, METRICS[0])
        if exact is None or exact.note == NOT_RUN:
            lacks.append(name)
            continue
        cells = [name, *(_percent(_of(record, ALL, name, metric)) for metric in METRICS)]
        share, size = (_of(record, ALL, name, m) for m in ("trained share", "adapter file"))
        cells.append("–" if share is None or share.value is None else f"{share.value:.3g} %")
        cells.append("–" if size is None or size.value is None else f"{size.value / 1e6:.2f} MB")
        cells.append(figure(_of(record, ALL, name, "rate")))
        seeds = _of(record, ALL, name, f"{METRICS[0]} by seed")
        cells.append("–" if seeds is None else f"{seeds.n}: {_percent(seeds)}")
        rows.append(cells)
    more = f"\n\nNot run yet: {'; '.join(lacks)}." if lacks else ""
    return f"{markdown(columns, rows)}{more}\n\n{source(record)} {' '.join(record.notes)}\n"


def kinds(record: Record) -> str:
    """Exact matches by kind of example."""
    rows = []
    for name in dict.fromkeys(row.variant for row in record.rows):
        found = [_of(record, kind, name, METRICS[0]) for kind in KINDS]
        if any(row is not None for row in found):
            rows.append([name, *map(_percent, found)])
    return markdown(["exact match of", *KINDS], rows) + "\n"


def compared(record: Record) -> str:
    """Differences in exact matches, in pairs."""
    rows = [
        [r.variant, r.metric.partition(", minus ")[2], _percent(r)]
        for r in record.rows
        if ", minus " in r.metric
    ]
    if not rows:
        return "No arm has been trained yet.\n"
    return markdown(["arm", "minus", "exact match, points"], rows) + "\n"


def _of(record: Record, case: str, name: str, metric: str) -> Row | None:
    found = record.find(case=case, variant=name, metric=metric)
    return found[0] if found else None


def _percent(row: Row | None) -> str:
    if row is None or row.value is None:
        return "–" if row is None else str(row.note)
    text = f"{100 * row.value:.1f}"
    if row.lo is not None and row.hi is not None:
        text += f" ({100 * row.lo:.1f} to {100 * row.hi:.1f})"
    return text


def _table(name: str, form: Callable[[Record], str]) -> Callable[[], str]:
    path = RECORDS / f"{name}.json"
    return lambda: form(validate_record(path)) if path.is_file() else UNMEASURED


GENERATORS: dict[str, Callable[[], str]] = {
    "trees": _table("smollm2", answers),
    "trees-kinds": _table("smollm2", kinds),
    "trees-compared": _table("smollm2", compared),
    "trees-steps": _table("steps", speed.table),
}
