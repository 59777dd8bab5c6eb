"""The digits' three shifts as a mixture of tasks: what MoE-LoRA's and HydraLoRA's experiments share.

The task is that of `digits.py`. Nothing tells the network which shift an image has; a router can see it. "Parted" is
how far the mean gates of two shifts lie apart (total variation, 0 to 1), the mean over pairs of shifts, in the first
layer; at the start it is that of a random router.
"""

from __future__ import annotations

import copy
import itertools
import statistics

import torch
from torch import Tensor

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.digits import ERROR, SITES, Make, everything, with_method
from benchmarks.methods.harness import Figures, Trial, compare
from graftwork_runs import Row

WIDTH = 128
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
CASE = "own rate"
PARTED, BEFORE = "gates of the shifts parted", "gates of the shifts parted, at the start"
FULL, FEWER, MORE, MOE, HYDRA = (
    "full fine-tuning",
    "LoRA, fewer numbers",
    "LoRA, more numbers",
    "MoE-LoRA",
    "HydraLoRA",
)
ARMS: dict[str, Make] = {
    FULL: everything,
    FEWER: with_method(gw.LoRA(9)),
    MORE: with_method(gw.LoRA(10)),
    MOE: with_method(gw.MoELoRA(2, experts=4)),
    HYDRA: with_method(gw.HydraLoRA(3, experts=4)),
}


def parted(router: Tensor, images: Tensor) -> float:
    """How far apart the router `(E, 64)` holds the three shifts of images `(n, 64)`, in the mean."""
    upright = images.view(-1, 8, 8)
    forms = (upright.rot90(1, (1, 2)), upright.rot90(2, (1, 2)), -upright)
    means = [(x.flatten(1) @ router.T).softmax(-1).mean(0) for x in forms]
    apart = [float((a - b).abs().sum() / 2) for a, b in itertools.combinations(means, 2)]
    return statistics.fmean(apart)


def arm(make: Make, steps: int) -> Trial:
    def run(seed: int, rate: float) -> Figures:
        where = digits.task(seed, WIDTH)
        graft = make(copy.deepcopy(where.base), seed)
        key = f"{SITES[0]}.router"
        first = graft.tensors()[key].detach().clone() if key in graft.tensors() else None
        found = digits.adapt(graft, where, digits.adamw(graft, rate), steps, seed)
        if first is not None:
            with torch.no_grad():
                found[BEFORE] = parted(first, where.upright[0])
                found[PARTED] = parted(graft.tensors()[key], where.upright[0])
        return found

    return run


def rows_of(
    names: list[str], pairs: list[tuple[str, str]], seeds: list[int], steps: int
) -> list[Row]:
    """Rows of these arms, each at its own rate."""
    mine = {name: ARMS[name] for name in names}
    arms = {name: arm(make, steps) for name, make in mine.items()}
    rows = compare(CASE, arms, RATES, seeds, ERROR, pairs)
    return [*rows, *digits.counted(CASE, mine, digits.task(seeds[0], WIDTH).base)]
