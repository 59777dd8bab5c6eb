"""The small experiment's table for the documentation: one line for each way to run some tasks."""

from __future__ import annotations

from benchmarks.tenants.small import FASTER, OFF, OVER, TARGET, TOLD
from graftwork_runs import Record, validate_record
from graftwork_runs.tables import figure, markdown, source

COLUMNS = {
    "real tokens": "real tokens",
    "memory": "memory",
    "waste": "waste",
    "step": "step of every task",
    TOLD: "round, predicted",
    OFF: "predicted over measured, less 1",
    FASTER: "over the best simple plan",
    OVER: "memory over the cap",
}


def table(record: Record) -> str:
    """Every case and variant, the errors of the cost model, and where it was measured."""
    found = {(r.case, r.variant, r.metric): r for r in record.rows}
    lines = []
    for case, variant in dict.fromkeys((r.case, r.variant) for r in record.rows):
        if (case, variant, "step") in found:
            cells = [found.get((case, variant, metric)) for metric in COLUMNS]
            lines.append([case, variant, *("–" if c is None else figure(c) for c in cells)])
    errors = [
        [r.variant, r.metric, figure(r)] for r in record.rows if r.case == "cost model" and r.value
    ]
    parts = [
        markdown(["tasks", "run", *COLUMNS.values()], lines),
        markdown(["the cost model on", "metric", "mean error"], errors),
        f"{source(record)} Notes: {'; '.join(record.notes)}.",
    ]
    return "\n\n".join(parts) + "\n"


GENERATORS = {
    "tenants-small": lambda: table(validate_record(TARGET)),
    "tenants-unequal": lambda: table(validate_record(TARGET.with_name("unequal.json"))),
}
