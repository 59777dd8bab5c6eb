"""Tables of records whose cases have figures of different kinds: a table for each case and kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from graftwork_runs import Record, validate_record
from graftwork_runs.tables import figure, markdown, source

RECORDS = Path(__file__).parent / "records"
#: metrics of a variant that could not be measured, or whose repetition is told elsewhere
HIDDEN = ("curve of the repetition",)


def by_case(record: Record) -> str:
    """Every case with the variants that have the same metrics side by side, and where it was measured."""
    parts = []
    for case in dict.fromkeys(row.case for row in record.rows):
        rows = [r for r in record.rows if r.case == case and r.metric not in HIDDEN]
        of_variant: dict[str, dict[str, str]] = {}
        for row in rows:
            of_variant.setdefault(row.variant, {})[row.metric] = figure(row)
        kinds: dict[tuple[str, ...], list[str]] = {}
        for variant, cells in of_variant.items():
            kinds.setdefault(tuple(cells), []).append(variant)
        tables = [
            markdown(["", *metrics], [[v, *of_variant[v].values()] for v in variants])
            for metrics, variants in kinds.items()
        ]
        parts.append("\n\n".join([f"**{case}**", *tables]))
    return "\n\n".join([*parts, " ".join([source(record), *record.notes])]) + "\n"


def table_of(name: str) -> Callable[[], str]:
    """The generator of a record under `records`."""
    return lambda: by_case(validate_record(RECORDS / f"{name}.json"))


GENERATORS = {
    name: table_of(f"{room}/{name}")
    for room, name in [
        ("speed", "fit"), ("speed", "fit-changed"), ("speed", "fit-cpu"), ("speed", "big-7b"),
        ("speed", "big-7b-h200"),
        ("scale", "several-gpus"),
    ]
}  # fmt: skip
GENERATORS |= {
    f"tenants-{name}": table_of(f"tenants/{name}")
    for name in ("isolation", "engine", "engine-second", "parallel")
}
