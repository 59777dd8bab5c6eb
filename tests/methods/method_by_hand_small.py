"""Equations by hand, continued: updates read off the weight, tensor trains, shared random matrices, branches."""

from __future__ import annotations

import math
from typing import Any

import torch
from method_by_hand import (
    ByHand,
    Tensors,
    branch,
    by_hand,
    dense,
    groups_of,
    in_layout,
    low_rank,
    place,
    sizes,
)
from torch import Tensor, nn


def dense_sum(layer: nn.Module, terms: list[Tensor]) -> ByHand:
    """The layer with `terms` added to its weight, each of them a term of the sum."""
    made = dense(layer, {"weight": layer.weight + sum(terms)})
    none = {} if getattr(layer, "bias", None) is None else {"bias": torch.zeros_like(layer.bias)}
    apart = [dense(layer, {"weight": t, **none}) for t in terms]

    def energy(x: Tensor, **call: Any) -> Tensor:
        return layer(x, **call).pow(2) + sum(a.forward(x, **call).pow(2) for a in apart)

    made.energy = energy
    return made


@by_hand("wegeft")
def wegeft(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    r = method.rank
    s = 1.0 if method.alpha is None else method.alpha / r
    terms = [torch.zeros_like(layer.weight) for _ in range(r)]
    for j in range(groups_of(layer)):
        everything = place(layer, j, slice(None), slice(None))
        w = in_layout(layer, layer.weight[everything])  # (out, in, ...)
        ones = [1] * (w.dim() - 2)
        for i, term in enumerate(terms):
            phi, psi = p["phi"][j * r + i], p["psi"][j * r + i]
            if method.form == "input":
                read = torch.tensordot(w, phi, ([1], [0])).unsqueeze(1)  # W0 phi_i
                part = read * psi.reshape(1, -1, *ones)
            else:
                read = torch.tensordot(psi, w, 1).unsqueeze(0)  # psi_i W0
                part = phi.reshape(-1, 1, *ones) * read
            term[everything] = s * in_layout(layer, part)
    return dense_sum(layer, terms)


def chained(cores: list[Tensor]) -> Tensor:
    """Every entry of a tensor train, as the product of one matrix of each core."""
    entries = [torch.eye(1, dtype=cores[0].dtype)]
    for core in cores:
        entries = [e @ core[:, i] for e in entries for i in range(core.shape[1])]
    return torch.cat(entries).flatten()


@by_hand("loretta")
def loretta(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    o, i = sizes(layer)
    groups, r = groups_of(layer), method.rank
    width = r // groups if r % groups == 0 else r
    kernel = in_layout(layer, layer.weight).shape[2:]
    a, b = (chained([p[k] for k in sorted(p) if k.startswith(name)]) for name in "AB")
    a = a.reshape(i, *kernel, r).movedim(
        -1, 0
    )  # stored as (in, k, r): the width of the update is last
    b = b.reshape(width, o * groups).T
    s = 1.0 if method.alpha is None else method.alpha / r
    made = dense(layer, {"weight": layer.weight + s * low_rank(layer, a, b)})

    def energy(x: Tensor, **call: Any) -> Tensor:
        return layer(x, **call).pow(2) + s**2 * branch(layer, a, b**2, torch.square, x, call)

    made.energy = energy
    return made


@by_hand("loretta_adp")
def loretta_adp(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    s, c, out = method.scale, len(p["down_bias"]), len(p["up_bias"])
    down, up = (chained([p[k] for k in sorted(p) if k.startswith(name)]) for name in "DU")
    down, up = down.reshape(out, c), up.reshape(c, out)
    act = {"relu": torch.relu, "tanh": torch.tanh}[method.act]

    def forward(x: Tensor, **call: Any) -> Tensor:
        h = layer(x, **call)
        return h + s * (act(h @ down + p["down_bias"]) @ up + p["up_bias"])

    def energy(x: Tensor, **call: Any) -> Tensor:
        h = layer(x, **call)
        hidden = act(h @ down + p["down_bias"]).pow(2)
        return h.pow(2) + s**2 * (hidden @ up.pow(2) + p["up_bias"].pow(2))

    return ByHand(forward, energy)


@by_hand("vera")
def vera(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    o, i = sizes(layer)
    groups, r = groups_of(layer), method.rank
    kernel = in_layout(layer, layer.weight).shape[2:]
    fan, width = i * math.prod(kernel), r // groups if r % groups == 0 else r
    stream = torch.Generator().manual_seed(method.seed)
    a, b = (
        torch.empty(shape).uniform_(-math.sqrt(3) * std, math.sqrt(3) * std, generator=stream)
        for shape, std in (
            ((r, method.width_in), math.sqrt(2) / math.sqrt(method.width_in)),
            ((method.width_out, r), math.sqrt(2) / math.sqrt(r)),
        )
    )
    a, b = a[:, :fan].double(), b[: o * groups, :width].double()
    a = torch.diag(p["d"]) @ a
    b = torch.diag(p["b"]) @ b
    a = a.reshape(r, i, *kernel)
    made = dense(layer, {"weight": layer.weight + low_rank(layer, a, b)})

    def energy(x: Tensor, **call: Any) -> Tensor:
        return layer(x, **call).pow(2) + branch(layer, a, b**2, torch.square, x, call)

    made.energy = energy
    return made


def opened(act: str, z: Tensor) -> Tensor:
    """NOBLE's activations, from exponentials and the error function."""
    if act == "gelu":
        return z * (1 + torch.erf(z / math.sqrt(2))) / 2
    if act == "silu":
        return z / (1 + torch.exp(-z))
    if act == "tanh":
        return 1 - 2 / (torch.exp(2 * z) + 1)
    return torch.where(z > 0, z, 0.01 * z) if act == "leaky_relu" else z


@by_hand("noble")
def noble(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    def hidden(x: Tensor) -> Tensor:
        h = x @ p["down"].T + p["down_bias"]
        for i in range(1, method.layers + 1):
            if i == 2:
                h = h @ p["mix"].T + p["mix_bias"]
            if method.act == "cos":
                turns = h * p[f"freq{i}"] + p[f"phase{i}"]
                h = torch.sin(turns + math.pi / 2)
            else:
                h = opened(method.act, h)
        return h

    def energy(x: Tensor, **call: Any) -> Tensor:
        return layer(x).pow(2) + hidden(x).pow(2) @ p["up"].T.pow(2)

    return ByHand(lambda x, **call: layer(x) + hidden(x) @ p["up"].T, energy)
