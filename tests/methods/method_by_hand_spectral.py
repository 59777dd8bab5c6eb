"""Equations by hand, continued: the methods whose change is weighed component by component."""

from __future__ import annotations

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
    place,
    sizes,
)
from torch import Tensor, nn


@by_hand("alfa")
def alfa(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    o, _ = sizes(layer)
    r = method.rank
    v, weight = p["V"] * p["S"].reshape(-1, *[1] * (p["V"].dim() - 1)), layer.weight.clone()
    mixes = []
    for j in range(groups_of(layer)):
        rows = slice(j * r, (j + 1) * r)
        if method.form == "free":
            n = torch.diag(1 + p["n"][j])
        elif method.form == "diagonal":
            odds = torch.exp(p["e"][j])
            n = torch.diag(1 + p["gate"] * (r * odds / odds.sum() - 1))
        else:
            tokens = [p["S"][j, i] ** 0.5 * p["V"][rows][i].reshape(-1) for i in range(r)]
            scores = [[(a @ p["query"]) @ (b @ p["key"]) for b in tokens] for a in tokens]
            odds = torch.exp(torch.stack([torch.stack(s) for s in scores]) / method.width**0.5)
            n = torch.eye(r) + p["gate"] * (odds / odds.sum(1, keepdim=True) - torch.eye(r))
        mixes.append(p["U"][j * o : (j + 1) * o] @ (n - torch.eye(r)))
        everything = place(layer, j, slice(None), slice(None))
        change = in_layout(layer, torch.tensordot(mixes[-1], v[rows], 1))
        weight[everything] = weight[everything] + change
    made = dense(layer, {"weight": weight})
    up = torch.cat(mixes)

    def energy(x: Tensor, **call: Any) -> Tensor:
        return layer(x, **call).pow(2) + branch(layer, v, up**2, torch.square, x, call)

    made.energy = energy
    return made


@by_hand("lora_sp")
def lora_sp(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    def scores(x: Tensor) -> Tensor:
        odds = torch.exp(x @ p["w1"].T + p["b1"])
        z = (odds / odds.sum(-1, keepdim=True)) @ p["w2"].T + p["b2"]
        return torch.log1p(torch.exp(z))

    def margin(x: Tensor) -> Tensor:
        energy = scores(x).square().sort(-1, descending=True).values
        shares = energy.cumsum(-1) / energy.sum(-1, keepdim=True)
        return (shares[..., :-1] - method.eta).abs().min()

    def terms(x: Tensor) -> list[Tensor]:
        s = scores(x)
        energy = s.detach() ** 2
        # what the vectors with more energy than this one have together
        larger = energy.unsqueeze(-2) > energy.unsqueeze(-1)
        above = (larger * energy.unsqueeze(-2)).sum(-1)
        sigma = torch.where(above < method.eta * energy.sum(-1, keepdim=True), s, 0)
        each = method.scale * sigma * (x @ p["V"].T)
        return [each[..., i : i + 1] * p["U"][:, i] for i in range(method.rank)]

    def forward(x: Tensor, **call: Any) -> Tensor:
        return layer(x) + sum(terms(x))

    return ByHand(
        forward,
        lambda x, **call: layer(x).pow(2) + sum(t.pow(2) for t in terms(x)),
        margin=margin if method.rank > 1 else None,
    )
