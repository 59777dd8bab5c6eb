"""The digits of `digits.py` read as tokens: a small pre-trained transformer, and the shifted digits to adapt it to.

What adapts are the blocks; embedding, positions, last norm and classifier stay.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.digits import ERROR, KEPT, LATE, adamw
from benchmarks.methods.harness import Figures, Trial
from benchmarks.methods.transformer import Encoder

SIZES = {"width": 48, "depth": 3, "steps": 150, "sweep": 1}
NUMBERS = "trained numbers"
BATCH, PRETRAIN = 32, 300
Make = Callable[[nn.Module, int], gw.Graft]


@functools.lru_cache(maxsize=16)
def task(seed: int, width: int, depth: int, device: str = "cpu") -> digits.Task:
    """The data of the seed's digits, and an encoder that has learnt the upright ones for 300 steps."""
    images, labels = digits.digits()
    given = digits.task(seed, 16)  # the same split; its own network is not used
    first = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:800]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = Encoder(width, depth).to(device)
    x, y = images[first].flatten(1).to(device), labels[first].to(device)
    fit(base, x, y, torch.optim.Adam(base.parameters(), lr=2e-3), PRETRAIN, seed)
    pairs = [tuple(t.to(device) for t in pair) for pair in (given.train, given.test, given.upright)]
    return digits.Task(base, *pairs)


def fit(
    model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, steps: int, seed: int,
    loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> list[float]:  # fmt: skip
    """Losses of training on random batches at a rate that falls linearly."""
    draw, losses = torch.Generator().manual_seed(seed), []
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        some = torch.randint(len(x), (min(BATCH, len(x)),), generator=draw)
        optimizer.zero_grad()
        loss = loss_of(model(x[some]), y[some])
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def trial(make: Make, images: int, options: argparse.Namespace) -> Trial:
    """An arm: graft the seed's encoder and train it on some of the shifted digits."""

    def run(seed: int, rate: float) -> Figures:
        where = task(seed, options.width, options.depth, options.device)
        graft = make(copy.deepcopy(where.base), seed)
        x, y = (t[:images] for t in where.train)
        losses = fit(graft.model.train(), x, y, adamw(graft, rate), options.steps, seed)
        return {
            ERROR: digits.error(graft.model, *where.test),
            KEPT: digits.error(graft.model, *where.upright),
            LATE: statistics.fmean(losses[-max(1, len(losses) // 10) :]),
            NUMBERS: float(sum(p.numel() for p in graft.parameters())),
        }

    return run


def everything(model: nn.Module, seed: int) -> gw.Graft:
    """Full fine-tuning of the blocks."""
    return gw.graft(model, gw.LoRA(1), sites=[], also_train=["blocks"])


def lora(rank: int, *sites: str) -> Make:
    """LoRA on some linears of each block, the queries' and values' by default."""
    names = [f"*.{s}" for s in sites or ("q", "v")]
    return lambda model, seed: gw.graft(model, gw.LoRA(rank), sites=names, seed=seed)


EVERY = ("q", "k", "v", "o", "up", "down")
