"""Does a bottleneck beside the feed-forward block beat full fine-tuning, and LoRA of its size?

    python -m benchmarks.methods.adaptformer

The transformer and its task are those of `encoder.py`. A bottleneck of 4 at each feed-forward block;
LoRA beside it has slightly more numbers.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits, encoder
from benchmarks.methods.digits import ERROR
from benchmarks.methods.encoder import FULL, HEAD, LORA_640, MANY
from benchmarks.methods.harness import NUMBERS, Experiment, below, edges, only, ratio, told
from graftwork_runs import Row

ADAPTER = "AdaptFormer"
RATES = (*encoder.RATES, 3e-1, 1.0)  # the scale of 0.1 shrinks a step's effect
MAKE = encoder.on(gw.AdaptFormer(4), "*.mlp")


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    return encoder.measure(ADAPTER, MAKE, LORA_640, [MANY], RATES, seeds, options.steps)


def judge(rows: list[Row]) -> str:
    """Seen if AdaptFormer errs less than full fine-tuning, partly if less than LoRA of its size only."""
    full, lora, head = (only(rows, MANY, ADAPTER, ratio(ERROR, o)) for o in (FULL, LORA_640, HEAD))
    word = "seen" if below(full) else "partly" if below(lora) else "not seen at this scale"
    return (
        f"{word}: AdaptFormer's error is {told(full)} of full fine-tuning's, {told(lora)} of that of LoRA with "
        f"slightly more numbers, and {told(head)} of that of the classifier alone."
    )


EXPERIMENT = Experiment(
    name="adaptformer",
    claim="A small parallel bottleneck does better than full fine-tuning in image recognition.",
    model=encoder.MODEL,
    data=encoder.DATA.format("500"),
    measure=measure,
    judge=judge,
    shown=[
        *((MANY, ADAPTER, ratio(ERROR, other)) for other in (FULL, LORA_640, HEAD)),
        *(
            (MANY, arm, metric)
            for metric in (ERROR, NUMBERS)
            for arm in (FULL, HEAD, LORA_640, ADAPTER)
        ),
    ],
    notes=[
        *encoder.NOTES,
        "the grid was widened after the first run, whose best rate for AdaptFormer was at its end",
    ],
    remarks=edges(RATES),
    sizes={"steps": encoder.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
