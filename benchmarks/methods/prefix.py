"""Is prefix tuning as good as full fine-tuning, and better with few examples, and how does it stand beside LoRA?

    python -m benchmarks.methods.prefix
    python -m benchmarks.methods.prefix --larger --device cuda

The task is that of `tokens.py`, with 500 images and with 60. LoRA on queries and values has exactly a prefix's numbers
where its rank is half the length.
"""

from __future__ import annotations

import argparse
import dataclasses

import graftwork as gw
from benchmarks.methods import digits, tokens
from benchmarks.methods.digits import ERROR
from benchmarks.methods.harness import (
    BOUNDS,
    Experiment,
    above,
    below,
    compare,
    edges,
    only,
    ratio,
    told,
)
from benchmarks.methods.tokens import NUMBERS, Make, everything, lora, trial
from graftwork_runs import Row

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
MANY_IMAGES = "500 images"
CASES = {MANY_IMAGES: 500, "60 images": 60}
LONG, SHORT = 8, 2
FULL, PREFIX, LORA = "full fine-tuning", f"prefix of {LONG}", f"LoRA, rank {LONG // 2}"
SMALL, SMALL_LORA = f"prefix of {SHORT}", f"LoRA, rank {SHORT // 2}"


def prefix(length: int) -> Make:
    method = gw.PrefixTuning(length)
    return lambda model, seed: gw.graft(model, method, sites=["*.attention"], seed=seed)


ARMS: dict[str, Make] = {
    FULL: everything,
    PREFIX: prefix(LONG),
    LORA: lora(LONG // 2),
    SMALL: prefix(SHORT),
    SMALL_LORA: lora(SHORT // 2),
}
PAIRS = [(PREFIX, FULL), (PREFIX, LORA)]
SMALL_PAIR = (SMALL, SMALL_LORA)  # with all images alone


#: (case, prefix, LoRA) of exactly the same numbers
EQUAL = [*((case, *PAIRS[1]) for case in CASES), (MANY_IMAGES, *SMALL_PAIR)]


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    rows = []
    for case, images in CASES.items():
        small = case == MANY_IMAGES
        arms = {
            name: trial(make, images, options)
            for name, make in ARMS.items()
            if small or name not in SMALL_PAIR
        }
        pairs = [*PAIRS, SMALL_PAIR] if small else PAIRS
        rows += compare(
            case, arms, RATES, seeds, ERROR, pairs, kept=options.kept, sweep=options.sweep
        )
    return rows


def judge(rows: list[Row]) -> str:
    """Seen if the long prefix errs no more than full fine-tuning on many images and less on few; partly if one."""
    many, few = (only(rows, case, PREFIX, ratio(ERROR, FULL)) for case in CASES)
    held = [many.value is not None and not above(many), below(few)]
    word = ("not seen at this scale", "partly", "seen")[sum(held)]
    equal = {
        f"{case}, {arm}": only(rows, case, arm, ratio(ERROR, other)) for case, arm, other in EQUAL
    }
    beside = "; ".join(f"{told(row)} ({name})" for name, row in equal.items())
    return (
        f"{word}: the prefix's test error is {told(many)} of full fine-tuning's with 500 images and {told(few)} "
        f"with 60; over that of LoRA with exactly its numbers it is {beside}."
    )


EXPERIMENT = Experiment(
    name="prefix",
    claim=(
        "A prefix does as well as full fine-tuning with a thousandth of the numbers, and better with few examples "
        "(Li and Liang); beside LoRA and adapters it is the weakest (Akli et al.)."
    ),
    model=f"encoder of 3 blocks, width 48, 9 tokens; prefixes of {SHORT} and {LONG}, LoRA on queries and values",
    data=digits.DATA,
    measure=measure,
    judge=judge,
    shown=[
        *((case, PREFIX, ratio(ERROR, FULL)) for case in CASES),
        *((case, arm, ratio(ERROR, other)) for case, arm, other in EQUAL),
        *((case, arm, ERROR) for case in CASES for arm in (FULL, PREFIX, LORA)),
        *((MANY_IMAGES, arm, NUMBERS) for arm in (FULL, PREFIX, LORA)),
    ],
    notes=[
        BOUNDS,
        (
            "AdamW without decay, batches of 32, a rate that falls linearly from the best of seven by test error on "
            "seed 1000; the classifier stays in all arms"
        ),
        "0.3 and 1 joined the rates after a first run in which 0.1, then the highest, was a prefix's best",
        "60 images: the first of the 500, all arms for as many steps",
        "the prefix itself trains, without the network that the paper trains it through",
    ],
    remarks=edges(RATES),
    sizes=tokens.SIZES,
    files=digits.files,
)
LARGER = dataclasses.replace(
    EXPERIMENT,
    name="larger/prefix",
    model=f"encoder of 6 blocks, width 192, 9 tokens; prefixes of {SHORT} and {LONG}, LoRA on queries and values",
    sizes={"seeds": 8, "width": 192, "depth": 6, "steps": 400, "sweep": 1},
)
EXPERIMENT = dataclasses.replace(EXPERIMENT, larger=LARGER)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
