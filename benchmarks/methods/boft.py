"""Does a butterfly of small rotations learn more than OFT and LoRA of its size, and what does it lose?

    python -m benchmarks.methods.boft

Four tasks in sequence, see `sequence.py`. Five factors of blocks of 4, so that every output of the rotation sees every
input, train exactly as many numbers as OFT in blocks of 16, and fewer than LoRA of rank 4.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits, oft, sequence
from benchmarks.methods.harness import NUMBERS, Experiment, below, edges, only, ratio, told
from benchmarks.methods.oft import MORE, OFT
from benchmarks.methods.sequence import CASE, FORGOT, LEARNT, LORA, LOST, MATCHED, RATES, over
from graftwork_runs import Row

BOFT = "BOFT"
PAIRS = [(BOFT, OFT), (BOFT, MORE)]
ARMS = {
    MORE: LORA[MORE],
    OFT: oft.ARMS[OFT],
    BOFT: sequence.on_layers(gw.BOFT(4, butterflies=5)),
}


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    return sequence.measure(ARMS, PAIRS, RATES, seeds, options.steps)


def judge(rows: list[Row]) -> str:
    """Seen if BOFT learns better than OFT and than LoRA, partly if than one of them."""
    blocks, lora = (only(rows, CASE, BOFT, ratio(LEARNT, other)) for other in (OFT, MORE))
    word = ("not seen at this scale", "partly", "seen")[below(blocks) + below(lora)]
    upright, tasks = (only(rows, MATCHED, BOFT, over(metric, OFT)) for metric in (LOST, FORGOT))
    return (
        f"{word}: BOFT's error when learnt is {told(blocks)} of OFT's with as many numbers and {told(lora)} of LoRA's "
        f"with slightly more; at matched learning it loses {told(upright)} points more of the upright digits than OFT "
        f"and {told(tasks)} more of earlier tasks."
    )


EXPERIMENT = Experiment(
    name="boft",
    claim="Butterfly factors reach with the same size what rotations in blocks cannot: better than OFT, and than LoRA.",
    model=sequence.MODEL,
    data=sequence.DATA,
    measure=measure,
    judge=judge,
    shown=[
        *((CASE, BOFT, ratio(LEARNT, other)) for _, other in PAIRS),
        *((MATCHED, BOFT, over(m, other)) for m in (FORGOT, LOST) for _, other in PAIRS),
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
