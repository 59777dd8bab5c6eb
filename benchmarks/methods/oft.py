"""Do rotations keep more of what a network knows than LoRA of their size, and learn as well?

    python -m benchmarks.methods.oft

Four tasks in sequence, see `sequence.py`. OFT in blocks of 16 trains more numbers than LoRA of rank 3 and fewer than
LoRA of rank 4. The paper means what a generator can draw; here it is the upright digits and the earlier tasks.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits, sequence
from benchmarks.methods.harness import NUMBERS, Experiment, below, edges, only, ratio, told
from benchmarks.methods.sequence import CASE, FORGOT, LEARNT, LORA, LOST, MATCHED, RATES, over
from graftwork_runs import Row

FEWER, MORE, OFT = "LoRA, rank 3", "LoRA, rank 4", "OFT"
PAIRS = [(OFT, FEWER), (OFT, MORE)]
ARMS = {
    sequence.FULL: sequence.everything,
    FEWER: LORA[FEWER],
    MORE: LORA[MORE],
    OFT: sequence.on_layers(gw.OFT(16)),
}


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    return sequence.measure(ARMS, PAIRS, RATES, seeds, options.steps)


def judge(rows: list[Row]) -> str:
    """Seen if OFT learns better than LoRA with more numbers and loses less of the upright digits at matched learning,
    partly if one of it."""
    learnt = only(rows, CASE, OFT, ratio(LEARNT, MORE))
    upright, tasks = (only(rows, MATCHED, OFT, over(metric, MORE)) for metric in (LOST, FORGOT))
    count = below(learnt) + below(upright, 0.0)
    word = ("not seen at this scale", "partly", "seen")[count]
    return (
        f"{word}: OFT's error when learnt is {told(learnt)} of that of LoRA with slightly more numbers; at matched "
        f"learning it loses {told(upright)} points more of the upright digits and {told(tasks)} more of earlier tasks."
    )


EXPERIMENT = Experiment(
    name="oft",
    claim="Rotations of the neurons keep what was known, and learn better than LoRA of the same size.",
    model=sequence.MODEL,
    data=sequence.DATA,
    measure=measure,
    judge=judge,
    shown=[
        *((MATCHED, OFT, over(m, other)) for m in (FORGOT, LOST) for _, other in PAIRS),
        *((CASE, OFT, ratio(LEARNT, other)) for _, other in PAIRS),
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
