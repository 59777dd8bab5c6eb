"""Does WeGeFT forget less, of earlier tasks and of its pre-training, than LoRA of its size?

    python -m benchmarks.methods.wegeft

Four tasks in sequence, see `sequence.py`. WeGeFT of rank 4 trains as many numbers as LoRA of rank 4; of rank 3 with one
pair for all three layers, as LoRA of rank 1. PiSSA of rank 4, which trains the principal directions, stands beside.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits, sequence
from benchmarks.methods.harness import NUMBERS, Experiment, below, edges, only, ratio, told
from benchmarks.methods.sequence import CASE, FORGOT, LEARNT, LORA, LOST, MATCHED, RATES, over
from graftwork_runs import Row

OWN, SHARED, PISSA = "WeGeFT", "WeGeFT, one pair for all layers", "PiSSA, rank 4"
PAIRS = [(OWN, "LoRA, rank 4"), (SHARED, "LoRA, rank 1")]
ARMS = {
    sequence.FULL: sequence.everything,
    **{name: LORA[name] for _, name in PAIRS},
    PISSA: sequence.on_layers(gw.PiSSA(4, niter=None)),
    OWN: sequence.on_layers(gw.WeGeFT(4)),
    SHARED: sequence.on_layers(gw.WeGeFT(3, shared=True)),
}


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    pairs = [*PAIRS, (PISSA, "LoRA, rank 4")]
    return sequence.measure(ARMS, pairs, RATES, seeds, options.steps)


def judge(rows: list[Row]) -> str:
    """Seen if at matched learning both forms lose less than LoRA of their size, of earlier tasks and of the upright
    digits, partly if some of it."""
    tasks, upright = (
        [only(rows, MATCHED, arm, over(metric, other)) for arm, other in PAIRS]
        for metric in (FORGOT, LOST)
    )
    count = sum(below(row, 0.0) for row in (*tasks, *upright))
    word = "seen" if count == 4 else "partly" if count else "not seen at this scale"
    learnt = [only(rows, CASE, arm, ratio(LEARNT, other)) for arm, other in PAIRS]
    pissa = only(rows, MATCHED, PISSA, over(FORGOT, "LoRA, rank 4"))
    return (
        f"{word}: at matched learning WeGeFT forgets {told(tasks[0])} points more of earlier tasks than LoRA (one pair "
        f"for all layers: {told(tasks[1])}) and loses {told(upright[0])} more of the upright digits "
        f"({told(upright[1])}); its error when learnt, each at its own rate, is {told(learnt[0])} of LoRA's "
        f"({told(learnt[1])}). PiSSA forgets {told(pissa)} points more than LoRA."
    )


EXPERIMENT = Experiment(
    name="wegeft",
    claim="An update that is made from the frozen weight learns as well as LoRA's, and keeps more of what was known.",
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
