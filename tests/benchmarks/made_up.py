"""Made-up results of jobs, as the benchmark's workers would write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.fewshot.jobs import Job, grid_jobs

WHERE = {
    "commit": None,
    "date": "2026-11-25T10:00:00Z",
    "device": "a device",
    "cores": 1,
    "memory_bytes": 1,
    "versions": {"torch": "2"},
}
CAPS = {0.001: 1000, 0.003: 3000, 0.01: 10_000}
TRAINED = {"head": 18, "bias": 70, "affine": 1700, "spatial1": 160, "spatial3": 3500}
CASES = ("a", "b", "c", "d")
Dice = Callable[[Job, str], float]


def measured(job: Job, dice: Dice, *, steps: int = 200) -> dict[str, Any]:
    """A finished training whose two organs have the Dice that is given, plus and minus 0.1."""
    scores = {
        case: {
            organ: {"dice": dice(job, case) + sign, "hd95": 2.0, "nsd": 0.5, "empty": ""}
            for organ, sign in (("anterior", 0.1), ("posterior", -0.1))
        }
        for case in CASES
    }
    cap = None if job.budget is None else CAPS[job.budget]
    result: dict[str, Any] = {
        "status": "done",
        "trained": TRAINED.get(job.arm, 10**6 if cap is None else cap - 10),
        "cap": cap,
        "dice": sum(dice(job, c) for c in CASES) / len(CASES),
        "soft": {"audit": 0.7, "test": 0.6, "n": 4},
        "steps": steps,
        "seconds": {"train": 2.0, "test": 1.0},
        "losses": [1.0],
        "facts": {},
        "scores": scores,
        "wall": 4.0,
        "where": WHERE,
    }
    if job.arm == "sea-peft":
        result["seconds"] |= {"search": 6.0, "audits": 4.0, "training": 2.0}
        result["facts"] = {
            "units": ["u=lora-r1", "v=affine"],
            "search": {
                "units": 100, "budget": 900, "cost": 800, "binds": True, "foreseen": 0.5, "score": 0.8,
                "share_in_audits": 0.6,
            },
        }  # fmt: skip
    return result


def refused(why: str = "trains too much") -> dict[str, Any]:
    """An arm that does not fit."""
    return {"status": "does not fit", "why": why, "wall": 0.1, "where": WHERE}


def verdict(job: Job, said: str, true: str, gap: float, known: bool = True) -> dict[str, Any]:
    """A finished verdict."""
    return {
        "status": "done", "said": {"word": said}, "true": {"word": true, "difference": gap},
        "known": known, "wall": 9.0, "where": WHERE,
    }  # fmt: skip


def a_grid(dice: Dice, skip: Callable[[Job], bool] = lambda job: False) -> list[dict[str, Any]]:
    """Hippocampus' whole grid as it is read back, apart from the jobs to `skip`; LoRA and AdaptFormer never fit."""
    out = []
    for job in grid_jobs("hippocampus"):
        if not skip(job):
            job = replace(job, rate=1e-3, head_rate=3e-2)
            fits = job.arm not in ("lora", "adaptformer") or job.budget is None
            out.append(read(measured(job, dice) if fits else refused(), job))
    return out


def save(folder: Path, results: Iterable[dict[str, Any]]) -> None:
    """Job files of results, without waiting for the disk as `Results.write` does."""
    folder.mkdir(exist_ok=True)
    for result in results:
        name = Job(**result["job"]).name
        (folder / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")


def read(result: dict[str, Any], job: Job) -> dict[str, Any]:
    """A result as it is read back."""
    return {"job": asdict(job), **result}
