"""Do four soft experts err less than one LoRA of their size on a mixture of shifts?

    python -m benchmarks.methods.moe_lora

The mixture is that of `mixture.py`.
"""

from __future__ import annotations

import argparse

from benchmarks.methods import digits, mixture
from benchmarks.methods.digits import ERROR
from benchmarks.methods.harness import (
    BOUNDS,
    NUMBERS,
    Experiment,
    as_good,
    below,
    edges,
    only,
    ratio,
    told,
)
from benchmarks.methods.mixture import BEFORE, CASE, FEWER, FULL, MOE, MORE, PARTED, RATES
from graftwork_runs import Row


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    pairs = [(MOE, FEWER), (MOE, MORE), (MOE, FULL)]
    return mixture.rows_of([FULL, FEWER, MORE, MOE], pairs, seeds, options.steps)


def judge(rows: list[Row]) -> str:
    """Seen if the experts err less than LoRA with more numbers and at most 5 % more than full fine-tuning, partly if
    one of it."""
    more, full = (only(rows, CASE, MOE, ratio(ERROR, other)) for other in (MORE, FULL))
    word = ("not seen at this scale", "partly", "seen")[below(more) + as_good(full)]
    apart = [told(only(rows, CASE, MOE, metric)) for metric in (BEFORE, PARTED)]
    return (
        f"{word}: the experts' error is {told(more)} of that of LoRA with slightly more numbers and {told(full)} of "
        f"full fine-tuning's; the gates of two shifts lie {apart[0]} apart before and {apart[1]} after training."
    )


EXPERIMENT = Experiment(
    name="moe_lora",
    claim="Softly routed low-rank experts do better than one LoRA of the same size, and as well as full fine-tuning.",
    model=f"MLP 64-{mixture.WIDTH}-{mixture.WIDTH}-10, four experts of rank 2 on two layers",
    data=f"{digits.DATA}, the three shifts mixed",
    measure=measure,
    judge=judge,
    shown=[
        *((CASE, MOE, ratio(ERROR, other)) for other in (FEWER, MORE, FULL)),
        *((CASE, MOE, metric) for metric in (BEFORE, PARTED)),
        *((CASE, arm, NUMBERS) for arm in (FEWER, MORE, MOE)),
    ],
    notes=[
        BOUNDS,
        "AdamW without decay, batches of 64; an arm's rate is the best of six by test error on seeds 1000 to 1002",
        "all experts act on every image, and no balance loss is on, as in the paper",
    ],
    remarks=edges(RATES),
    sizes={"seeds": 8, "steps": digits.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
