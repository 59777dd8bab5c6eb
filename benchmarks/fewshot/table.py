"""Write the record of the grid from its job files, and the page from the record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork_runs import Record, validate_record
from graftwork_runs.files import write_atomic
from graftwork_runs.tables import record_table, render

from . import collect, figure, page
from .jobs import FIXED, HEAD_RATES, RATES, Job, Results
from .statistics import RESAMPLES


def build(results: Sequence[dict[str, Any]], tasks: Sequence[str], command: str) -> Record:
    """The record of a folder of results.

    Raises GraftError when there is none.
    """
    if not results:
        raise GraftError("--out: no job file there; run the jobs first")
    grid = collect.cells(results, tasks)
    rows = [
        *collect.grid_rows(grid),
        *collect.compared_rows(grid),
        *collect.search_rows(grid),
        *collect.verdict_rows(results),
    ]
    last = max((r["where"] for r in results), key=lambda w: w["date"])
    devices = sorted({r["where"]["device"] for r in results})
    word, sentence = page.claim_of(rows)
    return Record(
        record="medseg/few-shot",
        claim="SEA-PEFT gains 2.4 to 2.8 Dice points over the best fixed choice at 1, 5 and 10 shots",
        command=command,
        rows=rows,
        seeds=sorted({r["job"]["fold"] for r in results if r["job"]["kind"] == "grid"}),
        seconds=round(sum(r["wall"] for r in results), 1),
        notes=[
            "Value: mean over folds and cases, an organ's mean within a case.",
            f"Bounds: 95 %, {RESAMPLES} resamples of folds and of cases (pigeonhole bootstrap).",
            f"NSD tolerance: {collect.tolerances()}.",
            "Seeds are the folds. Devices: " + ", ".join(devices) + ".",
        ],
        details={
            "rates": trials(results),
            "caps": collect.caps(grid),
            "without a size": list(FIXED),
            "jobs": len(results),
            "steps": steps(results),
            "rates at an edge of their grid": at_edge(results),
        },
        verdict=f"{word}: {sentence}.",
        **{k: v for k, v in last.items() if v is not None},
    )


def trials(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every trial of the sweep: task, arm, rate, and the Dice that decided."""
    return [
        {
            "task": r["job"]["task"],
            "arm": r["job"]["arm"],
            "rate": r["job"]["head_rate" if r["job"]["arm"] == "head" else "rate"],
            "head_rate": r["job"]["head_rate"],
            "dice": round(r["dice"], 5),
        }
        for r in results
        if r["job"]["kind"] == "rate" and r["status"] == "done"
    ]


def at_edge(results: Iterable[dict[str, Any]]) -> list[str]:
    """Arms whose best rate was the smallest or largest that was tried: a wider sweep might find a better one."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for trial in trials(results):
        key = (trial["task"], trial["arm"])
        if key not in best or trial["dice"] > best[key]["dice"]:
            best[key] = trial
    return [
        f"{task}: {arm} at {trial['rate']:g}"
        for (task, arm), trial in best.items()
        if trial["rate"] in (min(RATES.get(arm, HEAD_RATES)), max(RATES.get(arm, HEAD_RATES)))
    ]


def steps(results: Iterable[dict[str, Any]]) -> dict[str, list[int]]:
    """Numbers of training steps that occur, by arm."""
    found: dict[str, set[int]] = {}
    for r in results:
        if r["job"]["kind"] == "grid" and r["status"] == "done":
            found.setdefault(r["job"]["arm"], set()).add(r["steps"])
    return {arm: [min(s), max(s)] for arm, s in found.items()}


def write(
    folder: Path, tasks: Sequence[str], command: str, record: Path = page.RECORD,
    target: Path = page.PAGE,
) -> Record:  # fmt: skip
    """Write record, page and picture of the job files in `folder`.

    Raises GraftError for a damaged file, and when results of different settings are mixed.
    """
    results = Results(folder).all()
    check(results)
    made = build(results, tasks, command)
    made.write(record)
    text = target.read_text(encoding="utf-8") if target.is_file() else page.TEXT
    beside = {name: record.with_name(f"{name.rpartition('/')[2]}.json") for name in page.SECTIONS}
    for name, section in page.SECTIONS.items():
        if beside[name].is_file() and name not in text:
            text += section

    def fill(name: str) -> str:
        if name in page.TABLES:
            return page.TABLES[name](made)
        return record_table(validate_record(beside[name]))

    write_atomic(target, render(target, text, fill))
    figure.draw(made, target.with_suffix(".png"))
    return made


def check(results: Sequence[dict[str, Any]]) -> None:
    """Raise GraftError when trainings of the grid had different numbers of steps: they cannot be compared."""
    found: dict[int, str] = {}
    for r in results:
        job = Job(**r["job"])
        if job.kind == "grid" and r["status"] == "done" and job.arm != "scratch":
            found.setdefault(r["steps"], job.name)
    if len(found) > 1:
        (a, one), (b, other) = list(found.items())[:2]
        raise GraftError(
            f"{one}.json was trained for {a} steps, {other}.json for {b}: keep the files of one setting"
        )
