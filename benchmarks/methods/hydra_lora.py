"""Do four heads on one shared A err less than one LoRA, and no more than experts with an A each, of their size?

    python -m benchmarks.methods.hydra_lora

The mixture is that of `mixture.py`.
"""

from __future__ import annotations

import argparse

from benchmarks.methods import digits, mixture
from benchmarks.methods.digits import ERROR
from benchmarks.methods.harness import BOUNDS, NUMBERS, Experiment, below, edges, only, ratio, told
from benchmarks.methods.mixture import BEFORE, CASE, FEWER, HYDRA, MOE, MORE, PARTED, RATES
from graftwork_runs import Row


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    pairs = [(HYDRA, FEWER), (HYDRA, MORE), (HYDRA, MOE)]
    return mixture.rows_of([FEWER, MORE, MOE, HYDRA], pairs, seeds, options.steps)


def judge(rows: list[Row]) -> str:
    """Seen if the heads err less than LoRA with more numbers and less than the experts, partly if one of it."""
    more, experts = (only(rows, CASE, HYDRA, ratio(ERROR, other)) for other in (MORE, MOE))
    word = ("not seen at this scale", "partly", "seen")[below(more) + below(experts)]
    apart = [told(only(rows, CASE, HYDRA, metric)) for metric in (BEFORE, PARTED)]
    return (
        f"{word}: the heads' error is {told(more)} of that of LoRA with slightly more numbers and {told(experts)} of "
        f"that of MoE-LoRA; the gates of two shifts lie {apart[0]} apart before and {apart[1]} after training."
    )


EXPERIMENT = Experiment(
    name="hydra_lora",
    claim="On mixed data several heads on one shared A do better than one LoRA, and than experts with an A each.",
    model=f"MLP 64-{mixture.WIDTH}-{mixture.WIDTH}-10, four heads of rank 3 on two layers",
    data=f"{digits.DATA}, the three shifts mixed",
    measure=measure,
    judge=judge,
    shown=[
        *((CASE, HYDRA, ratio(ERROR, other)) for other in (FEWER, MORE, MOE)),
        *((CASE, HYDRA, metric) for metric in (BEFORE, PARTED)),
        *((CASE, arm, NUMBERS) for arm in (FEWER, MORE, MOE, HYDRA)),
    ],
    notes=[
        BOUNDS,
        "AdamW without decay, batches of 64; an arm's rate is the best of six by test error on seeds 1000 to 1002",
        "E = 4 is given; the paper finds it by clustering the data",
    ],
    remarks=edges(RATES),
    sizes={"seeds": 8, "steps": digits.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
