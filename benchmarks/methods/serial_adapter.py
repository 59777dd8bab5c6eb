"""Do serial adapters reach full fine-tuning with few numbers, and does it matter where they stand?

    python -m benchmarks.methods.serial_adapter

The transformer and its task are those of `encoder.py`, with 500 examples. Houlsby's placement, behind attention and
feed-forward block, has half the bottleneck of Pfeiffer's, behind the feed-forward block alone, and of the parallel
adapter beside it, so that the numbers are nearly the same.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits, encoder
from benchmarks.methods.digits import ERROR, Make
from benchmarks.methods.encoder import FULL, HEAD, LORA_640, MANY
from benchmarks.methods.harness import (
    NUMBERS,
    Experiment,
    as_good,
    below,
    compare,
    edges,
    only,
    ratio,
    told,
)
from graftwork_runs import Row

HOULSBY, PFEIFFER, PARALLEL = "serial, two in a block", "serial, one in a block", "parallel"
RATES = (*encoder.RATES, 3e-1)
ARMS: dict[str, Make] = {
    **{name: encoder.ARMS[name] for name in (FULL, HEAD, LORA_640)},
    HOULSBY: encoder.on(gw.SerialAdapter(2), "*.o", "*.mlp"),
    PFEIFFER: encoder.on(gw.SerialAdapter(4), "*.mlp"),
    PARALLEL: encoder.on(gw.AdaptFormer(4, scale=1.0), "*.mlp"),
}
PAIRS = [
    *((HOULSBY, other) for other in (FULL, LORA_640, HEAD, PFEIFFER)),
    (PFEIFFER, PARALLEL),
    (PARALLEL, LORA_640),
]


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    trials = {n: encoder.arm(m, encoder.CASES[MANY], options.steps) for n, m in ARMS.items()}
    rows = compare(MANY, trials, RATES, seeds, ERROR, PAIRS)
    return rows + digits.counted(MANY, ARMS, encoder.task(seeds[0]).base)


def judge(rows: list[Row]) -> str:
    """Seen if the serial adapter errs at most 1.05 times as often as full fine-tuning, partly if less than LoRA of its
    size only."""
    full, lora, head = (only(rows, MANY, HOULSBY, ratio(ERROR, o)) for o in (FULL, LORA_640, HEAD))
    word = "seen" if as_good(full) else "partly" if below(lora) else "not seen at this scale"
    two = only(rows, MANY, HOULSBY, ratio(ERROR, PFEIFFER))
    beside = only(rows, MANY, PFEIFFER, ratio(ERROR, PARALLEL))
    return (
        f"{word}: the error of two serial adapters in a block is {told(full)} of full fine-tuning's, {told(lora)} of "
        f"that of LoRA of their size, {told(head)} of that of the classifier alone and {told(two)} of that of one "
        f"adapter with twice the bottleneck, whose own is {told(beside)} of the parallel one's."
    )


EXPERIMENT = Experiment(
    name="serial_adapter",
    claim=(
        "Serial adapters come within a few tenths of a percent of full fine-tuning with a few percent of its numbers "
        "(Houlsby et al.); parallel ones do better than serial ones (He et al. 2021)."
    ),
    model=encoder.MODEL,
    data=encoder.DATA.format("500"),
    measure=measure,
    judge=judge,
    shown=[
        *((MANY, HOULSBY, ratio(ERROR, other)) for other in (FULL, LORA_640, HEAD, PFEIFFER)),
        (MANY, PFEIFFER, ratio(ERROR, PARALLEL)),
        (MANY, PARALLEL, ratio(ERROR, LORA_640)),
        *((MANY, arm, metric) for metric in (ERROR, NUMBERS) for arm in ARMS),
    ],
    notes=encoder.NOTES,
    remarks=edges(RATES),
    sizes={"steps": encoder.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
