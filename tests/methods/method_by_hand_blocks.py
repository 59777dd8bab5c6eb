"""Equations by hand, continued: rotations in blocks, and experts behind a router."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from method_by_hand import (
    ByHand,
    Tensors,
    broadcast,
    by_hand,
    dense,
    groups_of,
    in_layout,
    place,
    sizes,
    top_margin,
)
from torch import Tensor, nn


def rotation(entries: Tensor, k: int) -> Tensor:
    """(I - Q)(I + Q)^-1 of the entries above the diagonal of Q, row by row."""
    q, at = torch.zeros(k, k, dtype=entries.dtype), 0
    for i in range(k):
        for j in range(i + 1, k):
            unit = torch.zeros_like(q)
            unit[i, j], unit[j, i] = 1.0, -1.0
            q = q + entries[at] * unit
            at += 1
    return (torch.eye(k) - q) @ torch.linalg.inv(torch.eye(k) + q)


def permutation(n: int, k: int, j: int) -> Tensor:
    """Every 2^j k channels in pieces of k/2, the even pieces before the odd ones, as a matrix."""
    order: list[int] = []
    for first in range(0, n, k * 2**j):
        pieces = [
            list(range(first + c * k // 2, first + (c + 1) * k // 2)) for c in range(2 ** (j + 1))
        ]
        for piece in pieces[0::2] + pieces[1::2]:
            order += piece
    return torch.eye(n, dtype=torch.float64)[order]


def whole_rotation(method: Any, q: Tensor, n: int) -> Tensor:
    """R `(n, n)` of one method with Q `(p, blocks or 1, ...)`."""
    total = torch.eye(n, dtype=torch.float64)
    for j, entries in enumerate(q):
        count = n // method.block
        blocks = [rotation(entries[i % len(entries)], method.block) for i in range(count)]
        p = permutation(n, method.block, j)
        total = p @ torch.block_diag(*blocks) @ p.T @ total
    return total


@by_hand("oft")
@by_hand("boft")
def orthogonal(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    q = p["Q"] if method.id == "boft" else p["Q"].unsqueeze(0)
    o, i = sizes(layer)
    inward, groups = method.side == "input", groups_of(layer)
    n = groups * (i if inward else o)
    r = whole_rotation(method, q, n)
    gain = p.get("gain", torch.ones(groups * o, dtype=torch.float64))
    weight = layer.weight.clone()
    for j in range(groups):
        everything = place(layer, j, slice(None), slice(None))
        own = in_layout(layer, layer.weight[everything])  # (out, in, *kernel)
        each = i if inward else o
        part = r[j * each : (j + 1) * each, j * each : (j + 1) * each]
        # W R^T, or R^T W
        turned = torch.einsum("oc...,dc->od..." if inward else "oc...,od->dc...", own, part)
        scale = gain[j * o : (j + 1) * o].reshape(-1, *[1] * (own.dim() - 1))
        weight[everything] = in_layout(layer, scale * turned)
    made = dense(layer, {"weight": weight})
    old = getattr(layer, "bias", None)
    bias = broadcast(layer, torch.zeros_like(gain) if old is None else old)
    s = broadcast(layer, gain)

    def energy(x: Tensor, **call: Any) -> Tensor:
        # y + (s - 1)(y - b) + s (W D x)
        y, new = layer(x, **call), made.forward(x, **call)
        moved = (new - bias) - s * (y - bias)
        return y.pow(2) + ((s - 1) * (y - bias)).pow(2) + moved.pow(2)

    made.energy = energy
    return made


@by_hand("moe_lora")
@by_hand("hydra_lora")
def mixture(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    count, r = method.experts, method.rank
    s = 1.0 if method.alpha is None else method.alpha / r
    shared = method.id == "hydra_lora"

    def odds_of(x: Tensor) -> Tensor:
        odds = torch.exp(x @ p["router"].T)
        return odds / odds.sum(-1, keepdim=True)

    def gates(x: Tensor) -> Tensor:
        if count == 1:
            return torch.ones(*x.shape[:-1], 1, dtype=x.dtype)
        odds = odds_of(x)
        least = odds.sort(-1, descending=True).values[..., (method.top_k or count) - 1, None]
        kept = torch.where(odds >= least, odds, 0)
        return kept / kept.sum(-1, keepdim=True)

    def experts(x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        w = gates(x)
        for i in range(count):
            rows = slice(i * r, (i + 1) * r)
            yield s * w[..., i, None], p["A"] if shared else p["A"][rows], p["B"][:, rows]

    def forward(x: Tensor, **call: Any) -> Tensor:
        return layer(x) + sum(w * (x @ (b @ a).T) for w, a, b in experts(x))

    def energy(x: Tensor, **call: Any) -> Tensor:
        terms = (w**2 * ((x @ a.T) ** 2 @ (b**2).T) for w, a, b in experts(x))
        return layer(x).pow(2) + sum(terms)

    if count == 1:
        return ByHand(forward, energy)
    kept = method.top_k or count
    return ByHand(forward, energy, margin=lambda x: top_margin(odds_of(x), kept))
