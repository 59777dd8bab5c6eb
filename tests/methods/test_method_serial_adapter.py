"""The serial adapter's numbered invariants."""

from __future__ import annotations

import copy

import pytest
import torch
from method_invariants import invariant
from torch import nn
from torch.nn import functional as F

import graftwork as gw

BLOCK = nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 8))


def moved(layer: nn.Module, method: object) -> tuple[nn.Module, gw.Graft]:
    model = copy.deepcopy(layer)
    g = gw.graft(model, method, seed=0)  # type: ignore[arg-type]
    torch.manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return model, g


@invariant("serial_adapter", 1)
@pytest.mark.parametrize("layer", [nn.Linear(5, 8), BLOCK])
def test_start_is_the_base_and_two_tensors_have_a_gradient(layer: nn.Module) -> None:
    model = nn.ModuleDict({"mlp": copy.deepcopy(layer)})
    g = gw.graft(model, gw.SerialAdapter(6), sites=["mlp"], seed=0)
    x = torch.randn(40, 5)
    y = model["mlp"](x)
    assert torch.equal(y, layer(x))
    y.square().sum().backward()
    for name, p in g.named_parameters():
        assert bool(p.grad.any()) == (name in ("mlp.up", "mlp.up_bias")), name
        assert bool(p.any()) == (name == "mlp.down"), name
    down = dict(g.named_parameters())["mlp.down"]
    assert down.abs().max() <= 8**-0.5 and bool((down < 0).any()) and bool((down > 0).any())


@invariant("serial_adapter", 2)
@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_forward_is_the_composition_and_merging_is_refused(act: str) -> None:
    layer, x = nn.Linear(5, 8).double(), torch.randn(3, 5, dtype=torch.float64)
    model, g = moved(layer, gw.SerialAdapter(6, act=act, scale=-0.7))
    t, h = g.tensors(), layer(x)
    hidden = getattr(F, act)(h @ t["down"].T + t["down_bias"])
    by_hand = h - 0.7 * (hidden @ t["up"].T + t["up_bias"])
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    with pytest.raises(gw.GraftError, match="serial_adapter"):
        g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("serial_adapter", 2)
def test_on_a_convolution_each_position_is_adapted_alike() -> None:
    layer = nn.Conv3d(2, 4, 3, stride=2, groups=2).double()
    model, g = moved(layer, gw.SerialAdapter(3))
    t, x = g.tensors(), torch.randn(2, 2, 5, 6, 7, dtype=torch.float64)
    h = layer(x)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in h.shape[2:])).tolist():
        v = h[:, :, place[0], place[1], place[2]]
        wanted = v + F.relu(v @ t["down"].T + t["down_bias"]) @ t["up"].T + t["up_bias"]
        got = model(x)[:, :, place[0], place[1], place[2]]
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@invariant("serial_adapter", 3)
@pytest.mark.parametrize("layer", [nn.Linear(20, 768), nn.Conv2d(6, 768, (3, 2), groups=2)])
def test_count(layer: nn.Module) -> None:
    g = gw.graft(layer, gw.SerialAdapter())
    assert sum(p.numel() for p in g.parameters()) == 98_304 + 64 + 768


@invariant("serial_adapter", 4)
def test_with_the_relu_open_it_is_affine_and_no_scale_is_the_base() -> None:
    layer = nn.Linear(4, 6).double()
    model, g = moved(layer, gw.SerialAdapter(3))
    with torch.no_grad():
        dict(g.named_parameters())["down_bias"].fill_(1e3)
    x, z = torch.randn(2, 3, 4, dtype=torch.float64)
    affine = model(x) + model(z) - model(torch.zeros_like(x))
    torch.testing.assert_close(model(x + z), affine, rtol=0, atol=1e-9)
    off, _ = moved(layer, gw.SerialAdapter(3, scale=0.0))
    assert torch.equal(off(x), layer(x))


@invariant("serial_adapter", 5)
@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_behind_the_identity_it_is_the_parallel_one(act: str) -> None:
    eye = nn.Linear(5, 5, bias=False).double()
    with torch.no_grad():
        eye.weight.copy_(torch.eye(5))
    serial, g = moved(eye, gw.SerialAdapter(3, act=act))
    parallel = copy.deepcopy(eye)
    gw.graft(parallel, gw.AdaptFormer(3, scale=1.0, act=act)).load_tensors(g.tensors())
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(serial(x), parallel(x), rtol=0, atol=1e-12)
