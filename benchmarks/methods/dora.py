"""Does DoRA err less than LoRA, and do its magnitudes and directions change as full fine-tuning's do?

    python -m benchmarks.methods.dora

The task is that of `digits.py`. The paper correlates, over layers and training steps, how much the rows' norms change
with how much their directions do; with two layers here, the correlation is over the rows of each layer after training.
"""

from __future__ import annotations

import argparse
import copy
import functools

import torch

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.digits import ERROR, SITES, Make, everything, with_method
from benchmarks.methods.harness import (
    BOUNDS,
    NUMBERS,
    RATE,
    Experiment,
    Figures,
    Trial,
    below,
    compare,
    edges,
    only,
    ratio,
    told,
    versus,
)
from graftwork_runs import Row

WIDTH, RANK = 128, 4
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
CASE = "own rate"
FULL, LORA, DORA, LESS = "full fine-tuning", "LoRA, rank 4", "DoRA, rank 4", "DoRA, rank 3"
ARMS: dict[str, Make] = {
    FULL: everything,
    LORA: with_method(gw.LoRA(RANK)),
    DORA: with_method(gw.DoRA(RANK)),
    LESS: with_method(gw.DoRA(RANK - 1)),
}
PATTERN = "correlation of the changes of norm and direction"
NEARER = f"{PATTERN}, distance from full fine-tuning's less {LORA}'s"


def correlation(before: torch.Tensor, after: torch.Tensor) -> float:
    """Over the rows of a weight: of |change of norm| and 1 - cosine, 0 where one of them does not vary."""
    before, after = before.double(), after.double()
    norm = (after.norm(dim=1) - before.norm(dim=1)).abs()
    turn = 1 - torch.cosine_similarity(before, after, dim=1)
    # rounding of a cosine near 1 is no change of direction
    varies = min(float(norm.std()), float(turn.std())) > 1e-12
    return float(torch.corrcoef(torch.stack([norm, turn]))[0, 1]) if varies else 0.0


def arm(make: Make, steps: int) -> Trial:
    @functools.cache  # the comparison of patterns repeats runs
    def run(seed: int, rate: float) -> Figures:
        where = digits.task(seed, WIDTH)
        graft = make(copy.deepcopy(where.base), seed)
        found = digits.adapt(graft, where, digits.adamw(graft, rate), steps, seed)
        graft.merge()
        pairs = [(where.base.get_submodule(s), graft.model.get_submodule(s)) for s in SITES]
        with torch.no_grad():
            each = [correlation(old.weight, new.weight) for old, new in pairs]  # type: ignore[arg-type]
        return {**found, PATTERN: sum(each) / len(each)}

    return run


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    arms = {name: arm(make, options.steps) for name, make in ARMS.items()}
    rows = compare(CASE, arms, RATES, seeds, ERROR, [(DORA, LORA), (LESS, LORA), (DORA, FULL)])
    at = {name: only(rows, CASE, name, RATE).value or 0.0 for name in ARMS}
    seen = {name: [arms[name](s, at[name])[PATTERN] for s in seeds] for name in ARMS}
    off = {
        name: [abs(a - b) for a, b in zip(seen[name], seen[FULL], strict=True)] for name in (DORA, LORA)
    }  # fmt: skip
    rows.append(versus(CASE, DORA, NEARER, off[DORA], off[LORA], as_ratio=False))
    return [*rows, *digits.counted(CASE, ARMS, digits.task(seeds[0], WIDTH).base)]


def judge(rows: list[Row]) -> str:
    """Seen if DoRA errs less at the same rank and with fewer numbers and its pattern is nearer to full fine-tuning's,
    partly if some of it."""
    same, fewer = (only(rows, CASE, arm, ratio(ERROR, LORA)) for arm in (DORA, LESS))
    nearer = only(rows, CASE, DORA, NEARER)
    count = below(same) + below(fewer) + below(nearer, 0.0)
    word = ("not seen at this scale", "partly", "partly", "seen")[count]
    patterns = ", ".join(
        f"{arm} {told(only(rows, CASE, arm, PATTERN))}" for arm in (FULL, LORA, DORA)
    )
    return (
        f"{word}: DoRA's error over LoRA's is {told(same)} at the same rank and {told(fewer)} at one less, with fewer "
        f"numbers; the changes of norm and direction correlate by {patterns}."
    )


EXPERIMENT = Experiment(
    name="dora",
    claim=(
        "DoRA errs less than LoRA at the same rank and at lower ones; its norms and directions change against each "
        "other, as full fine-tuning's do and LoRA's do not."
    ),
    model=f"MLP 64-{WIDTH}-{WIDTH}-10, ranks {RANK - 1} and {RANK} on two layers",
    data=digits.DATA,
    measure=measure,
    judge=judge,
    shown=[
        *((CASE, arm, ratio(ERROR, LORA)) for arm in (DORA, LESS)),
        *((CASE, arm, PATTERN) for arm in (FULL, LORA, DORA)),
        *((CASE, arm, NUMBERS) for arm in (LORA, DORA, LESS)),
    ],
    notes=[
        BOUNDS,
        "AdamW without decay, batches of 64; an arm's rate is the best of six by test error on seeds 1000 to 1002",
    ],
    remarks=edges(RATES),
    sizes={"seeds": 8, "steps": digits.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
