"""What a fast form returns may be written into, as any layer's output may: `nn.ReLU(inplace=True)` does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import graftwork as gw

METHODS = {"lora": gw.LoRA(2), "dora": gw.DoRA(2), "diablo": gw.DiaBlo(2)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8), (1, 3, 3, 8)], ids=len)
@pytest.mark.parametrize("method", list(METHODS))
def test_an_activation_in_place_may_follow(method: str, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6, bias=bias), nn.ReLU(inplace=True)).double()
    g = gw.graft(net, METHODS[method], sites=["0"])
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.1 * torch.randn_like(p))
    plain = copy.deepcopy(net)
    (state,) = (s for _, s in gw.get(plain).states())
    state.fast = None
    plain[1].inplace = False
    x = torch.randn(shape, dtype=torch.float64)
    found, wanted = net(x), plain(x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    found.square().sum().backward()
    wanted.square().sum().backward()
    for (name, p), q in zip(g.named_parameters(), gw.get(plain).parameters(), strict=True):
        assert p.grad is not None and q.grad is not None, name
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)
