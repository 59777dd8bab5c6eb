"""Tables of the record of quantised bases: what a step costs on each form, and what a merge into it loses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.quantised.judging import BYTES
from benchmarks.quantised.merges import NETWORK, OF_CHANGE, OUTPUT, REFUSED, RESTORED
from graftwork_runs import Record, Row, validate_record
from graftwork_runs.tables import markdown, number, source

RECORD = Path(__file__).resolve().parents[1] / "records" / "scale" / "quantised.json"
UNMEASURED = "Not measured yet on a card: `python -m benchmarks.quantised`.\n"
STEPS = ["linear layers", "trained by", "ms", "over its floor", "peak GiB", "linear layers' GB"]
MERGES = [
    "linear layers",
    "change over weight",
    "merged by",
    "weight",
    "layer's output",
    "network's output",
    "restored by unmerge",
]


def table(record: Record) -> str:
    """Steps, then merges: the errors are over the change's own size, median over the layers and the worst."""
    steps: list[list[str]] = []
    merges: dict[
        tuple[str, ...], list[str]
    ] = {}  # what stands beside the sizes of change -> those sizes
    for case in dict.fromkeys(row.case for row in record.rows):
        kind, _, rest = case.partition(", ")
        form, _, about = rest.rpartition(": ")
        for variant in dict.fromkeys(row.variant for row in record.rows if row.case == case):
            rows = record.find(case=case, variant=variant)
            if kind == "step":
                steps.append([form, variant, *_step(rows)])
            else:
                merges.setdefault((form, variant, *_merge(rows)), []).append(about.split()[3])
    lines = [[form, ", ".join(sizes), *cells] for (form, *cells), sizes in merges.items()]
    errors = "**Errors of a merge, over the change: median over the layers (worst)**"
    parts = [markdown(STEPS, steps), errors, markdown(MERGES, lines)]
    return "\n\n".join([*parts, " ".join([source(record), *record.notes])]) + "\n"


def _step(rows: Sequence[Row]) -> list[str]:
    of = {row.metric: row for row in rows}
    if of["step"].value is None:
        return [of["step"].note or "–", "–", "–", "–"]
    ratio = of.get("ratio to floor")
    return [
        f"{of['step'].value:.1f}",
        "–" if ratio is None else f"{ratio.value:.2f} ({ratio.lo:.2f} to {ratio.hi:.2f})",
        f"{of['peak'].value:.1f}" if "peak" in of else "–",
        f"{(of[BYTES].value or 0) / 1e9:.2f}" if BYTES in of else "–",
    ]


def _merge(rows: Sequence[Row]) -> list[str]:
    of = {row.metric: row for row in rows}
    if REFUSED in of:
        return ["refused" if of[REFUSED].value else "**not refused**", "–", "–", "–"]
    if of[OF_CHANGE].value is None:
        return [of[OF_CHANGE].note or "–", "–", "–", "–"]
    worst = [
        f"{number(of[m].value or 0)} ({number(of[f'{m}, worst'].value or 0)})"
        for m in (OF_CHANGE, OUTPUT)
    ]
    back = of[RESTORED]
    return [*worst, number(of[NETWORK].value or 0), f"{number(back.value or 0)} {back.unit}"]


def generate() -> str:
    """The table, or that there is none yet."""
    return table(validate_record(RECORD)) if RECORD.is_file() else UNMEASURED


GENERATORS = {"quantised": generate}
