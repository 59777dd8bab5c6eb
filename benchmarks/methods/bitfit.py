"""Do the biases alone do as well as full fine-tuning with few examples, and less well with many?

    python -m benchmarks.methods.bitfit

The transformer and its task are those of `encoder.py`. Biases of linear layers and norms train; LoRA
beside them has slightly more numbers.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits, encoder
from benchmarks.methods.digits import ERROR
from benchmarks.methods.encoder import FEW, FULL, HEAD, LORA_640, MANY
from benchmarks.methods.harness import NUMBERS, Experiment, as_good, edges, only, ratio, told
from graftwork_runs import Row

BITFIT = "BitFit"
RATES = (*encoder.RATES, 3e-1)  # a step moves little where so few numbers train
MAKE = encoder.on(
    gw.BitFit(), "blocks.*.norm*", "*.q", "*.k", "*.v", "*.o", "*.fc1", "*.fc2", "norm"
)


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    return encoder.measure(BITFIT, MAKE, LORA_640, [FEW, MANY], RATES, seeds, options.steps)


def judge(rows: list[Row]) -> str:
    """Seen if BitFit errs at most 5 % more than full fine-tuning from few examples and than LoRA of its size
    from many, partly if one of it."""
    few, many = (only(rows, case, BITFIT, ratio(ERROR, FULL)) for case in (FEW, MANY))
    less, lora = (only(rows, case, BITFIT, ratio(ERROR, LORA_640)) for case in (FEW, MANY))
    word = ("not seen at this scale", "partly", "seen")[as_good(few) + as_good(lora)]
    return (
        f"{word}: BitFit's error is {told(few)} of full fine-tuning's from 50 examples and {told(many)} from 500, and "
        f"{told(less)} and {told(lora)} of that of LoRA with slightly more numbers."
    )


EXPERIMENT = Experiment(
    name="bitfit",
    claim=(
        "With few examples biases alone do as well as full fine-tuning or better; with many as well as other sparse "
        "methods."
    ),
    model=encoder.MODEL,
    data=encoder.DATA.format("50 or 500"),
    measure=measure,
    judge=judge,
    shown=[
        *(
            (case, BITFIT, ratio(ERROR, other))
            for other in (FULL, LORA_640, HEAD)
            for case in (FEW, MANY)
        ),
        *(
            (case, arm, metric)
            for metric in (ERROR, NUMBERS)
            for arm in (FULL, HEAD, LORA_640, BITFIT)
            for case in (FEW, MANY)
        ),
    ],
    notes=encoder.NOTES,
    remarks=edges(RATES),
    sizes={"steps": encoder.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
