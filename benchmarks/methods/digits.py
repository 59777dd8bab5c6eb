"""A small pre-trained network and a shifted task, from the 1,797 handwritten digits that scikit-learn ships.

Of each seed's own split, 800 upright digits pre-train a network of two hidden layers; the task is to read 500 others,
each turned by 90 or by 180 degrees or with its grey values inverted, and 497 are for the test, shifted likewise
and upright. What adapts are the two hidden layers; the classifier stays.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods.harness import NUMBERS, Figures, Trial
from graftwork_runs import Row

SITES = ["0", "2"]
STEPS, BATCH = 300, 64
EARLY, LATE, ERROR, KEPT = (
    "training loss, first 10 % of steps",
    "training loss, last 10 % of steps",
    "test error, %",
    "error on upright digits, %",
)
DATA = "1,797 handwritten digits of 8 x 8; 500 of them turned or inverted to adapt to"

Make = Callable[[nn.Module, int], gw.Graft]
Optimize = Callable[[gw.Graft, float], torch.optim.Optimizer]


def adamw(graft: gw.Graft, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(graft.parameters(), lr=rate, weight_decay=0.0)


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Images `(1797, 8, 8)` from -1 to 1, and labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32) / 8 - 1
    return images, torch.tensor(found.target, dtype=torch.long)


def files() -> dict[str, str]:
    """The data's name and hash, as a record takes them."""
    images, labels = digits()
    content = images.numpy().tobytes() + labels.numpy().tobytes()
    return {"scikit-learn digits": hashlib.sha256(content).hexdigest()}


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by 90 degrees, by 180, or inverted; as `(n, 64)`."""
    which = torch.randint(3, (len(images),), generator=generator)
    forms = torch.stack([images.rot90(1, (1, 2)), images.rot90(2, (1, 2)), -images])
    return forms[which, torch.arange(len(images))].flatten(1)


@dataclass
class Task:
    """One seed's network and data: `(n, 64)` images with labels."""

    base: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    upright: tuple[Tensor, Tensor]


def network(width: int, depth: int = 2) -> nn.Sequential:
    """`depth` hidden layers, at the names 0, 2, 4 and so on, and the classifier."""
    widths = [64, *[width] * depth]
    hidden = [[nn.Linear(a, b), nn.GELU()] for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*itertools.chain(*hidden), nn.Linear(width, 10))


def split(generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Images `(n, 8, 8)` and labels: 800 to pre-train on, 500 to adapt to, 497 to test on."""
    images, labels = digits()
    order = torch.randperm(len(images), generator=generator)
    return [(images[some], labels[some]) for some in (order[:800], order[800:1300], order[1300:])]


def pretrain(model: nn.Module, x: Tensor, y: Tensor, steps: int, seed: int, rate: float) -> None:
    """Adam on random batches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for some, labels in batches(x, y, steps, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(some), labels).backward()
        optimizer.step()


def task_of(make: Callable[[], nn.Module], seed: int, steps: int, rate: float = 1e-3) -> Task:
    """The task of a seed, and a network from `make` that has learnt the upright digits."""
    generator = torch.Generator().manual_seed(seed)
    (first, digit), (second, train), (third, test) = split(generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = make()
    pretrain(base, first.flatten(1), digit, steps, seed, rate)
    return Task(
        base,
        (shifted(second, generator), train),
        (shifted(third, generator), test),
        (third.flatten(1), test),
    )


@functools.lru_cache(maxsize=16)
def task(seed: int, width: int, depth: int = 2) -> Task:
    """The task of a seed; its network has learnt the upright digits for 300 steps of Adam."""
    return task_of(lambda: network(width, depth), seed, STEPS)


def batches(
    x: Tensor, y: Tensor, steps: int, seed: int, size: int = BATCH
) -> Iterable[tuple[Tensor, Tensor]]:
    """Random batches, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        some = torch.randint(len(x), (min(size, len(x)),), generator=generator)
        yield x[some], y[some]


@torch.no_grad()
def error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of wrong answers, %."""
    model.eval()
    return 100 * float((model(x).argmax(1) != y).float().mean())


def adapt(
    graft: gw.Graft,
    where: Task,
    optimizer: torch.optim.Optimizer,
    steps: int,
    seed: int,
    size: int = BATCH,
) -> Figures:
    """Train the graft on the shifted digits; the losses are means over steps, without what a method adds."""
    model, losses = graft.model.train(), []
    for x, y in batches(*where.train, steps, seed, size):
        optimizer.zero_grad()
        with gw.extra_loss(model) as extra:
            loss = F.cross_entropy(model(x), y)
            (loss + extra()).backward()
        optimizer.step()
        losses.append(loss.detach())
    curve = torch.stack(losses).tolist()
    tenth = max(1, steps // 10)
    return {
        EARLY: statistics.fmean(curve[:tenth]),
        LATE: statistics.fmean(curve[-tenth:]),
        ERROR: error(model, *where.test),
        KEPT: error(model, *where.upright),
    }


def trial(make: Make, width: int, steps: int, optimize: Optimize = adamw) -> Trial:
    """An arm: graft the seed's network, train it at a rate."""

    @functools.cache  # cases that choose their rate by another metric repeat runs
    def run(seed: int, rate: float) -> Figures:
        where = task(seed, width)
        graft = make(copy.deepcopy(where.base), seed)
        return adapt(graft, where, optimize(graft, rate), steps, seed)

    return run


def with_method(method: Any, **more: Any) -> Make:
    """Graft a method on both hidden layers."""
    return lambda model, seed: gw.graft(model, method, sites=SITES, seed=seed, **more)


def counted(case: str, arms: Mapping[str, Make], base: nn.Module) -> list[Row]:
    """How many numbers each arm trains on this network."""
    grafts = {name: make(copy.deepcopy(base), 0) for name, make in arms.items()}
    return [
        Row(case=case, variant=name, metric=NUMBERS, value=sum(p.numel() for p in g.parameters()))
        for name, g in grafts.items()
    ]


def everything(model: nn.Module, seed: int) -> gw.Graft:
    """Full fine-tuning of the two hidden layers."""
    return gw.graft(model, gw.LoRA(1), sites=[], also_train=SITES)
