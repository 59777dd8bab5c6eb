"""Does LoFT's result depend less on the rank than LoRA's, at the rate that is full fine-tuning's best?

    python -m benchmarks.methods.loft_ranks

The task is that of `encoder.py` with 500 examples, ranks 1, 4 and 16 on all linear layers of the blocks, scale 1. Only
full fine-tuning has its rate swept; LoRA under AdamW and LoFT take that rate as it is, since LoFT is to take the steps
of AdamW on the full weight.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Sequence

import torch

import graftwork as gw
from benchmarks.methods import digits, encoder
from benchmarks.methods.digits import ERROR, Optimize
from benchmarks.methods.encoder import BATCH, FULL, MANY
from benchmarks.methods.harness import (
    BOUNDS,
    RATE,
    Experiment,
    Figures,
    Trial,
    only,
    run_arms,
    told,
    versus,
)
from graftwork_runs import Row

RANKS = (1, 4, 16)
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SITES = ["*.q", "*.k", "*.v", "*.o", "*.fc1", "*.fc2"]
LOFT, LORA = "LoFT", "LoRA, AdamW"
SPREAD = "test error, largest less smallest over ranks, %"
AWAY = "test error, mean distance from full fine-tuning's over ranks, %"
BEYOND = "less LoRA's"


def loft(graft: gw.Graft, rate: float) -> torch.optim.Optimizer:
    return gw.LoFT(graft, lr=rate, weight_decay=0.0)


OPTIMIZERS: dict[str, Optimize] = {LOFT: loft, LORA: digits.adamw}


def name_of(kind: str, rank: int) -> str:
    """An arm's name."""
    return f"{kind}, rank {rank}"


def trial(kind: str, rank: int, steps: int) -> Trial:
    """LoRA of a rank at scale 1, under one of the optimizers; the classifier trains beside it."""
    make = encoder.on(gw.LoRA(rank, alpha=rank), *SITES)

    @functools.cache
    def run(seed: int, rate: float) -> Figures:
        where = encoder.task(seed)
        graft = make(copy.deepcopy(where.base), seed)
        optimizer = OPTIMIZERS[kind](graft, rate)
        return digits.adapt(graft, where, optimizer, steps, seed, BATCH)

    return run


def measure(seeds: Sequence[int], options: argparse.Namespace) -> list[Row]:
    whole = encoder.arm(encoder.everything, encoder.CASES[MANY], options.steps)
    rows, found = run_arms(MANY, {FULL: whole}, RATES, seeds, ERROR)
    rate = float(only(rows, MANY, FULL, RATE).value or 0)
    arms = {name_of(k, r): trial(k, r, options.steps) for k in OPTIMIZERS for r in RANKS}
    more, others = run_arms(MANY, arms, RATES, seeds, ERROR, fixed=rate)
    rows, found = rows + more, {**found, **others}
    spreads: dict[str, list[float]] = {}
    aways: dict[str, list[float]] = {}
    for kind in OPTIMIZERS:
        if any(n not in found for n in (FULL, *(name_of(kind, r) for r in RANKS))):
            continue  # a run failed: its row says so
        errors = [[found[name_of(kind, r)][i][ERROR] for r in RANKS] for i in range(len(seeds))]
        full = [f[ERROR] for f in found[FULL]]
        spreads[kind] = [max(e) - min(e) for e in errors]
        aways[kind] = [
            sum(abs(x - f) for x in e) / len(e) for e, f in zip(errors, full, strict=True)
        ]
    for metric, by in ((SPREAD, spreads), (AWAY, aways)):
        rows += [
            versus(MANY, kind, metric, values, [0.0] * len(seeds), as_ratio=False)
            for kind, values in by.items()
        ]
        if len(by) == len(OPTIMIZERS):
            less = f"{metric}, {BEYOND}"
            rows.append(versus(MANY, LOFT, less, by[LOFT], by[LORA], as_ratio=False))
    return rows


def judge(rows: list[Row]) -> str:
    """Seen if LoFT's spread over ranks is smaller beyond the interval, partly if its distance from full's alone is."""
    spread, away = (
        [r for r in rows if (r.variant, r.metric) == (LOFT, f"{m}, {BEYOND}")]
        for m in (SPREAD, AWAY)
    )
    if not spread or not away:
        return "not testable here: a run failed."
    smaller, nearer = (row.hi is not None and row.hi < 0 for (row,) in (spread, away))
    word = "seen" if smaller else "partly" if nearer else "not seen at this scale"
    return (
        f"{word}: over LoRA's, LoFT's spread of the test error over ranks is {told(spread[0])} points, its distance "
        f"from full fine-tuning's {told(away[0])}."
    )


EXPERIMENT = Experiment(
    name="loft_ranks",
    claim="At full fine-tuning's own rate, LoFT's accuracy varies less with the rank than LoRA's.",
    model=encoder.MODEL,
    data=encoder.DATA.format("500"),
    measure=measure,
    judge=judge,
    shown=[
        *((MANY, name_of(kind, r), ERROR) for kind in OPTIMIZERS for r in RANKS),
        *((MANY, LOFT, f"{metric}, {BEYOND}") for metric in (SPREAD, AWAY)),
    ],
    notes=[
        BOUNDS,
        "AdamW without decay, batches of 32",
        "full fine-tuning's rate is the best of five by test error on seeds 1000 to 1002, and every arm has it",
        "points of test error; bounds of differences are a bootstrap interval of their mean",
    ],
    sizes={"seeds": 8, "steps": encoder.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
