"""Do the norms' scales and shifts alone do as well as full fine-tuning and LoRA of their size?

    python -m benchmarks.methods.norm_affine

The transformer and its task are those of `encoder.py`. LoRA beside them has slightly more numbers.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits, encoder
from benchmarks.methods.digits import ERROR
from benchmarks.methods.encoder import FULL, HEAD, LORA_384, MANY, RATES
from benchmarks.methods.harness import NUMBERS, Experiment, as_good, edges, only, ratio, told
from graftwork_runs import Row

NORMS = "norms"
MAKE = encoder.on(gw.NormAffine(), "type:LayerNorm")


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    return encoder.measure(NORMS, MAKE, LORA_384, [MANY], RATES, seeds, options.steps)


def judge(rows: list[Row]) -> str:
    """Seen if the norms err at most 5 % more than full fine-tuning and than LoRA of their size, partly if than one."""
    full, lora, head = (only(rows, MANY, NORMS, ratio(ERROR, o)) for o in (FULL, LORA_384, HEAD))
    word = ("not seen at this scale", "partly", "seen")[as_good(full) + as_good(lora)]
    return (
        f"{word}: the norms' error is {told(full)} of full fine-tuning's, {told(lora)} of that of LoRA with slightly "
        f"more numbers, and {told(head)} of that of the classifier alone."
    )


EXPERIMENT = Experiment(
    name="norm_affine",
    claim="Tuning the norms alone does as well as full fine-tuning, and as LoRA.",
    model=encoder.MODEL,
    data=encoder.DATA.format("500"),
    measure=measure,
    judge=judge,
    shown=[
        *((MANY, NORMS, ratio(ERROR, other)) for other in (FULL, LORA_384, HEAD)),
        *(
            (MANY, arm, metric)
            for metric in (ERROR, NUMBERS)
            for arm in (FULL, HEAD, LORA_384, NORMS)
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
