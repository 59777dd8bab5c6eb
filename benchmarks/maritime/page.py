"""Tables of the maritime app's page, from its records."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.maritime.filter_quality import ALL, CLEAN, EXPECTED, GROUPS, HARDLY, SHOWN
from benchmarks.maritime.live import ALL as ALL_MOVES
from benchmarks.maritime.live_roles import COAST, SHIP, Role
from benchmarks.maritime.slots import page as slots
from benchmarks.maritime.throughput import RATE
from graftwork_runs import Record, Row, validate_record
from graftwork_runs.tables import markdown

RECORDS = Path(__file__).parents[1] / "records" / "maritime"


TOTALS = (EXPECTED, HARDLY, ALL)


def _known(name: str = "filter-quality") -> Record:
    return validate_record(RECORDS / f"{name}.json")


def _totals(record: Record) -> list[list[str]]:
    """Shares found over all kinds, and the clean dialogues that are refused."""
    cells = [(f"**{kind}**", record.find(case=kind, metric="recall")) for kind in TOTALS]
    cells.append(("**clean dialogues refused**", record.find(case=CLEAN, metric="refused")))
    return [
        [name, str(rows[0].n), *(f"{100 * (r.value or 0):.0f} %" for r in rows)]
        for name, rows in cells
    ]


def totals(name: str = "filter-quality-blind") -> str:
    """The totals of a measurement of filters that have changed since."""
    record = _known(name)
    groups = [r.variant for r in record.find(case=ALL, metric="recall")]  # fewer than there are now
    table = markdown(["kind of fault", "cases", *groups], _totals(record))
    return f"{table}\n\n{record.verdict}"


def recall(name: str = "first") -> str:
    """Shares of faults found by kind and set, the totals first; then the clean dialogues that are refused."""
    record = _known(SHOWN[name])
    kinds = list(dict.fromkeys(r.case for r in record.rows if r.metric == "recall"))
    rows = _totals(record)
    for kind in kinds:
        if kind not in TOTALS:
            found = record.find(case=kind, metric="recall")
            shares = [f"{100 * (r.value or 0):.0f} %" for r in found]
            rows.append([kind.replace("_", " "), str(found[0].n), *shares])
    return markdown(["kind of fault", "cases", *GROUPS], rows) + f"\n\n{record.verdict}"


def alarms(name: str = "first") -> str:
    """Each filter that found or refused something: faults found, clean dialogues refused."""
    record = _known(SHOWN[name])
    rows = []
    for row in record.rows:
        if row.metric == "faults found":
            [false] = record.find(case=row.case, metric="clean refused")
            if row.value or false.value:
                rows.append(
                    [f"`{row.case}`", row.variant, f"{row.value:.0f}", f"{false.value:.0f}"]
                )
    return markdown(["filter", "set", "faults found", "clean dialogues refused"], rows)


def live(role: Role = SHIP) -> str:
    """Live exchanges: a row for each partner and set of wordings, shares by kind of move, and the times."""
    files = sorted(
        RECORDS.glob(f"{role.records}-*.json"), key=lambda f: (_said(f, list(role.sets)), f.name)
    )
    records = [validate_record(file) for file in files]
    found = {(r.case, r.variant, r.metric): r for record in records for r in record.rows}
    kinds = [c for c in (ALL_MOVES, *role.kinds) if c in {case for case, _, _ in found}]
    rows = []
    for variant in dict.fromkeys(variant for _, variant, _ in found):
        cells = [found.get((case, variant, "right, no fact changed")) for case in kinds]
        times = [
            found.get((ALL_MOVES, variant, f"reply time, {part}")) for part in ("median", "p95")
        ]
        rows.append([
            variant, *(f"{cells[0].n}" if cells[0] else "",),
            *(f"{100 * (c.value or 0):.0f} %" if c else "" for c in cells),
            *(f"{c.value:.2g} s" if c else "" for c in times),
        ])  # fmt: skip
    head = ["answers", "exchanges", *kinds, "median time", "p95"]
    return markdown(head, rows) + "\n\n" + "\n\n".join(str(r.verdict) for r in records)


def _said(file: Path, sets: list[str]) -> int:
    """The place of a record's set of wordings; a name without one has the first."""
    last = file.stem.rpartition("-")[2]
    return sets.index(last) if last in sets else 0


def throughput() -> str:
    """Dialogues a minute by variant and batch, a column for each device that was measured."""
    records = [validate_record(p) for p in sorted(RECORDS.glob("throughput-*.json"))]
    if not records:
        return "Not measured yet; `python -m benchmarks.maritime.throughput --help` says how."
    found = {(r.variant, record.device): r for record in records for r in record.find(metric=RATE)}
    devices = [record.device for record in records]
    rows = [
        [variant, *(_rate(found.get((variant, device))) for device in devices)]
        for variant in dict.fromkeys(variant for variant, _ in found)
    ]
    told = [f"{r.device}: {' '.join(r.notes[1:])} {r.verdict}" for r in records]
    return markdown(["dialogues a minute", *devices], rows) + "\n\n" + "\n\n".join(told)


def first_run() -> str:
    """How long the first run of the shipped adapter takes."""
    path = RECORDS / "first-run.json"
    if not path.is_file():
        return "Not measured yet; `python -m benchmarks.maritime.first_run --help` says how."
    record = validate_record(path)
    return f"{record.device}: {' '.join(record.notes[1:])} {record.verdict}"


def _rate(row: Row | None) -> str:
    if row is None:
        return ""
    return row.note or "" if row.value is None else f"{row.value:.3g}"


GENERATORS = {
    "maritime/blind": totals,
    "maritime/before-second": partial(totals, "filter-quality-second-before"),
    "maritime/before-third": partial(totals, "filter-quality-third-before"),
    "maritime/before-fourth": partial(totals, "filter-quality-fourth-before"),
    "maritime/recall": recall,
    "maritime/alarms": alarms,
    "maritime/recall-second": partial(recall, "second"),
    "maritime/alarms-second": partial(alarms, "second"),
    "maritime/recall-third": partial(recall, "third"),
    "maritime/recall-fourth": partial(recall, "fourth"),
    "maritime/live": live,
    "maritime/coast": partial(live, COAST),
    "maritime/throughput": throughput,
    "maritime/first-run": first_run,
    **slots.GENERATORS,
}
