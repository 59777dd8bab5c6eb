"""Does LoRETTA forget less than LoRA of its size, or does it only learn less?

    python -m benchmarks.methods.loretta

Four tasks in sequence, see `sequence.py`. LoRETTA of rank 8 with inner ranks 2 trains as many numbers as LoRA of rank
1, with inner ranks 5 slightly more than LoRA of rank 4.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits, sequence
from benchmarks.methods.harness import NUMBERS, Experiment, below, edges, only, ratio, told
from benchmarks.methods.sequence import CASE, FORGOT, LEARNT, LORA, LOST, MATCHED, RATES, over
from graftwork_runs import Row

SMALL, LARGE = "LoRETTA, inner ranks 2", "LoRETTA, inner ranks 5"
PAIRS = [(SMALL, "LoRA, rank 1"), (LARGE, "LoRA, rank 4")]
ARMS = {
    sequence.FULL: sequence.everything,
    **{name: LORA[name] for _, name in PAIRS},
    SMALL: sequence.on_layers(gw.LoRETTA(8, 2)),
    LARGE: sequence.on_layers(gw.LoRETTA(8, 5)),
}


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    return sequence.measure(ARMS, PAIRS, RATES, seeds, options.steps)


def judge(rows: list[Row]) -> str:
    """Seen if at matched learning both sizes forget less than LoRA of theirs, partly if one does."""
    found = [only(rows, MATCHED, arm, over(FORGOT, other)) for arm, other in PAIRS]
    word = ("not seen at this scale", "partly", "seen")[sum(below(row, 0.0) for row in found)]
    learnt = [only(rows, CASE, arm, ratio(LEARNT, other)) for arm, other in PAIRS]
    return (
        f"{word}: at matched learning LoRETTA forgets {told(found[0])} points more than LoRA at the small size and "
        f"{told(found[1])} at the larger one; its error when learnt, each at its own rate, is {told(learnt[0])} and "
        f"{told(learnt[1])} of LoRA's."
    )


EXPERIMENT = Experiment(
    name="loretta",
    claim="At very small sizes tensor trains learn as well as LoRA, and forget less of earlier tasks.",
    model=sequence.MODEL,
    data=sequence.DATA,
    measure=measure,
    judge=judge,
    shown=[
        *((MATCHED, arm, over(m, other)) for m in (FORGOT, LOST) for arm, other in PAIRS),
        *((CASE, arm, ratio(LEARNT, other)) for arm, other in PAIRS),
        *((CASE, arm, metric) for metric in (LEARNT, FORGOT, NUMBERS) for arm in ARMS),
    ],
    notes=sequence.NOTES,
    remarks=edges(RATES),
    sizes={"steps": sequence.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
