"""DoRA's numbered invariants."""

from __future__ import annotations

import copy

import pytest
import torch
from method_invariants import invariant
from torch import nn

import graftwork as gw


def grafted(layer: nn.Module, size: float = 0.3, rank: int = 2) -> tuple[nn.Module, gw.Graft]:
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.DoRA(rank), seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(size * torch.randn_like(p))
    return model, g


@invariant("dora", 1)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_start_is_the_base(dtype: torch.dtype) -> None:
    layer = nn.Conv2d(4, 6, 3).to(dtype)
    model = copy.deepcopy(layer)
    t = gw.graft(model, gw.DoRA(2)).tensors()
    x = torch.randn(1, 4, 5, 5).to(dtype)
    assert torch.equal(model(x), layer(x))
    by_hand = layer.weight.to(t["magnitude"].dtype).flatten(1).norm(dim=1)
    torch.testing.assert_close(t["magnitude"], by_hand)
    assert not t["B"].any() and t["A"].any()


@invariant("dora", 2)
def test_forward_is_the_equation() -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model, g = grafted(layer)
    t = g.tensors()
    moved = layer.weight + t["B"] @ t["A"]
    rows = moved.pow(2).sum(1, keepdim=True).sqrt()
    by_hand = x @ (t["magnitude"][:, None] * moved / rows).T + layer.bias
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("dora", 3)
def test_count_is_loras_plus_out() -> None:
    counts = []
    for method in (gw.LoRA(4), gw.DoRA(4)):
        g = gw.graft(nn.Conv3d(4, 6, 3, groups=2), method)
        counts.append(sum(p.numel() for p in g.parameters()))
    assert counts[1] - counts[0] == 6


@invariant("dora", 4)
@pytest.mark.parametrize("layer", [nn.Linear(5, 7), nn.ConvTranspose1d(4, 6, 3, groups=2)])
def test_with_the_magnitude_at_the_row_norm_it_is_lora(layer: nn.Module) -> None:
    layer = layer.double()
    model, g = grafted(layer)
    other = copy.deepcopy(layer)
    lora = gw.graft(other, gw.LoRA(2))
    t = g.tensors()
    lora.load_tensors({"A": t["A"], "B": t["B"]})
    probe = copy.deepcopy(other)
    gw.get(probe).merge()
    with torch.no_grad():
        w = probe.weight
        if isinstance(layer, nn.ConvTranspose1d):
            w = w.unflatten(0, (2, -1)).transpose(1, 2).flatten(0, 1)
        dict(g.named_parameters())["magnitude"].copy_(w.flatten(1).norm(dim=1))
    x = torch.randn(3, 5) if isinstance(layer, nn.Linear) else torch.randn(3, 4, 5)
    torch.testing.assert_close(model(x.double()), other(x.double()), rtol=0, atol=1e-12)


@invariant("dora", 5)
def test_the_norm_carries_no_gradient() -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model, g = grafted(layer)
    model(x).square().sum().backward()
    p = {n: t.detach().clone().requires_grad_() for n, t in g.named_parameters()}
    moved = layer.weight.detach() + p["B"] @ p["A"]
    ratio = p["magnitude"] / moved.detach().norm(dim=1)
    (x @ (ratio[:, None] * moved).T + layer.bias.detach()).square().sum().backward()
    for name, ours in g.named_parameters():
        torch.testing.assert_close(ours.grad, p[name].grad, rtol=0, atol=1e-11)


@invariant("dora", 6)
def test_a_zero_row_stays_finite_and_is_moved_by_ba_alone() -> None:
    layer = nn.Linear(5, 3)
    with torch.no_grad():
        layer.weight[1] = 0
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.DoRA(2))
    x = torch.randn(4, 5)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in g.parameters())
    magnitude = dict(g.named_parameters())["magnitude"]
    assert magnitude.grad is not None and magnitude.grad[1] == 0 and magnitude.grad[0] != 0
    with torch.no_grad():
        magnitude.add_(5.0)
    y = model(x)
    assert torch.equal(y[:, 1], layer(x)[:, 1]) and not torch.equal(y[:, 0], layer(x)[:, 0])
    g.merge()
    assert model(x).isfinite().all() and torch.equal(model(x)[:, 1], layer(x)[:, 1])


def test_a_double_starts_at_the_base_although_roots_of_squares_may_be_a_bit_off() -> None:
    torch.manual_seed(5)
    layer = nn.Linear(3, 200_000, dtype=torch.float64)
    x = torch.randn(2, 3, dtype=torch.float64)
    before = layer(x)
    gw.graft(layer, gw.DoRA(2), sites=["*"])
    layer.double()
    for fast in (False, True):
        with torch.set_grad_enabled(fast):
            assert torch.equal(layer(x), before)
