"""Tables of the speed records for the documentation: a line for each way to train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.speed import arithmetic
from benchmarks.speed.anatomy import OVER
from benchmarks.speed.limits import EAGER
from graftwork_runs import Record, validate_record
from graftwork_runs.tables import markdown, source

RECORDS = Path(__file__).resolve().parents[1] / "records" / "speed"
METRICS = {"step": 1, "ratio to floor": 2, "issue": 1, "peak": 1, "peak over floor": 2}
COLUMNS = ["ms", "over the floor", "issued in ms", "peak GiB", "peak over the floor's"]
#: how many of them a CPU has: its memory is not told, and its wall time says what its neighbours did
OF_A_CPU = 2


def steps(record: Record, case: str) -> str:
    """A case's variants: time of a step, its ratio to the floor with quartiles, host time, memory."""
    rows = []
    shown = OF_A_CPU if record.details.get("device") == "cpu" else len(METRICS)
    for variant in dict.fromkeys(row.variant for row in record.rows if row.case == case):
        cells = []
        for metric, digits in [*METRICS.items()][:shown]:
            found = record.find(case=case, variant=variant, metric=metric)
            value = found[0].value if found else None
            cells.append("–" if value is None else f"{value:.{digits}f}")
            if metric == "ratio to floor" and value is not None and found[0].lo is not None:
                cells[-1] += f" ({found[0].lo:.{digits}f} to {found[0].hi:.{digits}f})"
            if metric == "ratio to floor":
                eager = record.find(case=case, variant=variant, metric=EAGER)
                cells[-1] += f", eager {eager[0].value:.{digits}f}" if eager else ""
        rows.append([variant, *cells])
    return markdown(["trained by", *COLUMNS[:shown]], rows)


def table(record: Record) -> str:
    """Every case of a record, one table each, and where it was measured."""
    cases = dict.fromkeys(row.case for row in record.rows)
    parts = [f"**{case}**\n\n{steps(record, case)}" for case in cases]
    return "\n\n".join([*parts, " ".join([source(record), *record.notes])]) + "\n"


def products() -> str:
    """Microseconds of each form of each product, a column for each layer."""
    record = validate_record(RECORDS / "products.json")
    timed = [row for row in record.rows if row.unit == "us"]
    cases = list(dict.fromkeys(row.case for row in timed))
    rows = []
    for variant in dict.fromkeys(row.variant for row in timed):
        found = {row.case: row.value for row in timed if row.variant == variant}
        cells = ["–" if found.get(c) is None else f"{found[c]:.1f}" for c in cases]
        rows.append([variant, *cells])
    head = [case.partition(":")[0] for case in cases]
    return "\n\n".join([markdown(["us", *head], rows), source(record)]) + "\n"


def conv_forms() -> str:
    """What each form costs on all convolutions of a network, over its frozen layers."""
    record = validate_record(RECORDS / "conv-forms.json")
    found = [row for row in record.rows if row.metric == "ratio to frozen" and ":" not in row.case]
    networks = list(dict.fromkeys(row.case for row in found))
    rows = []
    for form in dict.fromkeys(row.variant for row in found):
        of = {row.case: row.value for row in found if row.variant == form}
        rows.append([form, *(f"{of[n]:.2f}" for n in networks)])
    return (
        "\n\n".join([markdown(["over the frozen layers", *networks], rows), source(record)]) + "\n"
    )


def where_it_goes() -> str:
    """What a step takes above its floor's, by what its operations compute; a column for each row."""
    record = validate_record(RECORDS / "llama-anatomy.json")
    found = [row for row in record.rows if row.metric.startswith(OVER)]
    parts = []
    for case in dict.fromkeys(row.case for row in found):
        told = [row for row in found if row.case == case]
        variants = list(dict.fromkeys(row.variant for row in told))
        rows = []
        for metric in dict.fromkeys(row.metric for row in told):
            of = {row.variant: row.value for row in told if row.metric == metric}
            cells = ["–" if of.get(v) is None else f"{of[v]:+z.1f}" for v in variants]
            if {*cells} - {"–", "+0.0"}:
                rows.append([metric.removeprefix(OVER), *cells])
        parts.append(f"**{case}**\n\n{markdown(['% of the floor', *variants], rows)}")
    return "\n\n".join([*parts, source(record)]) + "\n"


def _table_of(name: str) -> Callable[[], str]:
    return lambda: table(validate_record(RECORDS / f"{name}.json"))


GENERATORS: dict[str, Callable[[], str]] = {
    **{f"speed-{n}": _table_of(n) for n in ("llama", "llama-h200", "llama-cpu", "vision")},
    "speed-products": products,
    "speed-arithmetic": arithmetic.page,
    "speed-conv-forms": conv_forms,
    "speed-anatomy": where_it_goes,
}
