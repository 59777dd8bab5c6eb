"""The edits of hidden states once more, by hand: Gram-Schmidt row by row, then the affine map of the paper; and prefix
tuning as a softmax written out.
"""

from __future__ import annotations

from typing import Any

import torch
from method_by_hand import ByHand, Tensors, by_hand
from torch import Tensor, nn

from graftwork.algebra.linear import Linear


def gram_schmidt(a: Tensor) -> Tensor:
    """The rows of a matrix made orthonormal, from the first to the last, twice over against rounding."""
    rows: list[Tensor] = []
    for v in a:
        for _ in range(2):
            for q in rows:
                v = v - (v @ q) * q
        rows.append(v / v.norm())
    return torch.stack(rows)


def affine(layer: nn.Module, inner: Tensor, b: Tensor, outer: Tensor) -> ByHand:
    """`h + outer^T (inner h + b)` behind a layer."""

    def forward(x: Tensor, **call: Any) -> Tensor:
        h = layer(x, **call)
        return h + (h @ inner.T + b) @ outer

    def energy(x: Tensor, **call: Any) -> Tensor:
        h2 = layer(x, **call).pow(2)
        return h2 + (h2 @ inner.pow(2).T + b.pow(2)) @ outer.pow(2)

    return ByHand(forward, energy)


@by_hand("loreft")
def loreft(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    r = gram_schmidt(p["R"]) if method.orthonormal else p["R"]
    return affine(layer, p["W"] - r, p["b"], r)


@by_hand("direft")
def direft(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    return affine(layer, p["W"], p["b"], gram_schmidt(p["R"]) if method.orthonormal else p["R"])


@by_hand("core")
def core(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    weight = list(layer.parameters())[0 if not hasattr(layer, "inner") else -2]
    d = weight.shape[1] if type(layer).__name__ == "Conv1D" else weight.shape[0]
    u = method.seeded(Linear(out=d, in_=1), weight)["U"]  # given, like everything random
    r = gram_schmidt(p["C"]) @ u
    w = p["W"] @ u if method.reads == "own" else p["W"]
    return affine(layer, w - r, p["b"], r)


@by_hand("prefix")
def prefix(method: Any, layer: Any, p: Tensors) -> ByHand:
    def parts(x: Tensor) -> tuple[Tensor, Tensor]:
        """Attention `(rows, heads, queries, prefix and keys)`, and what it weighs."""
        q, k, v = layer.split(x)
        n, m = x.shape[1], method.length
        own = [t.reshape(m, -1, layer.size) for t in (p["K"], p["V"])]
        weights, values = [], []
        for head in range(layer.heads):
            group = head * layer.kv_heads // layer.heads
            before = q[:, head] @ own[0][:, group].T
            logits = q[:, head] @ k[:, group].mT
            mask = layer.seen(n, x.dtype)
            if layer.mask == "causal":
                mask = torch.arange(n)[None] <= torch.arange(n)[:, None]
            scale = layer.size**-0.5
            odds, odds_before = torch.exp(logits * scale), torch.exp(before * scale)
            if mask is not None:
                odds = odds * (mask if mask.dtype == torch.bool else torch.exp(mask))
            odds = torch.cat([odds_before, odds], -1)
            weights.append(odds / odds.sum(-1, keepdim=True))
            old = own[1][:, group].expand(len(x), -1, -1)
            values.append(torch.cat([old, v[:, group]], 1))
        return torch.stack(weights, 1), torch.stack(values, 1)

    def forward(x: Tensor, **call: Any) -> Tensor:
        weights, values = parts(x)
        return layer.out_proj((weights @ values).transpose(1, 2).flatten(2))

    def energy(x: Tensor, **call: Any) -> Tensor:
        weights, values = parts(x)
        squares = (weights**2 @ values**2).transpose(1, 2).flatten(2)
        return squares @ (layer.out_proj.weight**2).T + layer.out_proj.bias**2

    return ByHand(forward, energy)
