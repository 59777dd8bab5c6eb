"""A small pre-trained transformer and a shifted task: the digits of `digits.py`, read as eight rows of eight pixels.

Two pre-norm blocks of width 32 have learnt the upright digits; they adapt to turned and inverted ones, from 50 of them
or from 500. The embedding stays; the classifier trains in every arm, as in the papers, and alone in one of them. It
has what methods for transformers act on: keys and values, norms, biases, and a feed-forward block.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.digits import ERROR, Make, Task
from benchmarks.methods.harness import BOUNDS, Figures, Trial, compare
from graftwork_runs import Row

WIDTH, HEADS, BLOCKS, PRETRAINING = 32, 4, 2, 250
STEPS, BATCH = 100, 32
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
FEW, MANY = "50 examples", "500 examples"
CASES = {FEW: 50, MANY: 500}
MODEL = f"transformer of {BLOCKS} blocks of width {WIDTH} on 8 tokens; the classifier trains along"
DATA = "1,797 handwritten digits of 8 x 8, {} of them turned or inverted to adapt to"
NOTES = (
    BOUNDS,
    "AdamW without decay, batches of 32",
    "in each case an arm's rate is the best of a grid by test error on seeds 1000 to 1002",
)


class Block(nn.Module):
    """Attention and a feed-forward block, each behind a norm and beside a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.mlp = nn.Sequential(self.fc1, nn.GELU(), self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (
            f(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class Encoder(nn.Module):
    """Logits `(n, 10)` of digits `(n, 64)`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.place = nn.Parameter(0.5 * torch.randn(8, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.unflatten(-1, (8, 8))) + self.place
        for block in self.blocks:
            h = block(h)
        y: Tensor = self.head(self.norm(h).mean(1))
        return y


@functools.lru_cache(maxsize=16)
def task(seed: int) -> Task:
    """The task of a seed, and a transformer that has learnt its upright digits."""
    return digits.task_of(Encoder, seed, PRETRAINING, 3e-3)


def everything(model: nn.Module, seed: int) -> gw.Graft:
    """Full fine-tuning of all but the embedding."""
    return gw.graft(model, gw.LoRA(1), sites=[], also_train=["blocks", "norm", "head"])


def head_alone(model: nn.Module, seed: int) -> gw.Graft:
    """The classifier."""
    return gw.graft(model, gw.LoRA(1), sites=[], also_train=["head"])


def on(method: object, *sites: str, **more: object) -> Make:
    """A method on some layers; the classifier trains beside it."""
    return lambda model, seed: gw.graft(
        model, method, sites=list(sites), also_train=["head"], seed=seed, **more
    )  # type: ignore[arg-type]


FULL, HEAD = "full fine-tuning", "classifier alone"
#: LoRA of several counts of trained numbers, beside the classifier's 330
LORA_256, LORA_384, LORA_640 = (f"LoRA, {n} numbers" for n in (256, 384, 640))
ARMS: dict[str, Make] = {
    FULL: everything,
    HEAD: head_alone,
    LORA_256: on(gw.LoRA(1), "*.q", "*.v"),
    LORA_384: on(gw.LoRA(1), "*.q", "*.k", "*.v"),
    LORA_640: on(gw.LoRA(1), "*.q", "*.v", "*.fc1", "*.fc2"),
}


@functools.cache  # experiments share arms, where one process runs several
def arm(make: Make, count: int, steps: int) -> Trial:
    """An arm that adapts to the first `count` shifted digits of a seed."""

    @functools.cache
    def run(seed: int, rate: float) -> Figures:
        where = task(seed)
        x, y = where.train
        some = Task(where.base, (x[:count], y[:count]), where.test, where.upright)
        graft = make(copy.deepcopy(where.base), seed)
        return digits.adapt(graft, some, digits.adamw(graft, rate), steps, seed, BATCH)

    return run


def measure(
    name: str, make: Make, lora: str, cases: Sequence[str], rates: Sequence[float],
    seeds: list[int], steps: int,
) -> list[Row]:  # fmt: skip
    """Rows of a method beside full fine-tuning, a LoRA of its size and the classifier, in these cases."""
    arms = {FULL: everything, HEAD: head_alone, lora: ARMS[lora], name: make}
    rows: list[Row] = []
    for case in cases:
        trials = {n: arm(m, CASES[case], steps) for n, m in arms.items()}
        pairs = [(name, other) for other in (FULL, lora, HEAD)]
        rows += compare(case, trials, rates, seeds, ERROR, pairs)
        rows += digits.counted(case, arms, task(seeds[0]).base)
    return rows
