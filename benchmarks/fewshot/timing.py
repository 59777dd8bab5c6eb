"""Time of a training, side by side: the frozen floor, LoRA, a chosen set of units, full fine-tuning, in one process.

    python -m benchmarks.fewshot timing --data FOLDER --steps 50 --rounds 5 --device cuda

Every variant trains its own copy of the base on the same patches by the grid's loop. Variants take turns in a shuffled
order, the device is waited for, and a figure is the median over rounds with quartiles. The floor is the frozen
network's forward pass with the backward pass to its input, which no adapter can avoid.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import median_row
from graftwork_medseg.losses import dice_ce
from graftwork_runs import Record, environment

from . import arms
from .jobs import Job
from .training import fit, now, optimizer_of
from .work import Bench, Setting

RECORD = Path(__file__).resolve().parents[1] / "records" / "medseg" / "few-shot-seconds.json"
SHOTS, BUDGET, RATE = 5, 0.01, 1e-3


def variants(bench: Bench, task: str) -> dict[str, Callable[[int], float]]:
    """For each variant a function that trains so many steps and says its seconds."""
    job = Job("grid", task, bench.site(task).task.novel, SHOTS, 0, "lora", BUDGET)
    episode = bench.site(task).episode(job.k, job.fold, job.organs)
    organs = bench.organs(task, job.organs)
    new = bench.base(task).new_rows(organs.classes)
    patches = bench.patches(job, organs, episode.train)

    def training(ready: arms.Ready) -> Callable[[int], float]:
        optimizer = optimizer_of([(ready.body, RATE), (ready.head, RATE)], bench.device)

        def run(steps: int) -> float:
            return fit(
                ready.network, patches, optimizer, bench.device, steps=steps, known=organs.known
            ).seconds

        return run

    def made(arm: str, budget: float | None) -> arms.Ready:
        network = bench.copy_of(task)
        cap = arms.cap_of(network, budget)
        return arms.prepare(arm, network, new=new, cap=cap, seed=0, size=(16, 16, 16))

    frozen = bench.copy_of(task).requires_grad_(False)

    def floor(steps: int) -> float:
        kind = bench.device.split(":")[0]
        begun = now(bench.device)
        for step in range(steps):
            x, y = patches.batch(step)
            x.requires_grad_(True)
            with torch.autocast(kind, torch.bfloat16, enabled=bench.device != "cpu"):
                scores = frozen(x)
            dice_ce(scores, y.clamp(max=scores.shape[1] - 1)).backward()
        return now(bench.device) - begun

    return {
        "frozen floor": floor,
        "LoRA everywhere, rank 1": training(made("lora", None)),
        "LoRA, last layers, 1 %": training(made("lora-last", BUDGET)),
        "a set of units, 1 %": training(made("random", BUDGET)),
        "full fine-tuning": training(made("full", None)),
    }


def measure(bench: Bench, task: str, steps: int, rounds: int) -> list[Any]:
    """Rows of one task: seconds of `steps` steps, and each variant's ratio to full fine-tuning in its round."""
    ready = variants(bench, task)
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    shuffle, order = random.Random(0).shuffle, list(ready)
    for turn in range(rounds + 1):
        shuffle(order)
        for name in order:
            spent = ready[name](steps)
            if turn:  # the first round tunes kernels
                seconds[name].append(spent)
    rows = []
    for name, values in seconds.items():
        rows.append(median_row(task, name, f"{steps} steps", values, "s"))
        pairs = zip(values, seconds["full fine-tuning"], strict=True)
        rows.append(median_row(task, name, "ratio to full", [a / b for a, b in pairs]))
    return rows


def write(setting: Setting, tasks: tuple[str, ...], steps: int, rounds: int, out: Path) -> Record:
    """Measure and write the record."""
    bench = Bench(setting)
    rows = [row for task in tasks for row in measure(bench, task, steps, rounds)]
    ratios = {
        r.case: r.value
        for r in rows
        if r.metric == "ratio to full" and r.variant.startswith("a set")
    }
    fast = [task for task, ratio in ratios.items() if ratio is not None and ratio < 1]
    word = "seen" if len(fast) == len(ratios) else "partly" if fast else "not seen at this scale"
    said = ", ".join(
        f"{ratio:.2f} of full fine-tuning's time on {t}" for t, ratio in ratios.items()
    )
    record = Record(
        record="medseg/few-shot-seconds",
        claim="A training step of a chosen set of units takes less time than one of full fine-tuning.",
        command=f"python -m benchmarks.fewshot timing --data FOLDER --steps {steps} --rounds {rounds} "
        f"--device {setting.device}",
        seeds=[0],
        rows=rows,
        notes=[
            "Wall time, the device waited for. Bounds are quartiles over rounds; ratios are within a round."
        ],
        verdict=f"{word}: {said}.",
        **environment(setting.device),
    )
    record.write(out)
    return record
