"""`medseg adapt` as a user types it, on a CPU and on a GPU: the same command, the seconds, the Dice on test cases.

    python -m benchmarks.fewshot devices --data FOLDER --out RUNS --device cpu --fold 0
    python -m benchmarks.fewshot devices --data FOLDER --out RUNS --device gpu --fold 0
    python -m benchmarks.fewshot devices --out RUNS         # the record of all runs in RUNS

The site is 12 hippocampus cases of the pool, of which 5 train and one audits; 40 test cases are kept out. A run is one
file in RUNS, with the run folders beside it. A file with `"set": "gpu"` is of a CPU run that was given the config.yaml
and search.json of a GPU run and went on with `medseg adapt --resume`: the same sites, trained elsewhere.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork_medseg.fewshot.protocol import TASKS
from graftwork_medseg.files import publish
from graftwork_runs import Record, Row, environment, validate_record

RECORD = Path(__file__).resolve().parents[1] / "records" / "medseg" / "few-shot-devices.json"
TASK, POOL, TESTS, LIMIT = "hippocampus", 12, 40, 0.02
DEVICES = {"cpu": "CPU", "gpu": "GPU"}


def site(data: Path, target: Path) -> Path:
    """Write the site's folder: training cases and a labelled test list.

    Raises GraftError when the set is not there.
    """
    source = data / TASK
    split = TASKS[TASK].split(source)
    head = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    entries = {Path(e["image"]).name.split(".")[0]: e for e in head["training"]}
    groups = {"training": split["pool"][:POOL], "test": split["test"][:TESTS]}
    for name in (n for names in groups.values() for n in names):
        for file in (entries[name]["image"], entries[name]["label"]):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, target / file)
    listed = {key: [entries[n] for n in names] for key, names in groups.items()}
    counts = {"numTraining": len(listed["training"]), "numTest": len(listed["test"])}
    text = json.dumps({**head, **listed, **counts}, indent=1)
    (target / "dataset.json").write_text(text, encoding="utf-8")
    return target


def measure(data: Path, out: Path, device: str, fold: int, more: Iterable[str] = ()) -> Path:
    """Run adapt and test once; returns the run's file.

    Args:
        data: folder of the prepared sets.
        out: folder of the runs.
        device: a key of `DEVICES`.
        fold: of adapt's draw.
        more: further options of adapt.

    Raises GraftError when a command fails.
    """
    judged = "--judge" not in more
    run, base = out / f"{device}-f{fold}{'-judged' if judged else ''}", "synth-hippocampus"
    cases = site(data, out / "site") if not (out / "site").exists() else out / "site"
    where = ["--base", base, "--data", str(cases), "--trainer.accelerator", device]
    wanted = ["--organ", ",".join(TASKS[TASK].organs), "--shots", "5", "--budget", "1%"]
    begun = time.monotonic()
    _medseg("adapt", *where, *wanted, "--fold", str(fold), "--run_dir", str(run), *more)
    seconds = time.monotonic() - begun
    tested = run.with_name(f"{run.name}-test")
    _medseg("test", *where, "--adapter", str(run / "graft"), "--run_dir", str(tested))
    record = validate_record(tested / "record.json")
    found = {m: record.find(case="mean", metric=m)[0].value for m in ("dice", "nsd")}
    kept = environment("cuda" if device == "gpu" else "cpu")
    text = json.dumps({"device": device, "fold": fold, **found, "adapt_seconds": round(seconds, 1),
                       "judged": judged, "where": kept}, indent=1)  # fmt: skip
    file = out / f"devices-{run.name}.json"
    with publish(file) as part:
        part.write_text(text + "\n", encoding="utf-8")
    return file


def _medseg(*arguments: str) -> None:
    command = [sys.executable, "-m", "graftwork_medseg.app", *arguments]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise GraftError(f"medseg {arguments[0]} ended with {done.returncode}, see above")


def _case(run: dict[str, Any]) -> str:
    chosen = ", the GPU's set trained on the CPU" if run.get("set") == "gpu" else ""
    return f"fold {run['fold']}" + (", with the verdict" if run["judged"] else "") + chosen


def collect(out: Path, target: Path = RECORD) -> Record:
    """The record of every run in a folder.

    Raises GraftError when there is no fold with both devices.
    """
    runs = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob("devices-*.json"))]
    dice = {(r["device"], _case(r)): r["dice"] for r in runs}
    pairs = sorted({c for d, c in dice if d == "cpu"} & {c for d, c in dice if d == "gpu"})
    if not pairs:
        raise GraftError(f"{out}: nothing was run on both devices; give --device and --fold")
    rows = []
    for r in runs:
        where = {"case": _case(r), "variant": DEVICES[r["device"]]}
        rows += [Row(**where, metric=m, value=r[m.lower()], n=TESTS) for m in ("Dice", "NSD")]
        if r["adapt_seconds"] is not None:
            rows.append(Row(**where, metric="adapt", value=r["adapt_seconds"], unit="s"))
    gaps = [round(dice["cpu", c] - dice["gpu", c], 4) for c in pairs]
    mean, near = statistics.mean(gaps), sum(abs(g) <= LIMIT for g in gaps)
    bounds = {"lo": min(gaps), "hi": max(gaps), "n": len(pairs)}
    both = {"case": "all runs on both", "variant": "CPU minus GPU", "metric": "Dice"}
    rows.append(Row(**both, value=round(mean, 4), **bounds))
    word = "not seen at this scale" if abs(mean) > LIMIT else "partly"
    word = "seen" if near == len(pairs) else word
    last = max(runs, key=lambda r: r["where"]["date"])["where"]
    record = Record(
        record="medseg/few-shot-devices",
        claim=f"medseg adapt reaches the same Dice on a CPU as on a GPU, within {LIMIT}.",
        command="python -m benchmarks.fewshot devices --data FOLDER --out RUNS --device cpu --fold 0",
        seeds=sorted({r["fold"] for r in runs}),
        rows=rows,
        notes=[
            "A figure is a mean over test cases and organs; the difference lies between its least and largest pair.",
            f"Devices: {', '.join(sorted({r['where']['device'] for r in runs}))}.",
        ],
        verdict=f"{word}: {mean:+.3f} on average over {len(pairs)} pairs of runs, within {LIMIT} in {near} of them.",
        **last,
    )  # fmt: skip
    record.write(target)
    return record
