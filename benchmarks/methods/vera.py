"""Does VeRA learn with an eighth of LoRA's trained numbers what LoRA learns, and more than LoRA cut to that size?

    python -m benchmarks.methods.vera

The task is that of `digits.py`.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.digits import ERROR, Make, everything, trial, with_method
from benchmarks.methods.harness import (
    BOUNDS,
    NUMBERS,
    Experiment,
    as_good,
    below,
    compare,
    edges,
    only,
    ratio,
    told,
)
from graftwork_runs import Row

WIDTH = 128
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
CASE = "own rate"
WIDE, EQUAL, VERA = "LoRA, rank 8", "LoRA, rank 1", "VeRA, rank 96"
ARMS: dict[str, Make] = {
    "full fine-tuning": everything,
    WIDE: with_method(gw.LoRA(8)),
    EQUAL: with_method(gw.LoRA(1)),
    VERA: with_method(gw.VeRA(96)),
}


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    arms = {name: trial(make, WIDTH, options.steps) for name, make in ARMS.items()}
    rows = compare(CASE, arms, RATES, seeds, ERROR, [(VERA, WIDE), (VERA, EQUAL)])
    return [*rows, *digits.counted(CASE, ARMS, digits.task(seeds[0], WIDTH).base)]


def judge(rows: list[Row]) -> str:
    """Seen if VeRA errs at most 5 % more than the wide LoRA and less than the one of its size, partly if one of it."""
    wide, equal = (only(rows, CASE, VERA, ratio(ERROR, other)) for other in (WIDE, EQUAL))
    word = ("not seen at this scale", "partly", "seen")[as_good(wide) + below(equal)]
    sizes = [only(rows, CASE, arm, NUMBERS).value or 0 for arm in (VERA, WIDE)]
    return (
        f"{word}: with {sizes[0]:.0f} trained numbers VeRA's error is {told(wide)} of that of LoRA with {sizes[1]:.0f} "
        f"and {told(equal)} of that of LoRA with as many."
    )


EXPERIMENT = Experiment(
    name="vera",
    claim="Two vectors around shared random matrices do as well as LoRA with a tenth of the trained numbers.",
    model=f"MLP 64-{WIDTH}-{WIDTH}-10, two layers adapted",
    data=digits.DATA,
    measure=measure,
    judge=judge,
    shown=[
        *((CASE, VERA, ratio(ERROR, other)) for other in (WIDE, EQUAL)),
        *((CASE, arm, metric) for metric in (ERROR, NUMBERS) for arm in (WIDE, EQUAL, VERA)),
    ],
    notes=[
        BOUNDS,
        "AdamW without decay, batches of 64; an arm's rate is the best of seven by test error on seeds 1000 to 1002",
    ],
    remarks=edges(RATES),
    sizes={"seeds": 8, "steps": digits.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
