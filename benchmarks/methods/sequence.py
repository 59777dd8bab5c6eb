"""Four tasks one after the other with one adapter: how much was learnt, and how much of it is lost again?

A network of three layers 64-64 has learnt the upright digits of `digits.py`. The tasks are the same digits turned by
90 and by 180 degrees, inverted, and mirrored; each seed draws their order. Each has a head of its own, which begins as
the pre-trained one, trains with the adapter, and stays as it was left. The optimizer begins anew with each task.

With a[t, i] the accuracy on task i after task t, what a method has learnt is the mean of a[i, i], what it has
forgotten the mean over i < T of max_(t < T) a[t, i] - a[T, i]. A method that learns less has less to forget. So
forgetting is compared at matched learning: an arm's runs at its rates up to its own, each against the curve of
forgetting over learning that another arm draws with its rates. Every curve begins where heads alone train.
"""

from __future__ import annotations

import copy
import functools
import itertools
import statistics
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.digits import Make, batches
from benchmarks.methods.harness import (
    SWEEP,
    Figures,
    chosen_rate,
    compare,
    summary,
    versus,
)
from graftwork_runs import Row

WIDTH, LAYERS = 64, 3
HEAD_RATE = 1e-3
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
STEPS = 80
SITES = ["*.fc"]
CASE, MATCHED, CURVE = "own rate", "matched learning", "rate {:g}"
LEARNT, FIRST, FORGOT, LOST, FINAL = (
    "error when learnt, %",
    "error on the first task, %",
    "forgetting, points",
    "upright digits lost, points",
    "error on all tasks at the end, %",
)
DATA = "1,797 handwritten digits of 8 x 8; turned, inverted and mirrored, four tasks in sequence"
MODEL = f"MLP of {LAYERS} layers 64-{WIDTH}, a head for each task"

Turn = Callable[[Tensor], Tensor]
TASKS: tuple[Turn, ...] = (
    lambda x: x.rot90(1, (1, 2)),
    lambda x: x.rot90(2, (1, 2)),
    lambda x: -x,
    lambda x: x.flip(2),
)


def everything(model: nn.Module, seed: int) -> gw.Graft:
    """Full fine-tuning of the layers."""
    names = [f"{i}.fc" for i in range(LAYERS)]
    return gw.graft(model, gw.LoRA(1), sites=[], also_train=names)


def on_layers(method: object) -> Make:
    return lambda model, seed: gw.graft(model, method, sites=SITES, seed=seed)  # type: ignore[arg-type]


FULL = "full fine-tuning"
#: what methods are compared with at an equal count; rank 1 has 384 numbers
LORA: dict[str, Make] = {f"LoRA, rank {r}": on_layers(gw.LoRA(r)) for r in (1, 3, 4)}


def body() -> nn.Sequential:
    def layer() -> nn.Sequential:
        return nn.Sequential(OrderedDict(fc=nn.Linear(WIDTH, WIDTH), act=nn.GELU()))

    return nn.Sequential(*(layer() for _ in range(LAYERS)))


@functools.lru_cache(maxsize=16)
def pretrained(seed: int) -> tuple[nn.Sequential, nn.Linear]:
    """The layers and the head that have learnt the upright digits of a seed."""
    x, y = split(seed)[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers, head = body(), nn.Linear(WIDTH, 10)
    digits.pretrain(nn.Sequential(layers, head), x.flatten(1), y, digits.STEPS, seed, 1e-3)
    return layers, head


@functools.lru_cache(maxsize=16)
def split(seed: int) -> list[tuple[Tensor, Tensor]]:
    """The seed's images `(n, 8, 8)` with labels: to pre-train on, to adapt to, to test on."""
    return digits.split(torch.Generator().manual_seed(seed))


def continual(a: Tensor) -> tuple[float, float | None]:
    """What was learnt, the mean of a[i, i], and what was forgotten of it, `None` for a single task.

    Args:
        a: `(T, T)`, row t the scores after task t; those of tasks to come are not read.
    """
    learnt = float(a.diagonal().mean())
    if len(a) == 1:
        return learnt, None
    lost = [float(a[i:-1, i].max() - a[-1, i]) for i in range(len(a) - 1)]
    return learnt, statistics.fmean(lost)


@functools.cache  # experiments share arms, where one process runs several
def run(make: Make, seed: int, rate: float, steps: int, tasks: int = len(TASKS)) -> Figures:
    """Learn the tasks in the seed's order."""
    layers, head = pretrained(seed)
    _, (x, y), (tests, truth) = split(seed)
    graft = make(copy.deepcopy(layers), seed)
    order = torch.randperm(len(TASKS), generator=torch.Generator().manual_seed(seed)).tolist()
    before = digits.error(nn.Sequential(graft.model, head), tests.flatten(1), truth)
    heads: list[nn.Linear] = []
    a = torch.zeros(tasks, tasks)
    for t, which in enumerate(order[:tasks]):
        heads.append(copy.deepcopy(head))
        model = nn.Sequential(graft.model, heads[-1]).train()
        groups = [
            {"params": list(graft.parameters()), "lr": rate},
            {"params": list(heads[-1].parameters()), "lr": HEAD_RATE},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        for some, labels in batches(TASKS[which](x).flatten(1), y, steps, seed + t):
            optimizer.zero_grad()
            F.cross_entropy(model(some), labels).backward()
            optimizer.step()
        for i, old in enumerate(order[: t + 1]):
            shown = TASKS[old](tests).flatten(1)
            a[t, i] = 100 - digits.error(nn.Sequential(graft.model, heads[i]), shown, truth)
    learnt, forgot = continual(a)
    kept = digits.error(nn.Sequential(graft.model, head), tests.flatten(1), truth)
    found = {FIRST: 100 - float(a[0, 0])}
    if forgot is not None:
        found |= {LEARNT: 100 - learnt, FORGOT: forgot, LOST: kept - before}
        found[FINAL] = 100 - float(a[-1].mean())
    return found


def excess(
    mine: Sequence[Figures], other: Sequence[Figures], metric: str, learnt: str = LEARNT
) -> float:
    """By how much the runs `mine` lie above the curve of `metric` over what was learnt that `other` draws, in the mean.

    The curve is linear between the runs of `other`; beyond its ends it stays at its last value.
    """
    curve = sorted((f[learnt], f[metric]) for f in other)

    def at(x: float) -> float:
        if x <= curve[0][0]:
            return curve[0][1]
        for (x0, y0), (x1, y1) in itertools.pairwise(curve):
            if x <= x1:
                return y1 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        return curve[-1][1]

    return statistics.fmean(f[metric] - at(f[learnt]) for f in mine)


def over(metric: str, other: str) -> str:
    """The metric of a comparison at matched learning."""
    return f"{metric}, less {other}'s"


def measure(
    arms: Mapping[str, Make], pairs: Sequence[tuple[str, str]], rates: Sequence[float],
    seeds: list[int], steps: int,
) -> list[Row]:  # fmt: skip
    """Rows of each arm at its own rate, of its curve, and of the pairs, at their own rates and at matched learning.

    An arm's own rate is the best on the first task, on other seeds.
    """
    rows: list[Row] = []
    curves: dict[str, list[list[Figures]]] = {}
    for name, make in arms.items():
        trial = functools.partial(run, make, steps=steps)
        own = chosen_rate(functools.partial(trial, tasks=1), rates, FIRST, SWEEP)
        rows += compare(CASE, {name: trial}, rates, seeds, LEARNT, [], fixed=own)
        curves[name] = [[trial(s, r) for r in (0.0, *rates) if r <= own] for s in seeds]
        for rate in (0.0, *rates):
            found = [trial(s, rate) for s in seeds]
            case = CURVE.format(rate)
            rows += [summary(case, name, m, [f[m] for f in found]) for m in (LEARNT, FORGOT, LOST)]
    for name, other in pairs:
        mine, theirs = ([runs[-1][LEARNT] for runs in curves[n]] for n in (name, other))
        rows.append(versus(CASE, name, f"{LEARNT}, ratio to {other}", mine, theirs))
        for metric in (FORGOT, LOST):
            found = [
                excess(own[1:], ref, metric)
                for own, ref in zip(curves[name], curves[other], strict=True)
            ]
            zero = [0.0] * len(found)
            rows.append(versus(MATCHED, name, over(metric, other), found, zero, as_ratio=False))
    base = pretrained(seeds[0])[0]
    return [*rows, *digits.counted(CASE, arms, base)]


NOTES = (
    "median over seeds, lo and hi the smallest and largest; ratios are geometric means and differences means",
    "their bounds are 95 % bootstrap intervals over seeds",
    "AdamW without decay, batches of 64; an arm's own rate: the best of five on the first task, on seeds 1000 to 1002",
    "matched learning: the mean over an arm's rates up to its own; beyond the other arm's best it is set against that",
    "heads train at 1e-3 in all arms; rate 0 trains heads alone",
)
