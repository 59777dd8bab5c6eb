"""Does rescaling keys, values and hidden features beat full fine-tuning and LoRA with few examples?

    python -m benchmarks.methods.ia3

The transformer and its task are those of `encoder.py`. IA3 sits where the paper has it, and trains as
many numbers as LoRA of rank 1 on queries and values.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits, encoder
from benchmarks.methods.digits import ERROR
from benchmarks.methods.encoder import FEW, FULL, HEAD, LORA_256
from benchmarks.methods.harness import NUMBERS, Experiment, below, edges, only, ratio, told
from graftwork_runs import Row

IA3 = "IA3"
RATES = (*encoder.RATES, 3e-1)  # a step moves little where so few numbers train
MAKE = encoder.on(gw.IA3(), "*.k", "*.v", "*.fc2", overrides={"*.fc2": {"scale": "input"}})


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    return encoder.measure(IA3, MAKE, LORA_256, [FEW], RATES, seeds, options.steps)


def judge(rows: list[Row]) -> str:
    """Seen if IA3 errs less than full fine-tuning and than LoRA of its size, partly if than one of them."""
    full, lora, head = (only(rows, FEW, IA3, ratio(ERROR, o)) for o in (FULL, LORA_256, HEAD))
    word = ("not seen at this scale", "partly", "seen")[below(full) + below(lora)]
    return (
        f"{word}: from 50 examples IA3's error is {told(full)} of full fine-tuning's, {told(lora)} of that of LoRA "
        f"with as many numbers, and {told(head)} of that of the classifier alone."
    )


EXPERIMENT = Experiment(
    name="ia3",
    claim="From few examples, rescaling a few features does better than full fine-tuning, and than LoRA.",
    model=encoder.MODEL,
    data=encoder.DATA.format("50"),
    measure=measure,
    judge=judge,
    shown=[
        *((FEW, IA3, ratio(ERROR, other)) for other in (FULL, LORA_256, HEAD)),
        *((FEW, arm, metric) for metric in (ERROR, NUMBERS) for arm in (FULL, HEAD, LORA_256, IA3)),
    ],
    notes=encoder.NOTES,
    remarks=edges(RATES),
    sizes={"steps": encoder.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
