"""GOAT against one LoRA of the same rank: what do experts, the theorem's scale and the slices each give?

    python -m benchmarks.methods.goat

The task is that of `digits.py`, total rank 8, eight experts of which two act. Every arm runs at a small rate that is
the same for all, and at the best of seven rates of its own; the paper compares at one rate. "Descent at the start" is
the squared gradient of A and B over that of the full weight; the theorem's scale makes it 1 in the mean for one LoRA.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import nn
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.digits import SITES, Make, with_method
from benchmarks.methods.harness import (
    BOUNDS,
    Experiment,
    Figures,
    below,
    compare,
    edges,
    only,
    ratio,
    told,
)
from graftwork.starts import svd
from graftwork_runs import Row

WIDTH, RANK, EXPERTS = 128, 8, 8
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SMALL = 1e-3
FIXED, OWN = f"fixed rate {SMALL:g}", "own rate"
LORA, ZERO = "LoRA, s = 2", "experts from zero, s = 2"
START, DESCENT, ENTROPY = (
    "start error of the outputs, relative",
    "descent at the start, of full fine-tuning's",
    "entropy of the router, of the largest",
)


def sliced(kind: str) -> Make:
    """GOAT with the `kind` triplets, "largest", "smallest" or "random", in place of the segments' own."""

    def make(model: nn.Module, seed: int) -> gw.Graft:
        method = gw.GOAT(RANK, EXPERTS)
        graft = gw.graft(model, method, sites=SITES, seed=seed)
        tensors, base = graft.tensors(), graft.base_tensors()
        generator = torch.Generator().manual_seed(seed)
        for name, state in graft.states():
            w = svd.matrices(state.geo, base[f"{name}.weight"])
            count = min(w.shape[1:])
            picks = {
                "largest": range(RANK),
                "smallest": range(count - RANK, count),
                "random": torch.randperm(count, generator=generator)[:RANK].tolist(),
            }[kind]
            start = 1 / (method.scale(state.geo) * method.rho)
            a, b = svd.factors(state.geo, svd.exact(w, list(picks)), start)
            tensors |= {f"{name}.{key}": t for key, t in (("A", a), ("A0", a), ("B", b), ("B0", b))}
        graft.load_tensors(tensors)
        return graft

    return make


ARMS: dict[str, Make] = {
    LORA: with_method(gw.LoRA(RANK, alpha=2.0 * RANK)),
    "LoRA, s of the theorem": with_method(gw.GOAT(RANK, 1, 1, init="zero")),
    ZERO: with_method(gw.GOAT(RANK, EXPERTS, init="zero", alpha=2.0 * RANK / EXPERTS)),
    "experts from zero, s of the theorem": with_method(gw.GOAT(RANK, EXPERTS, init="zero")),
    "GOAT, s = 2": with_method(gw.GOAT(RANK, EXPERTS, alpha=2.0 * RANK / EXPERTS)),
    "GOAT": with_method(gw.GOAT(RANK, EXPERTS)),
    **{f"GOAT, {kind} slices": sliced(kind) for kind in ("largest", "smallest", "random")},
}
PAIRS = [
    ("LoRA, s of the theorem", LORA),
    (ZERO, LORA),
    ("experts from zero, s of the theorem", ZERO),
    ("GOAT, s = 2", ZERO),
    ("GOAT", "experts from zero, s of the theorem"),
    ("GOAT", LORA),
    *((f"GOAT, {kind} slices", "GOAT") for kind in ("largest", "smallest", "random")),
]


def at_start(make: Make, seed: int) -> Figures:
    """What an arm is before its first step: error of the outputs, and how steeply the loss falls."""
    where = digits.task(seed, WIDTH)
    x, y = where.train
    full = copy.deepcopy(where.base)
    weights = [full.get_submodule(site).weight for site in SITES]
    loss = F.cross_entropy(full(x), y)
    steep = sum(float(g.square().sum()) for g in torch.autograd.grad(loss, weights))
    graft = make(copy.deepcopy(where.base), seed)
    graft.model.eval()
    out, base = graft.model(x), full(x).detach()
    factors = [p for name, p in graft.named_parameters() if name.rsplit(".", 1)[-1] in ("A", "B")]
    grads = torch.autograd.grad(F.cross_entropy(out, y), factors)
    return {
        START: float((out.detach() - base).norm() / base.norm()),
        DESCENT: sum(float(g.square().sum()) for g in grads) / steep,
    }


@torch.no_grad()
def entropy(graft: gw.Graft, x: torch.Tensor) -> float:
    """Mean entropy of the first layer's router on `x`, as a share of log E."""
    router = graft.tensors()[f"{SITES[0]}.router"]
    odds = (x @ router.T).softmax(-1)
    return float(torch.special.entr(odds).sum(-1).mean() / torch.tensor(float(EXPERTS)).log())


def arm(make: Make, steps: int) -> digits.Trial:
    """The arm of `digits.trial`, with what the start and the router are."""

    def run(seed: int, rate: float) -> Figures:
        where = digits.task(seed, WIDTH)
        graft = make(copy.deepcopy(where.base), seed)
        found = digits.adapt(graft, where, digits.adamw(graft, rate), steps, seed)
        if f"{SITES[0]}.router" in graft.tensors():
            found[ENTROPY] = entropy(graft, where.test[0])
        return {**found, **at_start(make, seed)}

    return run


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    arms = {name: arm(make, options.steps) for name, make in ARMS.items()}
    return [
        *compare(FIXED, arms, RATES, seeds, digits.ERROR, PAIRS, fixed=SMALL),
        *compare(OWN, arms, RATES, seeds, digits.ERROR, PAIRS),
    ]


def judge(rows: list[Row]) -> str:
    """Seen if GOAT errs less than LoRA with each at its own rate, partly if only at the rate that all share."""
    metric = ratio(digits.ERROR, LORA)
    fixed, own = (only(rows, case, "GOAT", metric) for case in (FIXED, OWN))
    word = "seen" if below(own) else "partly" if below(fixed) else "not seen at this scale"
    zero = only(rows, OWN, ZERO, metric)
    scaled = only(rows, OWN, "LoRA, s of the theorem", metric)
    return (
        f"{word}: GOAT's error over LoRA's is {told(fixed)} at the rate {SMALL:g} for all and {told(own)} at each "
        f"arm's own; there experts alone give {told(zero)}, the theorem's scale alone {told(scaled)}."
    )


EXPERIMENT = Experiment(
    name="goat",
    claim="Experts on slices of the spectrum, with the scale of the theorem, err less than one LoRA of the same rank.",
    model=f"MLP 64-{WIDTH}-{WIDTH}-10, total rank {RANK} on two layers",
    data=digits.DATA,
    measure=measure,
    judge=judge,
    shown=[
        *((case, "GOAT", ratio(digits.ERROR, LORA)) for case in (FIXED, OWN)),
        *((OWN, name, digits.ERROR) for name in (LORA, "GOAT")),
    ],
    notes=[
        BOUNDS,
        "AdamW without decay, batches of 64; an own rate is the best of seven by test error on seeds 1000 to 1002",
        "the load-balance loss is on with the weight of the method's default",
    ],
    remarks=edges(RATES),
    sizes={"seeds": 8, "steps": digits.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
