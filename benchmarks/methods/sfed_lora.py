"""Does a rate that was tuned at few clients and a low rank still work at many clients and a high one?

    python -m benchmarks.methods.sfed_lora

Clients share A and keep B; a server averages A after each round. They read the shifted digits of `digits.py`, dealt
out by a Dirichlet distribution over labels, with SGD. Each rule's alpha makes the scale 2 at 2 clients and rank 4. A
rate is tuned there and kept (the paper's setting), or tuned again in place. The factor N belongs to clients that draw
their first A independently; from a common first A it does not.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch
from torch import Tensor
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.harness import (
    BOUNDS,
    RATE,
    SWEEP,
    Experiment,
    below,
    edges,
    only,
    ratio,
    summary,
    told,
    versus,
)
from graftwork_runs import Row

WIDTH, BATCH, LOCAL = 64, 8, 5
CLIENTS, RANKS = (2, 8, 32), (4, 16, 64)
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
RULES = {
    "alpha / r": lambda n, r: gw.LoRA(r, alpha=8.0).scale,
    "alpha / sqrt r": lambda n, r: gw.LoRA(r, alpha=4.0, rslora=True).scale,
    "alpha sqrt(N / r)": lambda n, r: gw.LoRA(r, alpha=2 * math.sqrt(2), clients=n).scale,
}
SFED = "alpha sqrt(N / r)"
KEPT, AGAIN, COMMON = (
    "rate kept, independent start",
    "rate tuned in place, independent start",
    "rate kept, common start",
)
LOSS, ROSE = "training loss at the end", "share of seeds that ended above their start"
GRADIENT = "gradient norm of B at step {}"


def case(way: str, clients: int, rank: int) -> str:
    return f"{way}: {clients} clients, rank {rank}"


def deal(labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]:
    """Indices of each client's images: each label's are dealt out by a draw of Dirichlet(0.5), none goes without."""
    out: list[list[int]] = [[] for _ in range(clients)]
    for label in range(10):
        mine = torch.nonzero(labels == label).flatten()
        mine = mine[torch.randperm(len(mine), generator=generator)]
        # Gamma(1/2) is half a squared normal
        share = torch.randn(clients, generator=generator).square()
        ends = (share.cumsum(0) / share.sum() * len(mine)).round().long().tolist()
        for i, (a, b) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            out[i] += mine[a:b].tolist()
    for i, some in enumerate(out):
        if not some:  # one image of the richest
            out[i] = [max(out, key=len).pop()]
    return [torch.tensor(some) for some in out]


class Federation:
    """Federated runs side by side, one for each (seed, rate): tensors `(runs, clients, ...)`."""

    def __init__(
        self, seeds: list[int], rates: list[float], clients: int, rank: int, scale: float, common: bool
    ) -> None:  # fmt: skip
        self.rates, self.scale, self.clients = torch.tensor(rates), scale, clients
        tasks = [digits.task(seed, WIDTH) for seed in seeds]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.x = torch.stack([torch.cat([t.train[0], t.test[0]]) for t in tasks])
        self.y = torch.stack([torch.cat([t.train[1], t.test[1]]) for t in tasks])
        self.mine = [deal(y, clients, g) for y, g in zip(self.y, self.generators, strict=True)]
        layers = [[m for m in t.base if hasattr(m, "weight")] for t in tasks]
        self.base = [
            (torch.stack([ls[i].weight.detach() for ls in layers]).unsqueeze(1),
             torch.stack([ls[i].bias.detach() for ls in layers])[:, None, None])
            for i in range(3)
        ]  # fmt: skip
        self.factors: list[Tensor] = []  # A and B of the first layer, then of the second
        for weight, _ in self.base[:2]:
            (out, in_), starts = weight.shape[2:], []
            for g in self.generators:
                draw = torch.empty(1 if common else clients, rank, in_)
                starts.append(draw.uniform_(-(in_**-0.5), in_**-0.5, generator=g).mean(0))
            a = torch.stack(starts).unsqueeze(1).repeat(1, clients, 1, 1)
            self.factors += [a, torch.zeros(len(seeds), clients, out, rank)]
        self.gradients: list[Tensor] = []

    def batch(self) -> tuple[Tensor, Tensor]:
        """A batch of each client's own images."""
        picks = torch.stack([
            torch.stack([some[torch.randint(len(some), (BATCH,), generator=g)] for some in mine])
            for mine, g in zip(self.mine, self.generators, strict=True)
        ])  # fmt: skip
        return self.pick(picks)

    def pick(self, picks: Tensor) -> tuple[Tensor, Tensor]:
        runs = torch.arange(len(picks)).view(-1, 1, 1)
        return self.x[runs, picks], self.y[runs, picks]

    def loss(self, x: Tensor, y: Tensor, factors: list[Tensor]) -> Tensor:
        """Mean loss of each client, `(runs, clients)`."""
        for i, (weight, bias) in enumerate(self.base):
            out = x @ weight.mT + bias
            if i < 2:
                a, b = factors[2 * i : 2 * i + 2]
                out = F.gelu(out + self.scale * (x @ a.mT) @ b.mT)
            x = out
        return F.cross_entropy(x.movedim(-1, 1), y, reduction="none").mean(-1)

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of SGD of every client on its own batch."""
        leaves = [f.detach().requires_grad_() for f in self.factors]
        grads = torch.autograd.grad(self.loss(x, y, leaves).sum(), leaves)
        norms = sum(g.square().sum((2, 3)) for g in grads[1::2])
        self.gradients.append(torch.as_tensor(norms).sqrt().mean(1))
        rates = self.rates.view(-1, 1, 1, 1)
        self.factors = [f.detach() - rates * g for f, g in zip(self.factors, grads, strict=True)]

    def average(self) -> None:
        """The server's part: all clients get the mean of their A."""
        for i in (0, 2):
            a = self.factors[i]
            self.factors[i] = a.mean(1, keepdim=True).expand_as(a).clone()

    @torch.no_grad()
    def level(self) -> list[float]:
        """Each run's mean over clients of the loss on 16 of their own images, drawn apart from training."""
        generators = [torch.Generator().manual_seed(1) for _ in self.mine]
        picks = torch.stack([
            torch.stack([some[torch.randint(len(some), (16,), generator=g)] for some in mine])
            for mine, g in zip(self.mine, generators, strict=True)
        ])  # fmt: skip
        return self.loss(*self.pick(picks), self.factors).mean(1).tolist()


def federate(
    seeds: list[int], rates: list[float], clients: int, rank: int, rule: str, rounds: int, common: bool
) -> dict[str, list[float]]:  # fmt: skip
    """Figures of each (seed, rate), taken in pairs."""
    fed = Federation(seeds, rates, clients, rank, RULES[rule](clients, rank), common)
    start = fed.level()
    for _ in range(rounds):
        for _ in range(LOCAL):
            fed.step(*fed.batch())
        fed.average()
    end = [v if math.isfinite(v) else math.inf for v in fed.level()]
    found = {LOSS: end, ROSE: [float(e > s) for e, s in zip(end, start, strict=True)]}
    last = len(fed.gradients)
    for name, step in (("1", 1), ("10", min(10, last)), ("last", last)):
        found[GRADIENT.format(name)] = fed.gradients[step - 1].tolist()
    return found


def tuned(clients: int, rank: int, rule: str, rounds: int, common: bool) -> float:
    """The rate with the lowest mean loss on the seeds of the sweep."""
    seeds = [s for s in SWEEP for _ in RATES]
    found = federate(seeds, [*RATES] * len(SWEEP), clients, rank, rule, rounds, common)[LOSS]
    by_rate = {r: sum(found[i :: len(RATES)]) for i, r in enumerate(RATES)}
    return min(by_rate, key=lambda r: by_rate[r])


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for way, common in ((KEPT, False), (AGAIN, False), (COMMON, True)):
        kept = {rule: tuned(CLIENTS[0], RANKS[0], rule, options.rounds, common) for rule in RULES}
        for n in CLIENTS:
            for r in RANKS:
                name, losses = case(way, n, r), {}
                for rule, rate in kept.items():
                    if way == AGAIN:
                        rate = tuned(n, r, rule, options.rounds, common)
                    found = federate(seeds, [rate] * len(seeds), n, r, rule, options.rounds, common)
                    losses[rule] = found[LOSS]
                    rows.append(Row(case=name, variant=rule, metric=RATE, value=rate))
                    rose = statistics.fmean(found.pop(ROSE))
                    rows.append(Row(case=name, variant=rule, metric=ROSE, value=rose, n=len(seeds)))
                    rows += [summary(name, rule, metric, v) for metric, v in found.items()]
                for rule in RULES:
                    if rule != SFED:
                        rows.append(versus(name, SFED, ratio(LOSS, rule), losses[SFED], losses[rule]))  # fmt: skip
                print(name, flush=True)
    return rows


def judge(rows: list[Row]) -> str:
    """Seen if with the kept rate SFed-LoRA's loss is the lowest in the farthest cell and rises above its start in none,
    partly if one of the two."""
    far = (CLIENTS[-1], RANKS[-1])
    others = [ratio(LOSS, rule) for rule in RULES if rule != SFED]
    there = [only(rows, case(KEPT, *far), SFED, metric) for metric in others]
    cells = [(n, r) for n in CLIENTS for r in RANKS]
    rose = [c for c in cells if (only(rows, case(KEPT, *c), SFED, ROSE).value or 0) > 0]
    count = all(map(below, there)) + (not rose)
    word = ("not seen at this scale", "partly", "seen")[count]
    again = [only(rows, case(AGAIN, *far), SFED, metric) for metric in others]
    common = [only(rows, case(COMMON, *far), SFED, metric) for metric in others]
    above = ", ".join(f"{n} clients at rank {r}" for n, r in rose) or "no cell"
    return (
        f"{word}: at {far[0]} clients and rank {far[1]} the loss over that of alpha / r and of alpha / sqrt r is "
        f"{told(there[0])} and {told(there[1])} with the kept rate, {told(again[0])} and {told(again[1])} with rates "
        f"tuned in place, {told(common[0])} and {told(common[1])} from a common start; it ends above its start in "
        f"{above}."
    )


EXPERIMENT = Experiment(
    name="sfed_lora",
    claim="With the scale alpha sqrt(N / r) a setting tuned at few clients and low rank holds at many and high rank.",
    model=f"MLP 64-{WIDTH}-{WIDTH}-10, LoRA on two layers, A averaged over clients, B kept",
    data="997 shifted handwritten digits of 8 x 8, dealt out by Dirichlet 0.5",
    measure=measure,
    judge=judge,
    shown=[
        (case(way, CLIENTS[-1], RANKS[-1]), SFED, ratio(LOSS, rule))
        for way in (KEPT, AGAIN, COMMON)
        for rule in RULES
        if rule != SFED
    ],
    notes=[
        BOUNDS,
        f"SGD, batches of {BATCH}, {LOCAL} local steps a round; a rate is the best of six on seeds 1000 to 1002",
        "equal weights of clients in the average, all take part; clients' private classifiers are left out",
    ],
    remarks=edges(RATES),
    sizes={"rounds": 20},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
