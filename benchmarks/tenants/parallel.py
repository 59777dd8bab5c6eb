"""Tenants on several GPUs against one: tokens per second, and the adapters that one GPU would have trained.

Every row is a group of processes of its own. Each GPU has the rows of every task that the one has, so twice the tokens
per second is what two can give. The adapters are compared after training in float32 on the same whole batches. A row
that fails says why, and the other is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.merging import merged
from benchmarks.rows import figure
from benchmarks.scale.__main__ import launch
from benchmarks.timing import median_row
from graftwork_runs import Record, Row, environment, validate_record

WORKER = "benchmarks.tenants.parallel_worker"
CLAIM = "Two GPUs train the tenants that one trains, with at least 1.8 times its tokens per second."
#: of the throughput that as many GPUs can give at most, and the adapters' difference over their largest change
LEAST, APART = 0.9, 1e-4
NOTES = [
    "LoRA of rank 16 on all seven linears of a block, one fused AdamW step of every task, as in the record of one GPU.",
    "Every GPU has one row of each task, so a task's batch has as many rows as there are GPUs.",
    "difference: the adapters' largest after training in float32 on the same whole batches, over the largest change.",
]


def run(options: argparse.Namespace, command: str, out: Path | None) -> int:
    """Measure what is missing in the record at `out`, and print it."""
    cuda = options.device == "cuda"
    there = torch.cuda.device_count() if cuda else options.gpus if options.tiny else 0
    if options.gpus < 2 or there < options.gpus:
        print(
            f"parallel: nothing measured: {there} GPU(s) here, {options.gpus} asked for, at least 2 are needed"
        )
        return 0
    begun = time.monotonic()
    found = [] if out is None or not out.exists() else list(validate_record(out).rows)
    had = {r.variant for r in found if r.value is not None}
    if not options.again and {title(1), title(options.gpus)} <= had:
        print("parallel: measured before", flush=True)
        return 0
    judged = rehearsed if options.tiny or not cuda else judge
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        for count in (1, options.gpus):
            print(f"parallel: {title(count)}: started", flush=True)
            now = measure(count, options, Path(place))
            rows += now
            for r in now:
                print(f"parallel: {r.variant}: {r.metric} {r.note if r.value is None else r.value}")
            if out is not None:
                seconds = time.monotonic() - begun
                record = made(rows, options, command, seconds, judged(rows))
                merged(record, out, judged).write(out)
    print(judged(rows), flush=True)
    return 0


def title(count: int) -> str:
    """A row's name."""
    return "one GPU" if count == 1 else f"{count} GPUs"


def measure(count: int, options: argparse.Namespace, place: Path) -> list[Row]:
    """One row's figures, or why there are none."""
    sizes = {k: getattr(options, k) for k in ("layers", "hidden", "tokens", "vocabulary")}
    equal = {"layers": 4, "hidden": 1024, "tokens": 256, "vocabulary": 128}
    settings = {
        "count": count,
        "device": options.device,
        "dtype": options.dtype,
        "tasks": options.extra,
        "sizes": sizes,
        "rounds": options.rounds,
        "burst": 1 if options.tiny else 5,
        "warm": 1 if options.tiny else 5,
        "equality": {**(sizes if options.tiny else equal), "rows": options.gpus, "steps": 5},
    }
    file = place / f"{count}.json"
    file.write_text(json.dumps(settings))
    error = launch(file, count, options.limit, WORKER)
    result = place / f"{count}.result.json"
    case = f"training: {options.extra} tasks of 1 x {options.tokens} a GPU"
    if error is not None or not result.exists():
        return [figure(case, title(count), "step", None, "ms", note=error or "no result")]
    return rows_of(case, count, json.loads(result.read_text()), place, options)


def rows_of(
    case: str, count: int, found: dict[str, Any], place: Path, options: argparse.Namespace
) -> list[Row]:
    """What a row's processes measured."""
    name = title(count)
    rows = [median_row(case, name, "step", [1000 * s for s in found["seconds"]], "ms")]
    rate = count * options.extra * options.tokens / statistics.median(found["seconds"])
    rows.append(figure(case, name, "tokens per second", float(f"{rate:.5g}")))
    if found["peak"]:
        rows.append(figure(case, name, "peak", round(found["peak"] / 2**30, 3), "GiB"))
    moved = float(f"{found['moved']:.4g}")
    rows.append(figure("adapters", name, "change by training", moved))
    if count > 1:
        same = float(found["agree"])
        rows.append(figure("adapters", name, "bit-equal in all processes", same))
        rows.append(_difference(name, place, count, found["moved"]))
    return rows


def _difference(name: str, place: Path, count: int, moved: float) -> Row:
    if not (place / "1.pt").exists():
        return figure("adapters", name, "difference", None, note="one GPU failed")
    a, b = (torch.load(place / f"{n}.pt", weights_only=True) for n in (1, count))
    apart = max(float((a[k] - b[k]).abs().max()) for k in a) / moved
    return figure("adapters", name, "difference", float(f"{apart:.3g}"))


def made(
    rows: Sequence[Row], options: argparse.Namespace, command: str, seconds: float, verdict: str
) -> Record:
    """A record of some rows."""
    return Record(
        record="tenants/parallel",
        claim=CLAIM,
        command=command,
        rows=list(rows),
        seeds=[0],
        seconds=round(seconds, 1),
        notes=NOTES,
        verdict=verdict,
        **environment(options.device),
    )


def rehearsed(rows: Sequence[Row]) -> str:
    """The verdict of small sizes."""
    return "not testable here: a rehearsal on small sizes."


def judge(rows: Sequence[Row]) -> str:
    """Whether the claim holds."""
    value = {(r.variant, r.metric): r.value for r in rows}
    several = {
        int(r.variant.split()[0])
        for r in rows
        if r.variant.endswith("GPUs") and r.value is not None
    }
    one = value.get(("one GPU", "tokens per second"))
    if not several or one is None:
        return "not testable here: one GPU and several must have been measured."
    said, held, known = [], 0, 0
    for count in sorted(several):
        name = title(count)
        times = (value.get((name, "tokens per second")) or 0.0) / one
        limits = [
            (f"{times:.3g} times the tokens per second", times >= LEAST * count),
            *(
                (f"{metric} {found:.3g}", good(found))
                for metric, good in (
                    ("difference", lambda x: x <= APART),
                    ("bit-equal in all processes", bool),
                )
                if (found := value.get((name, metric))) is not None
            ),
        ]
        known += 3
        held += sum(ok for _, ok in limits)
        said.append(f"{name}: {', '.join(text for text, _ in limits)}")
    word = "seen" if held == known else "partly" if held else "not seen at this scale"
    listed = "; ".join(said)
    return (
        f"{word}: {held} of {known} limits hold: {listed} (limits: {LEAST:g} times the number of GPUs, difference "
        f"{APART:g})."
    )
