"""Does a higher rate for B learn faster and better than one rate for both factors, once that one is tuned?

    python -m benchmarks.methods.lora_plus

The task is that of `digits.py`, at two widths because the argument is one of wide layers. Both have their rate swept;
LoRA+ has its ratio fixed at 4 or 16 before.
"""

from __future__ import annotations

import argparse

import torch

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.digits import EARLY, ERROR, Optimize, trial, with_method
from benchmarks.methods.harness import BOUNDS, Experiment, below, compare, edges, only, ratio, told
from graftwork_runs import Row

WIDTHS, RANK = (128, 512), 8
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
PLUS = {"LoRA+, ratio 4": 4.0, "LoRA+, ratio 16": 16.0}
CASES = {
    f"width {width}, rate for the {word}": (width, metric)
    for width in WIDTHS
    for word, metric in (("test", ERROR), ("first steps", EARLY))
}


def plus(share: float) -> Optimize:
    def optimize(graft: gw.Graft, rate: float) -> torch.optim.Optimizer:
        return gw.LoRAPlus(graft, lr=rate, ratio=share, weight_decay=0.0)

    return optimize


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    rows, make = [], with_method(gw.LoRA(RANK))
    for width in WIDTHS:
        arms = {"LoRA": trial(make, width, options.steps)}
        arms |= {n: trial(make, width, options.steps, plus(s)) for n, s in PLUS.items()}
        for case, (mine, metric) in CASES.items():
            if mine == width:
                rows += compare(case, arms, RATES, seeds, metric, [(n, "LoRA") for n in PLUS])
    return rows


def judge(rows: list[Row]) -> str:
    """Seen if at the larger width ratio 16 is ahead in the first steps and on the test, partly if in any case is."""
    at = {c: only(rows, c, "LoRA+, ratio 16", ratio(m, "LoRA")) for c, (_, m) in CASES.items()}
    wide = [below(row) for case, row in at.items() if case.startswith(f"width {WIDTHS[-1]}")]
    some = any(below(row) for row in at.values())
    word = "seen" if all(wide) else "partly" if some else "not seen at this scale"
    told_of = "; ".join(f"{told(row)} ({case})" for case, row in at.items())
    return f"{word}: over LoRA's at its own rate, the figure of LoRA+ with ratio 16 is {told_of}."


EXPERIMENT = Experiment(
    name="lora_plus",
    claim="A rate for B that is 16 times A's learns faster, up to twice, and 1 to 2 % better, in wide layers.",
    model=f"MLPs 64-w-w-10 of widths {WIDTHS[0]} and {WIDTHS[1]}, rank {RANK} on two layers",
    data=digits.DATA,
    measure=measure,
    judge=judge,
    shown=[(c, "LoRA+, ratio 16", ratio(m, "LoRA")) for c, (_, m) in CASES.items()],
    notes=[
        BOUNDS,
        "AdamW without decay, batches of 64; a rate is the best of six by the case's own metric on seeds 1000 to 1002",
    ],
    remarks=edges(RATES),
    sizes={"seeds": 8, "steps": digits.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
