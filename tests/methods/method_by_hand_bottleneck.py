"""Equations by hand, continued: bottleneck adapters."""

from __future__ import annotations

import math
from typing import Any

import torch
from method_by_hand import ByHand, Tensors, branch, broadcast, by_hand, groups_of
from torch import Tensor, nn


def activated(act: str, z: Tensor) -> Tensor:
    """A bottleneck's activation; GELU from the error function."""
    return torch.relu(z) if act == "relu" else z * (1 + torch.erf(z / math.sqrt(2))) / 2


@by_hand("serial_adapter")
def serial_adapter(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    inner = layer.inner[0] if hasattr(layer, "inner") else layer
    axis = -1 - (inner.weight.dim() - 2 if isinstance(inner, nn.modules.conv._ConvNd) else 0)

    def through(m: Tensor, h: Tensor) -> Tensor:
        return torch.movedim(torch.tensordot(m, h, ([1], [h.dim() + axis])), 0, axis)

    down_bias, up_bias = broadcast(inner, p["down_bias"]), broadcast(inner, p["up_bias"])

    def hidden(y: Tensor) -> Tensor:
        return activated(method.act, through(p["down"], y) + down_bias)

    def forward(x: Tensor, **call: Any) -> Tensor:
        y = layer(x, **call)
        return y + method.scale * (through(p["up"], hidden(y)) + up_bias)

    def energy(x: Tensor, **call: Any) -> Tensor:
        y = layer(x, **call)
        terms = through(p["up"] ** 2, hidden(y) ** 2) + up_bias**2
        return y.pow(2) + method.scale**2 * terms

    return ByHand(forward, energy)


@by_hand("adaptformer")
def adaptformer(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    inner = layer.inner[0] if hasattr(layer, "inner") else layer
    s = method.scale
    up_bias = broadcast(inner, p["up_bias"])
    # where all groups share the bottleneck, each has its own copy of it
    copies = 1 if method.bottleneck % groups_of(inner) == 0 else groups_of(inner)
    down_bias = broadcast(inner, torch.cat([p["down_bias"]] * copies))

    def opened(h: Tensor) -> Tensor:
        return activated(method.act, h + down_bias)

    def forward(x: Tensor, **call: Any) -> Tensor:
        side = branch(inner, p["down"], p["up"], opened, x, call) + up_bias
        return layer(x, **call) + s * side

    def energy(x: Tensor, **call: Any) -> Tensor:
        base = layer(x, **call).pow(2)
        terms = branch(inner, p["down"], p["up"] ** 2, lambda h: opened(h).pow(2), x, call)
        return base + s**2 * (terms + up_bias**2)

    return ByHand(forward, energy)
