"""Does a choice of (sample, layer) pairs beat a choice of samples, a choice of layers, and chance of the same size?

    python -m benchmarks.methods.gast                 # minutes on one core
    python -m benchmarks.methods.gast --larger        # wider, longer, more seeds: an hour of one core

The network of `digits.py` with four hidden layers reads shifted digits; LoRA trains in batches of 16, of which each
layer keeps 8. With labels all right, and with a share of the training labels those of another digit, the same one for
each. Every arm takes as many steps. The test is on 397 images; 100 others, their labels right, are the clean support,
which is more data than the other arms have: one arm trains on them too.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.digits import ERROR, adamw
from benchmarks.methods.harness import (
    BOUNDS,
    Experiment,
    Figures,
    Trial,
    above,
    below,
    compare,
    edges,
    only,
    ratio,
    told,
)
from graftwork.selection.draws import choose
from graftwork_runs import Row

DEPTH, RANK, BATCH, KEEP, SUPPORT = 4, 4, 16, 8, 4
RATES, SWEPT = (3e-3, 1e-2, 3e-2), 2
SHARES = (0.0, 0.4)
CLEAN = 100
NEGATIVE, STEP = "negative pairs among the picked, share", "processor time of a step, ms"
ALL, RANDOM, TOP, GAST = (
    "all samples",
    "random half for each layer",
    "top half for each layer",
    "GAST",
)
ONE, CLEAN_GAST = "GAST, one choice for all layers", "GAST, clean support"
DATA = (ONE, "random half, the same for all layers")  # the second is a batch of 8
LAYERS = ("half of the layers, by alignment", "half of the layers, random")
CASES = {f"{share:.0%} of the labels wrong": share for share in SHARES}


@dataclasses.dataclass
class Data:
    """Images `(n, 64)` and labels of one seed: to train on, clean ones held out, and the test's."""

    base: nn.Module
    train: tuple[Tensor, Tensor]
    clean: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@functools.lru_cache(maxsize=16)
def data(seed: int, width: int, share: float) -> Data:
    """A share of the training labels is the next digit, so that the wrong ones agree."""
    task = digits.task(seed, width, DEPTH)
    (x, y), (u, v) = task.train, task.test
    wrong = torch.rand(len(y), generator=torch.Generator().manual_seed(seed)) < share
    y = torch.where(wrong, (y + 1) % 10, y)
    return Data(task.base, (x, y), (u[:CLEAN], v[:CLEAN]), (u[CLEAN:], v[CLEAN:]))


Loss = Callable[[Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Arm:
    """What trains on what in a step.

    Attributes:
        rule: of GAST's draw, None: every layer trains on all it is given.
        shared: one choice for all layers.
        halves: how half of the layers are chosen, "random" or "aligned"; None: all.
        batch: samples of a step. support: "train" or "clean". more: trains on the clean samples too.
    """

    rule: str | None = None
    shared: bool = False
    halves: str | None = None
    batch: int = BATCH
    support: str = "train"
    more: bool = False

    def step(
        self,
        graft: gw.Graft,
        gast: gw.GAST | None,
        where: Data,
        draw: torch.Generator,
        loss: Loss,
        at: int,
    ) -> float:
        """Put a step's gradient in place; the share of picked pairs with a negative score."""
        x, y = where.train
        if self.more:
            x, y = (torch.cat(pair) for pair in zip(where.train, where.clean, strict=True))
        some = torch.randint(len(x), (self.batch,), generator=draw)
        u, v = where.clean if self.support == "clean" else (x, y)
        few = torch.randint(len(u), (SUPPORT,), generator=draw)
        if gast is not None:
            gast.support(loss(u[few], v[few]))
            with gast.batch(self.batch, at):
                loss(x[some], y[some]).backward()
            return statistics.fmean(c.negative for c in gast.chosen.values())
        if self.halves:
            names = [n for n, _ in graft.named_parameters()]
            support = torch.autograd.grad(loss(u[few], v[few]), list(graft.parameters()))
            loss(x[some], y[some]).backward()
            keep_half(
                dict(graft.named_parameters()),
                dict(zip(names, support, strict=True)),
                self.halves,
                at,
            )
            return 0.0
        loss(x[some], y[some]).backward()
        return 0.0


def keep_half(
    params: dict[str, nn.Parameter], support: dict[str, Tensor], rule: str, at: int
) -> None:
    """Leave a gradient in half of the layers, drawn by their inner product with the support's or at random."""
    layers = sorted({n.split(".")[0] for n in params})
    scores = torch.zeros(len(layers))
    for n, p in params.items():
        assert p.grad is not None
        scores[layers.index(n.split(".")[0])] += (p.grad * support[n]).sum().cpu()
    how = "softmax" if rule == "aligned" else "uniform"
    kept = {layers[i] for i in choose(scores, len(layers) // 2, how, 1.0, "layers", at).tolist()}
    for n, p in params.items():
        if n.split(".")[0] not in kept:
            p.grad = None


ARMS = {
    ALL: Arm(),
    DATA[1]: Arm(batch=KEEP),
    RANDOM: Arm("uniform"),
    TOP: Arm("top"),
    ONE: Arm("softmax", shared=True),
    LAYERS[1]: Arm(halves="random"),
    LAYERS[0]: Arm(halves="aligned"),
    GAST: Arm("softmax"),
    CLEAN_GAST: Arm("softmax", support="clean"),
    "GAST, clean support, one choice for all layers": Arm("softmax", shared=True, support="clean"),
    "all samples, the clean ones too": Arm(more=True),
}


def trial(arm: Arm, share: float, options: argparse.Namespace) -> Trial:
    def run(seed: int, rate: float) -> Figures:
        where = data(seed, options.width, share)
        model = copy.deepcopy(where.base).to(options.device)
        where = dataclasses.replace(
            where, **{k: tuple(t.to(options.device) for t in getattr(where, k)) for k in ("train", "clean", "test")}
        )  # fmt: skip
        graft = gw.graft(model, gw.LoRA(RANK), sites=[str(2 * i) for i in range(DEPTH)], seed=seed)
        layers = (lambda name: "all") if arm.shared else "block"
        gast = (
            None
            if arm.rule is None
            else gw.GAST(graft, KEEP, rule=arm.rule, seed=seed, layers=layers)
        )
        optimizer, draw = adamw(graft, rate), torch.Generator().manual_seed(seed)
        negative, began = [], time.process_time()
        for at in range(options.steps):
            optimizer.zero_grad()
            negative.append(
                arm.step(graft, gast, where, draw, lambda x, y: F.cross_entropy(model(x), y), at)
            )
            optimizer.step()
        spent = time.process_time() - began
        found = {ERROR: digits.error(model, *where.test), STEP: 1000 * spent / options.steps}
        if gast is not None:
            found[NEGATIVE] = statistics.fmean(negative)
        return found

    return run


PAIRS = [
    *((GAST, other) for other in (ALL, RANDOM, *DATA, *LAYERS)),
    (TOP, GAST),
    (RANDOM, ALL),
    (CLEAN_GAST, "GAST, clean support, one choice for all layers"),
    (CLEAN_GAST, "all samples, the clean ones too"),
]


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    rows = []
    for case, share in CASES.items():
        arms = {name: trial(arm, share, options) for name, arm in ARMS.items()}
        rows += compare(case, arms, RATES, seeds, ERROR, PAIRS, kept=options.kept, sweep=SWEPT)
    return rows


def judge(rows: list[Row]) -> str:
    """Seen if in both cases GAST errs less than all samples, than random halves and than either choice alone, and the
    top half more than GAST; partly if any of these holds in any case."""

    def against(case: str, arm: str, other: str) -> Row:
        return only(rows, case, arm, ratio(ERROR, other))

    held = {
        what: [all(test(against(c, *p)) for p in pairs) for c in CASES]
        for what, test, pairs in (
            ("all samples", below, [(GAST, ALL)]),
            ("random", below, [(GAST, RANDOM)]),
            ("data alone", below, [(GAST, ONE)]),
            ("layers alone", below, [(GAST, LAYERS[0])]),
            ("top", above, [(TOP, GAST)]),
        )
    }
    count = sum(map(sum, held.values()))
    word = (
        "seen" if all(map(all, held.values())) else "partly" if count else "not seen at this scale"
    )
    figures = "; ".join(
        f"{case}: {told(against(case, GAST, ALL))} of that of all samples, {told(against(case, GAST, RANDOM))} of "
        f"random halves', {told(against(case, GAST, ONE))} of the choice of samples alone, "
        f"{told(against(case, GAST, LAYERS[0]))} of that of layers alone, and the top half's is "
        f"{told(against(case, TOP, GAST))} of GAST's"
        for case in CASES
    )  # fmt: skip
    return f"{word}: GAST's test error, {figures}. {count} of 10 parts of the claim hold."


EXPERIMENT = Experiment(
    name="gast",
    claim=(
        "Each layer on its own half of a batch, drawn by agreement with the training set's gradient, errs less than "
        "all samples, random halves, the choice of samples alone or of layers alone; the greedy half is harmful."
    ),
    model=f"MLP 64-96-96-96-96-10, LoRA of rank {RANK} on four layers, {KEEP} of {BATCH} samples",
    data=digits.DATA,
    measure=measure,
    judge=judge,
    shown=[
        *(
            (case, GAST, ratio(ERROR, other))
            for case in CASES
            for other in (ALL, RANDOM, ONE, LAYERS[0])
        ),
        *((case, TOP, ratio(ERROR, GAST)) for case in CASES),
        *((case, arm, ERROR) for case in CASES for arm in (ALL, GAST, CLEAN_GAST)),
        *((f"{SHARES[0]:.0%} of the labels wrong", arm, STEP) for arm in (ALL, GAST)),
    ],
    notes=[
        BOUNDS,
        (
            "AdamW without decay, constant rate, as many steps for all arms; a rate is the best of three by test error "
            "on seeds 1000 and 1001"
        ),
        "the random half that is the same for all layers is a batch of 8",
        "wrong labels are the next digit; the clean support is 100 images that no other arm has, but the last",
        (
            "half of the layers: the others have no gradient in that step, as in LISA; by alignment, layers are drawn "
            "by their mean gradient's inner product with the support's"
        ),
        "a linear layer is a layer: a block of this network has one",
        "a step's time is a mean over its run, under whatever else the machine did; arms did not take turns",
        "with 40 % of the labels wrong all arms err in about two of three images: little is learnt in 300 steps",
    ],
    remarks=edges(RATES),
    sizes={"width": 96, "steps": 300},
    files=digits.files,
)
LARGER = dataclasses.replace(
    EXPERIMENT,
    name="larger/gast",
    model=f"MLP 64-512-512-512-512-10, LoRA of rank {RANK} on four layers, {KEEP} of {BATCH} samples",
    sizes={"seeds": 10, "width": 512, "steps": 600},
)
EXPERIMENT = dataclasses.replace(EXPERIMENT, larger=LARGER)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
