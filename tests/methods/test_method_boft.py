"""BOFT's numbered invariants."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from method_by_hand_blocks import permutation, whole_rotation
from method_invariants import invariant
from torch import Tensor, nn

import graftwork as gw

N, M = 16, 6


def layer_of(dtype: torch.dtype = torch.float64) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(N, M).to(dtype)


def moved(g: gw.Graft, size: float = 0.5) -> None:
    with torch.no_grad():
        for p in g.parameters():
            p.add_(size * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))


def x_of(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(5, N, generator=torch.Generator().manual_seed(2)).to(dtype)


@invariant("boft", 1)
@pytest.mark.parametrize("gain", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_start_is_the_base(gain: bool, dtype: torch.dtype) -> None:
    layer, x = layer_of(dtype), x_of(dtype)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.BOFT(4, butterflies=3, gain=gain))
    assert torch.equal(model(x), layer(x))
    g.merge()
    assert torch.equal(model.weight, layer.weight)


@invariant("boft", 2, 5)
@pytest.mark.parametrize(("k", "p"), [(2, 1), (2, 4), (4, 3), (8, 2), (16, 1)])
def test_the_product_is_a_rotation_and_reaches_everything(k: int, p: int) -> None:
    for dtype, limit in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        method = gw.BOFT(k, butterflies=p)
        shape = (p, N // k, k * (k - 1) // 2)
        q = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        d, eye = method.offsets({"Q": q}), torch.eye(N, dtype=dtype)
        r = eye + method.turn(eye, d)
        assert (r.mT @ r - eye).abs().max() < limit
        assert (eye + method.back(eye, d) - r.mT).abs().max() < limit
        assert ((whole_rotation(method, q.double(), N) - r.double()).abs() < 10 * limit).all()
        full = k * 2 ** (p - 1) == N
        assert bool((r != 0).all()) is full
    layer = layer_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, method)
    moved(g)
    g.merge()
    new, old = model.weight, layer.weight
    torch.testing.assert_close(new @ new.T, old @ old.T, rtol=0, atol=1e-13)


@invariant("boft", 3)
@pytest.mark.parametrize("side", ["input", "output"])
def test_one_factor_is_oft(side: str) -> None:
    x, models = x_of(), [layer_of(), layer_of()]
    ours = gw.graft(models[0], gw.BOFT(2, butterflies=1, side=side))
    other = gw.graft(models[1], gw.OFT(2, side=side))
    moved(ours)
    other.load_tensors({"Q": ours.tensors()["Q"][0]})
    assert torch.equal(models[0](x), models[1](x))


@invariant("boft", 4)
@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("gain", [False, True])
def test_forward_and_merged_forward_are_the_turned_layer(
    side: str, shared: bool, gain: bool
) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(N, 8).double(), x_of()
    model = copy.deepcopy(layer)
    method = gw.BOFT(4, butterflies=2, side=side, shared=shared, gain=gain)
    g = gw.graft(model, method)
    moved(g)
    t = g.tensors()
    r = whole_rotation(method, t["Q"], N if side == "input" else 8)
    weight = layer.weight @ r.T if side == "input" else r.T @ layer.weight
    if gain:
        weight = t["gain"][:, None] * weight
    want = x @ weight.T + layer.bias
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-13)
    g.merge()
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-13)


def test_the_permutations() -> None:
    assert torch.equal(permutation(8, 4, 0), torch.eye(8, dtype=torch.float64))
    order = permutation(8, 4, 1) @ torch.arange(8.0, dtype=torch.float64)
    assert order.tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


@invariant("boft", 6)
def test_count() -> None:
    def count(method: gw.BOFT) -> int:
        return sum(p.numel() for p in gw.graft(layer_of(), method).parameters())

    assert count(gw.BOFT(4, butterflies=2)) == 2 * 4 * 6
    assert count(gw.BOFT(4, butterflies=2, gain=True)) == 2 * 4 * 6 + M
    assert count(gw.BOFT(4, butterflies=3, shared=True)) == 3 * 6


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"block": 3}, "BOFT.block must be even, half a block must exist; not 3"),
        ({"block": 0}, "BOFT.block"),
        ({"butterflies": 0}, "BOFT.butterflies"),
        ({"side": "both"}, "BOFT.side"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        gw.BOFT(**fields)


def test_what_the_factors_do_not_fit_is_refused() -> None:
    with pytest.raises(gw.GraftError, match="16 of a group are no multiple of 32"):
        gw.graft(nn.Sequential(layer_of()), gw.BOFT(4, butterflies=4))
    with pytest.raises(gw.GraftError, match="6 of a group are no multiple of 4"):
        gw.graft(nn.Sequential(layer_of()), gw.BOFT(2, butterflies=2, side="output"))
    gw.graft(nn.Sequential(layer_of()), gw.BOFT(4, butterflies=3))
