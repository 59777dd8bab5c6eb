"""AdaptFormer's numbered invariants."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from method_invariants import invariant
from torch import nn
from torch.nn import functional as F

import graftwork as gw


def moved(g: gw.Graft) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return g.tensors()


@invariant("adaptformer", 1)
@pytest.mark.parametrize(
    "layer", [nn.Linear(5, 7), nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 7))]
)
def test_start_is_the_base(layer: nn.Module) -> None:
    model = nn.ModuleDict({"mlp": copy.deepcopy(layer)})
    t = gw.graft(model, gw.AdaptFormer(3), sites=["mlp"]).tensors()
    x = torch.randn(3, 5)
    assert torch.equal(model["mlp"](x), layer(x))
    down = t["mlp.down"]
    assert not any(bool(t[f"mlp.{n}"].any()) for n in ("down_bias", "up", "up_bias"))
    assert down.abs().max() <= 1 / math.sqrt(5) and abs(float(down.mean())) < 0.3
    assert bool((down > 0).any()) and bool((down < 0).any())


@invariant("adaptformer", 2)
@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_forward_is_the_composition_and_merging_is_refused(act: str) -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.AdaptFormer(3, scale=-0.7, act=act))
    t = moved(g)
    hidden = getattr(F, act)(x @ t["down"].T + t["down_bias"])
    by_hand = layer(x) - 0.7 * (hidden @ t["up"].T + t["up_bias"])
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    with pytest.raises(gw.GraftError, match="adaptformer"):
        g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("adaptformer", 3)
def test_count() -> None:
    g = gw.graft(nn.Conv2d(6, 8, (3, 2), groups=2), gw.AdaptFormer(4))
    assert sum(p.numel() for p in g.parameters()) == 4 * 3 * 6 + 4 + 8 * 2 + 8


@invariant("adaptformer", 4)
def test_with_the_relu_open_it_is_affine() -> None:
    layer = nn.Conv1d(4, 6, 3).double()
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.AdaptFormer(3, scale=1.0))
    moved(g)
    with torch.no_grad():
        dict(g.named_parameters())["down_bias"].fill_(1e3)
    x, z = torch.randn(2, 1, 4, 9, dtype=torch.float64)
    affine = model(x) + model(z) - model(torch.zeros_like(x))
    torch.testing.assert_close(model(x + z), affine, rtol=0, atol=1e-9)


def test_a_grafted_sequential_stays_one() -> None:
    """Its hidden child must not be run, counted or indexed."""
    block = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    model = nn.ModuleDict({"mlp": block})
    x = torch.randn(2, 3)
    before = block(x)
    g = gw.graft(model, gw.AdaptFormer(2), sites=["mlp"])
    assert torch.equal(model["mlp"](x), before)
    assert len(block) == 3 and block[-1] is list(block)[2] and len(block[:2]) == 2
    assert isinstance(block, nn.Sequential)
    g.remove()
    assert type(block) is nn.Sequential
