"""Does it matter how the edits of tasks are kept apart: by CoRe's hard constraint, by a penalty, or not at all?

    python -m benchmarks.methods.core_soft

Encoder, tasks and router are those of `core.py`. All three arms are LoReFT's edit of one rank for each task: free,
in subspaces dealt out beforehand (CoRe), or started apart from earlier tasks' and held there by
`graftwork.isolation` with the weights 1 and 0.1.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods import core, digits, tokens
from benchmarks.methods.core import CASE, CORE, END, FORGOT, FREE, KNOWN, NUMBERS, RANK, RATES
from benchmarks.methods.harness import (
    BOUNDS,
    Experiment,
    Trial,
    above,
    below,
    compare,
    edges,
    only,
    ratio,
    told,
)
from graftwork import isolation
from graftwork_runs import Row

SOFT, OVERLAP = "LoReFT, a penalty", "overlap of tasks, % of a rank"
ARMS = {
    FREE: core.ARMS[FREE],
    CORE: core.ARMS[CORE],
    SOFT: core.Arm(lambda t: gw.LoReFT(RANK, where="all")),
}
PAIRS = [(SOFT, FREE), (SOFT, CORE), (CORE, FREE)]


class Apart(core.Learner):
    """A learner whose tasks start apart from the earlier ones and are held there."""

    def fit(
        self, task: int, x: Tensor, y: Tensor, trained: list[Tensor], rate: float, steps: int
    ) -> None:
        new = gw.get(self.model, f"task{task}")
        earlier = [f"task{t}" for t in range(task)]
        if not earlier:
            return super().fit(task, x, y, trained, rate, steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + task)
            isolation.start_apart(new, *earlier)
        with isolation.isolated(new, *earlier) as apart:
            optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
            tokens.fit(
                core.Run(self, task), x, y, optimizer, steps, self.seed + task,
                lambda out, labels: F.cross_entropy(out, labels) + apart(),
            )  # fmt: skip
        return None


@torch.no_grad()
def overlap(learner: core.Learner) -> float:
    """Mean over blocks and pairs of tasks of ||R_t R_s^T||_F^2 / r, %."""
    found = []
    names = [f"task{t}" for t in range(core.TASKS)]
    for i, name in enumerate(names[1:], 1):
        graft = gw.get(learner.model, name)
        with isolation.isolated(graft, *names[:i], drift=0.0) as apart:
            found.append(float(apart()) / (i * RANK * len(graft.entry.sites)))
    return 100 * sum(found) / len(found)


def trial(name: str, options: argparse.Namespace) -> Trial:
    kind = Apart if name == SOFT else core.Learner
    return core.trial(ARMS[name], options, kind, {OVERLAP: overlap})


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    arms = {name: trial(name, options) for name in ARMS}
    return compare(
        CASE, arms, RATES, seeds, END, PAIRS, also=[KNOWN], kept=options.kept, sweep=options.sweep
    )


def judge(rows: list[Row]) -> str:
    """Seen if the penalty errs less than free edits and no more than the hard constraint; partly if one of both."""
    free, hard = (only(rows, CASE, SOFT, ratio(END, o)) for o in (FREE, CORE))
    held = [below(free), hard.value is not None and not above(hard)]
    word = "seen" if all(held) else "partly" if any(held) else "not seen at this scale"
    shared = {arm: told(only(rows, CASE, arm, OVERLAP)) for arm in ARMS}
    return (
        f"{word}: at the end the penalty errs {told(free)} times as often as edits without a constraint and "
        f"{told(hard)} times as CoRe's hard one, which errs {told(only(rows, CASE, CORE, ratio(END, FREE)))} times as "
        f"often as none; the tasks share {shared[SOFT]} % of a rank with the penalty, {shared[FREE]} without and "
        f"{shared[CORE]} under the hard one."
    )


EXPERIMENT = Experiment(
    name="core_soft",
    claim=(
        "An orthogonality constraint on the tasks' subspaces keeps old classes while new ones are learnt (CoRe; the "
        "constraint's form was not to be had)."
    ),
    model=core.EXPERIMENT.model,
    data=core.EXPERIMENT.data,
    measure=measure,
    judge=judge,
    shown=[
        *((CASE, arm, ratio(END, other)) for arm, other in PAIRS),
        *((CASE, arm, metric) for metric in (END, KNOWN, FORGOT, OVERLAP, NUMBERS) for arm in ARMS),
    ],
    notes=[
        BOUNDS,
        "as in the experiment of CoRe: a rate of four by the error at the end on seed 1000, heads and router the same",
        "the penalty's weights, 1 and 0.1, are the first that were tried",
    ],
    remarks=edges(RATES),
    sizes=core.EXPERIMENT.sizes,
    files=digits.files,
)
LARGER = dataclasses.replace(
    EXPERIMENT,
    name="larger/core_soft",
    model=core.LARGER.model,
    sizes=core.LARGER.sizes,
)
EXPERIMENT = dataclasses.replace(EXPERIMENT, larger=LARGER)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
