"""IA3's numbered invariants."""

from __future__ import annotations

import copy

import pytest
import torch
from method_invariants import invariant
from torch import nn

import graftwork as gw

SIDES = ("output", "input")


def grafted(layer: nn.Module, side: str) -> tuple[nn.Module, gw.Graft, torch.Tensor]:
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.IA3(scale=side))
    torch.manual_seed(1)
    (scale,) = g.parameters()
    with torch.no_grad():
        scale.add_(torch.randn_like(scale))
    return model, g, scale.detach()


@invariant("ia3", 1, 3)
@pytest.mark.parametrize(("side", "count"), [("output", 6), ("input", 4)])
def test_start_is_the_base_and_one_parameter_per_channel(side: str, count: int) -> None:
    layer, x = nn.Conv2d(4, 6, 3, groups=2), torch.randn(1, 4, 5, 5)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.IA3(scale=side))
    assert torch.equal(model(x), layer(x))
    (scale,) = g.parameters()
    assert scale.shape == (count,) and bool((scale == 1).all())


@invariant("ia3", 2)
@pytest.mark.parametrize("side", SIDES)
def test_forward_is_the_scaled_weight(side: str) -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model, g, scale = grafted(layer, side)
    if side == "output":
        by_hand = x @ (scale[:, None] * layer.weight).T + scale * layer.bias
    else:
        by_hand = x @ (layer.weight * scale).T + layer.bias
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("ia3", 4)
def test_scaling_all_inputs_is_scaling_all_outputs_without_bias() -> None:
    layer, x = nn.Conv1d(4, 6, 3, bias=False).double(), torch.randn(1, 4, 9, dtype=torch.float64)
    outputs = []
    for side in SIDES:
        model, g, _ = grafted(layer, side)
        with torch.no_grad():
            next(g.parameters()).fill_(-1.7)
        outputs.append(model(x))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_zero_scale_closes_the_channel_exactly(dtype: torch.dtype) -> None:
    layer = nn.Linear(5, 7).to(dtype)
    model, _, _ = grafted(layer, "output")
    with torch.no_grad():
        next(gw.get(model).parameters())[2] = 0
    assert not model(torch.randn(3, 5).to(dtype))[:, 2].any()


def test_overrides_mix_the_two_sides() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    g = gw.graft(model, gw.IA3(), overrides={"1": {"scale": "input"}})
    assert {n: tuple(t.shape) for n, t in g.tensors().items()} == {"0.scale": (4,), "1.scale": (4,)}
