"""Throughput, memory and the trained adapter on several GPUs, against one.

    python -m benchmarks.scale
    python -m benchmarks.scale --tiny --device cpu

Every row is a group of processes of its own: one GPU, DDP, and FSDP2 (`graftwork.shard_base` under DDP). Each GPU
takes the batch that the one takes, so twice the throughput is what two can give. The adapter is compared after training
in float32 on one global batch. What is finished lies in `--work` and is not measured again; a row that fails is
recorded with its error. `--tiny` rehearses on gloo; such figures mean nothing and are written only where `--out` says.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.commands import command_of
from benchmarks.rows import figure
from benchmarks.scale.worker import ADAPTER
from benchmarks.timing import median_row
from graftwork_runs import Record, Row, environment

OUT = Path(__file__).parents[1] / "records" / "scale" / "several-gpus.json"
CLAIM = "Several GPUs train one GPU's adapter; two are 1.8 times as fast under DDP, 1.5 times over a sharded base."
#: least throughput over one GPU, per further GPU, and the largest difference of the adapters, over their largest change
LIMITS = {"ddp": 0.8, "fsdp2": 0.5}
APART = 1e-3
TITLES = {"one": "one GPU", "ddp": "DDP", "fsdp2": "FSDP2"}


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--gpus", type=int, default=2, help="GPUs of the rows with several")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4, help="sequences a GPU")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--burst", type=int, default=5, help="steps a figure")
    parser.add_argument("--tiny", action="store_true", help="rehearse every row in small")
    parser.add_argument("--limit", type=float, default=180, help="seconds a row may take")
    parser.add_argument("--work", type=Path, default=Path("scale-rows"))
    parser.add_argument("--out", type=Path, help="the record's file")
    options = parser.parse_args(given)
    there = torch.cuda.device_count() if options.device == "cuda" else options.gpus
    if options.gpus < 2 or there < options.gpus:
        print(
            f"nothing measured: {there} GPU(s) here, {options.gpus} asked for, at least 2 are needed"
        )
        return 0
    begun = time.perf_counter()
    options.work.mkdir(parents=True, exist_ok=True)
    found = {mode: measure(mode, options) for mode in TITLES}
    record = recorded(found, options, given, time.perf_counter() - begun)
    for row in record.rows:
        value = row.note if row.value is None else f"{row.value} {row.unit or ''}"
        print(f"{row.case}: {row.variant}: {row.metric} {value}", flush=True)
    print(record.verdict)
    out = options.out or (None if options.tiny else OUT)
    if out is not None:
        print(record.write(out))
    return 0


def settings_of(mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a row's processes are told."""
    count = 1 if mode == "one" else options.gpus
    sizes = {name: getattr(options, name) for name in ("layers", "hidden", "batch", "tokens")}
    equal = {"layers": 4, "hidden": 1024, "batch": 2 * options.gpus, "tokens": 512, "rate": 50.0}
    if options.tiny:
        sizes = {"layers": 2, "hidden": 64, "batch": 2, "tokens": 16}
        equal |= {"layers": 2, "hidden": 64, "tokens": 16}
    return {
        "name": f"{mode}-{count}",
        "mode": mode,
        "count": count,
        "device": options.device,
        "sizes": {**sizes, "vocabulary": 128 if options.tiny else 32000},
        "equality": {**equal, "steps": 5, "vocabulary": 128},
        "warmup": 1 if options.tiny else 5,
        "rounds": options.rounds,
        "burst": options.burst,
    }


def measure(mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row's result, from an earlier run where it is there; `{"error": ...}` where it fails."""
    settings = settings_of(mode, options)
    file = options.work / f"{settings['name']}.json"
    result = file.with_suffix(".result.json")
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        if found["settings"] == settings:
            print(f"{settings['name']}: measured before", flush=True)
            return found
        result.unlink()
    file.write_text(json.dumps(settings))
    print(f"{settings['name']}: started", flush=True)
    error = launch(file, settings["count"], options.limit)
    if error is None and not result.exists():
        error = "the first process wrote nothing"
    if error is not None:
        print(f"{settings['name']}: {error}", flush=True)
        return {"settings": settings, "error": error}
    measured: dict[str, Any] = json.loads(result.read_text())
    return measured


def launch(
    file: Path, count: int, limit: float, worker: str = "benchmarks.scale.worker"
) -> str | None:
    """Run a row's processes to their end; why they failed, or `None`.

    Args:
        file: the row's settings.
        count: how many processes.
        limit: seconds that they may take.
        worker: the module that each runs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    logs = [file.with_suffix(f".{rank}.log") for rank in range(count)]
    for rank, log in enumerate(logs):
        env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with log.open("wb") as errors:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", worker, str(file)],
                    env=env,
                    stderr=errors,
                )
            )
    ends = time.monotonic() + limit
    try:
        while time.monotonic() < ends:
            codes = [p.poll() for p in running]
            if all(code == 0 for code in codes):
                return None
            for rank, code in enumerate(codes):
                if code:
                    last = [
                        line for line in logs[rank].read_text(errors="replace").splitlines() if line
                    ]
                    return f"process {rank} ended with {code}: {(last or ['no message'])[-1]}"[:300]
            time.sleep(0.2)
        return f"not finished after {limit:g} s"
    finally:
        for p in running:
            if p.poll() is None:
                p.send_signal(signal.SIGKILL)
            p.wait()


def recorded(
    found: dict[str, dict[str, Any]],
    options: argparse.Namespace,
    argv: Sequence[str],
    seconds: float,
) -> Record:
    """The record of all rows."""
    rows: list[Row] = []
    failures: list[str] = []
    for mode, row in found.items():
        count = row["settings"]["count"]
        title = TITLES[mode] + (f", {count}" if count > 1 else "")
        if "error" in row:
            failures.append(f"{title}: {row['error']}")
            rows.append(figure("training", title, "step", None, "ms", note=row["error"]))
            continue
        rows += _speed_rows(row, found["one"], title, count)
        rows += _equality_rows(row, found["one"], title, options.work)
    missed = failures + misses(rows)
    verdict = "seen" if not missed else "partly" if len(missed) < 3 else "not seen at this scale"
    if options.device == "cpu" or options.tiny:
        verdict, missed = "not testable here", ["a rehearsal on small sizes"]
    return Record(
        record="scale/several-gpus",
        claim=CLAIM,
        command=command_of("benchmarks.scale", argv, ("--out", "--work")),
        seeds=[0],
        seconds=round(seconds, 1),
        rows=rows,
        notes=[
            "Bounds are quartiles over the rounds of one run. Every GPU takes the batch that the one takes.",
            "peak: the largest of the GPUs'. save: bytes of the adapter file, which one process writes alone.",
            "difference: the adapters' largest after training in float32 on one global batch, over the largest change.",
        ],
        details={"settings": {mode: row["settings"] for mode, row in found.items()}},
        verdict=f"{verdict}: {'; '.join(missed)}" if missed else verdict,
        **environment(options.device),
    )


def _speed_rows(row: dict[str, Any], one: dict[str, Any], title: str, count: int) -> list[Row]:
    speed, sizes = row["speed"], row["settings"]["sizes"]
    case = f"training: {sizes['layers']} layers of {sizes['hidden']}, {sizes['batch']} x {sizes['tokens']} tokens a GPU"
    made = [median_row(case, title, "step", [1000 * s for s in speed["seconds"]], "ms")]
    rate = count * sizes["batch"] * sizes["tokens"] / statistics.median(speed["seconds"])
    made.append(figure(case, title, "throughput", round(rate), "tokens/s"))
    if count > 1 and "speed" in one:
        alone = statistics.median(one["speed"]["seconds"])
        times = count * alone / statistics.median(speed["seconds"])
        made.append(figure(case, title, "over one GPU", round(times, 3)))
    if speed["peak"]:
        made.append(figure(case, title, "peak", round(speed["peak"] / 2**30, 3), "GiB"))
    made.append(figure(case, title, "save", speed["bytes"], "bytes"))
    made.append(figure(case, title, "base", speed["base"], "bytes"))
    return made


def _equality_rows(row: dict[str, Any], one: dict[str, Any], title: str, work: Path) -> list[Row]:
    sizes, case = row["settings"]["equality"], "adapter"
    made = [figure(case, title, "change by training", float(f"{row['equality']['moved']:.4g}"))]
    if row["settings"]["count"] == 1:
        return made
    same = float(row["equality"]["agree"])
    made.append(
        figure(case, title, "bit-equal in all processes", same, note=f"{sizes['steps']} steps")
    )
    if "error" in one:
        made.append(figure(case, title, "difference", None, note=f"one GPU: {one['error']}"))
        return made
    a, b = (load_file(work / r["settings"]["name"] / "equality" / ADAPTER) for r in (one, row))
    apart = max(float((a[k] - b[k]).abs().max()) for k in a) / one["equality"]["moved"]
    made.append(figure(case, title, "difference", float(f"{apart:.3g}")))
    return made


def misses(rows: Sequence[Row]) -> list[str]:
    """What of the claim does not hold."""
    out = []
    for row in rows:
        mode = next(m for m, title in TITLES.items() if row.variant.startswith(title))
        if row.metric == "over one GPU" and row.value is not None:
            count = int(row.variant.rpartition(", ")[2])
            least = 1 + LIMITS[mode] * (count - 1)
            if row.value < least:
                out.append(f"{row.variant}: {row.value} times the throughput (limit {least:g})")
        if row.metric == "difference" and (row.value is None or row.value > APART):
            out.append(f"{row.variant}: difference {row.value} (limit {APART:g})")
        if row.metric == "bit-equal in all processes" and not row.value:
            out.append(f"{row.variant}: the processes hold different adapters")
    return out


if __name__ == "__main__":
    sys.exit(main())
