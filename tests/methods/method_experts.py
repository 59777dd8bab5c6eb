"""What the tests of MoE-LoRA and HydraLoRA share: a layer, and what holds for both."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw

M, N = 9, 7
Experts = gw.MoELoRA | gw.HydraLoRA


def layer_of(dtype: torch.dtype = torch.float64) -> nn.Linear:
    """A layer of `N` to `M`."""
    torch.manual_seed(0)
    return nn.Linear(N, M).to(dtype)


def x_of(tokens: int = 20) -> Tensor:
    """Its input."""
    return torch.randn(tokens, N, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def moved(g: gw.Graft, size: float = 0.5) -> None:
    """Move everything that trains."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng, dtype=torch.float64)).to(p.dtype))


def starts_at_the_base(method: Experts) -> None:
    """Bit for bit in each precision, in training too."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        layer, x = layer_of(dtype), x_of().to(dtype)
        model = copy.deepcopy(layer)
        g = gw.graft(model, method, seed=0)
        assert torch.equal(model(x), layer(x)) and torch.equal(model.train()(x), layer(x))
        assert not g.tensors()["B"].any()


def starts_uniform(method: Experts, rows: dict[str, int]) -> None:
    """The named tensors of a layer of 400 inputs lie evenly in +-1/20."""
    g = gw.graft(nn.Linear(400, 32), method, seed=0)
    for name, count in rows.items():
        t = g.tensors()[name]
        assert t.shape == (count, 400) and t.min() >= -1 / 20 and t.max() <= 1 / 20
        assert abs(float(t.mean())) < 0.0025
        assert float(t.std()) == pytest.approx(1 / 20 / 3**0.5, rel=0.05)


def trains_as_lora(method: Experts) -> None:
    """With one expert of rank 2 and alpha 3: step for step."""
    x, models = x_of(), [layer_of(), layer_of()]
    grafts = [
        gw.graft(m, method, seed=4)
        for m, method in zip(models, (method, gw.LoRA(2, alpha=3.0)), strict=True)
    ]
    for _ in range(4):
        for model, g in zip(models, grafts, strict=True):
            for p in g.parameters():
                p.grad = None
            model(x).pow(2).sum().backward()
            with torch.no_grad():
                for p in g.parameters():
                    p -= 1e-3 * p.grad
        assert grafts[0].tensors().keys() == grafts[1].tensors().keys() == {"A", "B"}
        for n, t in grafts[0].tensors().items():
            torch.testing.assert_close(t, grafts[1].tensors()[n], rtol=0, atol=1e-13)
        torch.testing.assert_close(models[0](x), models[1](x), rtol=0, atol=1e-12)
    assert not torch.equal(models[0](x), layer_of()(x))
