"""Tensor trains: a long vector as a product of small cores.

x = reshape(U_1 U_2 ... U_d),   U_i of shape (rho_(i-1), k_i, rho_i),   rho_0 = rho_d = 1,   prod k_i entries
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def start(rows: int, columns: int, cores: int, rank: int, like: Tensor) -> list[Tensor]:
    """Cores of a random matrix of `rows x columns` entries with the standard deviation (rows + columns)^(-1/2).

    Args:
        cores: d at most. rank: the inner ranks, where their cuts allow as much.
        like: gives dtype and device.
    """
    sizes = modes(rows * columns, cores)
    ranks = inner_ranks(sizes, rank)
    each = ((rows + columns) ** -0.5) ** (1 / len(sizes))
    blank = [like.new_empty(ranks[i], k, ranks[i + 1]) for i, k in enumerate(sizes)]
    return [torch.nn.init.normal_(core, std=each / math.sqrt(core.shape[2])) for core in blank]


def product(cores: Sequence[Tensor]) -> Tensor:
    """U_1 U_2 ... U_d as a vector of prod k_i entries, the last index fastest; in float32 or wider."""
    with torch.autocast(cores[0].device.type, enabled=False):
        total = cores[0].flatten(0, 1)
        for core in cores[1:]:
            total = (total @ core.flatten(1)).reshape(-1, core.shape[-1])
    return total.flatten()


def modes(size: int, cores: int) -> list[int]:
    """Sizes k_i of at most `cores` cores, with the product `size`, as even as its primes allow."""
    bins, left, prime, primes = [1] * cores, size, 2, []
    while left > 1:
        prime = prime if left % prime == 0 else prime + 1 if prime * prime < left else left
        while left % prime == 0:
            primes.append(prime)
            left //= prime
    for prime in reversed(primes):
        bins[bins.index(min(bins))] *= prime
    found = sorted(k for k in bins if k > 1) or [1]
    return [*found[:-2], *reversed(found[-2:])]


def inner_ranks(sizes: Sequence[int], most: int) -> list[int]:
    """rho_0, ..., rho_d: `most`, or the largest that an unfolding of these sizes can have."""
    cuts = range(len(sizes) + 1)
    return [
        min(most, math.prod(sizes[:i]), math.prod(sizes[i:])) if 0 < i < len(sizes) else 1
        for i in cuts
    ]
