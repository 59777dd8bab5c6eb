"""Do adapters of tensor trains do what dense ones do, with a small part of their numbers?

    python -m benchmarks.methods.loretta_adp

The transformer and its task are those of `encoder.py`, with 500 examples; two serial adapters in a block, behind
attention and feed-forward block. Trains of inner rank 2 stand for matrices with a bottleneck of 16; a dense adapter
and a LoRA have nearly as many numbers as the trains.
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

TRAINS, WIDE, EQUAL = "trains, bottleneck 16", "dense, bottleneck 16", "dense, bottleneck 2"
SITES = ("*.o", "*.mlp")
RATES = (*encoder.RATES, 3e-1)
ARMS: dict[str, Make] = {
    **{name: encoder.ARMS[name] for name in (FULL, HEAD, LORA_640)},
    WIDE: encoder.on(gw.SerialAdapter(16), *SITES),
    EQUAL: encoder.on(gw.SerialAdapter(2), *SITES),
    TRAINS: encoder.on(gw.LoRETTAAdapter(16, tt_rank=2), *SITES),
}
PAIRS = [(TRAINS, other) for other in (WIDE, EQUAL, LORA_640, HEAD, FULL)]


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    trials = {n: encoder.arm(m, encoder.CASES[MANY], options.steps) for n, m in ARMS.items()}
    rows = compare(MANY, trials, RATES, seeds, ERROR, PAIRS)
    return rows + digits.counted(MANY, ARMS, encoder.task(seeds[0]).base)


def judge(rows: list[Row]) -> str:
    """Seen if the trains err at most 1.05 times as often as the dense adapter of their bottleneck and less than that of
    their size, partly if one of both."""
    found = {o: only(rows, MANY, TRAINS, ratio(ERROR, o)) for _, o in PAIRS}
    held = [as_good(found[WIDE]), below(found[EQUAL])]
    word = "seen" if all(held) else "partly" if any(held) else "not seen at this scale"
    numbers = {arm: only(rows, MANY, arm, NUMBERS).value for arm in (TRAINS, WIDE)}
    return (
        f"{word}: with {numbers[TRAINS]:.0f} trained numbers the trains' error is {told(found[WIDE])} of that of dense "
        f"adapters of the same bottleneck with {numbers[WIDE]:.0f}, {told(found[EQUAL])} of that of dense ones of "
        f"their size, {told(found[LORA_640])} of LoRA's of their size and {told(found[HEAD])} of the classifier's."
    )


EXPERIMENT = Experiment(
    name="loretta_adp",
    claim="Adapters of tensor trains do as well as dense ones with a hundredth of the numbers.",
    model=encoder.MODEL,
    data=encoder.DATA.format("500"),
    measure=measure,
    judge=judge,
    shown=[
        *((MANY, TRAINS, ratio(ERROR, other)) for other in (WIDE, EQUAL, LORA_640, HEAD)),
        *((MANY, arm, metric) for metric in (ERROR, NUMBERS) for arm in ARMS),
    ],
    notes=(
        *encoder.NOTES,
        (
            "the norms, which the paper trains along, stay in every arm; at this width biases are a third of the "
            "trains' numbers, so they save far less than at the paper's"
        ),
    ),
    remarks=edges(RATES),
    sizes={"steps": encoder.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
