"""MiLoRA's numbered invariants."""

from __future__ import annotations

import copy

import pytest
import torch
from method_invariants import invariant
from torch import nn

import graftwork as gw


def moved(g: gw.Graft, size: float = 0.3) -> None:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng, dtype=torch.float64)).to(p.dtype))


@invariant("milora", 1, 4)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_start_is_the_base_and_the_count_is_loras(dtype: torch.dtype) -> None:
    base = nn.Linear(6, 10).to(dtype)
    model, x = copy.deepcopy(base), torch.randn(4, 6).to(dtype)
    g = gw.graft(model, gw.MiLoRA(3, alpha=5.0))
    assert torch.equal(model(x), base(x)) and torch.equal(model.weight, base.weight)
    assert sum(p.numel() for p in g.parameters()) == 3 * 6 + 10 * 3
    frozen = {n: t.clone() for n, t in g.tensors().items() if n in ("A0", "B0")}
    assert len(frozen) == 2
    optimizer = torch.optim.AdamW(g.parameters(), lr=0.1)
    model(x).float().square().sum().backward()
    optimizer.step()
    assert not torch.equal(model(x), base(x))
    assert all(torch.equal(g.tensors()[n], t) for n, t in frozen.items())
    assert torch.equal(model.weight, base.weight)


@invariant("milora", 2)
def test_forward_is_the_equation() -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.MiLoRA(2, alpha=6.0))
    moved(g)
    t = g.tensors()
    by_hand = x @ (layer.weight + 3 * (t["B"] @ t["A"] - t["B0"] @ t["A0"])).T + layer.bias
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("milora", 3)
@pytest.mark.parametrize("alpha", [0.01, None, 50.0])
def test_the_start_is_what_the_truncated_svd_leaves_over(alpha: float | None) -> None:
    layer = nn.Linear(6, 9).double()
    method = gw.MiLoRA(2, alpha=alpha)
    t = gw.graft(copy.deepcopy(layer), method).tensors()
    u, s, vh = torch.linalg.svd(layer.weight, full_matrices=False)
    rest = layer.weight - u[:, :4] @ torch.diag(s[:4]) @ vh[:4]
    torch.testing.assert_close(method.scale * t["B0"] @ t["A0"], rest, rtol=0, atol=1e-12)
    torch.testing.assert_close(t["A0"].norm(dim=1), t["B0"].norm(dim=0))
    assert torch.equal(t["A"], t["A0"]) and torch.equal(t["B"], t["B0"])


@invariant("milora", 5)
def test_at_full_rank_it_is_pissa() -> None:
    layer = nn.Linear(6, 9).double()
    starts = [gw.graft(copy.deepcopy(layer), m(6)).tensors() for m in (gw.MiLoRA, gw.PiSSA)]
    minor, major = ({n: t.sort().values for n, t in s.items()} for s in starts)
    for a, b in zip(starts[0]["A0"], starts[1]["A0"], strict=True):
        torch.testing.assert_close(a, b)
    assert minor.keys() == major.keys()
    w = starts[0]["B0"] @ starts[0]["A0"]
    torch.testing.assert_close(w, layer.weight.detach(), rtol=0, atol=1e-12)
