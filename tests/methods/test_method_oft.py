"""OFT's numbered invariants."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from method_by_hand_blocks import rotation
from method_invariants import invariant
from torch import Tensor, nn

import graftwork as gw
from graftwork.algebra.linear import Linear

N, M = 12, 8


def layer_of(dtype: torch.dtype = torch.float64) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(N, M).to(dtype)


def moved(g: gw.Graft, size: float = 0.5) -> None:
    with torch.no_grad():
        for p in g.parameters():
            p.add_(size * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))


def x_of(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(5, N, generator=torch.Generator().manual_seed(2)).to(dtype)


@invariant("oft", 1)
@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_start_is_the_base(side: str, dtype: torch.dtype) -> None:
    layer, x = layer_of(dtype), x_of(dtype)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.OFT(4, side=side))
    assert torch.equal(model(x), layer(x)) and not g.tensors()["Q"].any()
    g.merge()
    assert torch.equal(model.weight, layer.weight)


@invariant("oft", 2)
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("k", [2, 3, 8])
def test_blocks_are_rotations(size: float, k: int) -> None:
    for dtype, limit in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        limit *= max(1.0, size)  # the condition of I + Q
        rng = torch.Generator().manual_seed(0)
        q = (size * torch.randn(4, k * (k - 1) // 2, generator=rng)).to(dtype)
        r = gw.OFT(k).offsets({"Q": q}) + torch.eye(k, dtype=dtype)
        assert (r.mT @ r - torch.eye(k, dtype=dtype)).abs().max() < limit
        assert (torch.linalg.det(r) - 1).abs().max() < 10 * limit
        if size == 1.0:
            want = torch.stack([rotation(v.double(), k) for v in q])
            assert (r.double() - want).abs().max() < 10 * limit


@invariant("oft", 3)
@pytest.mark.parametrize("side", ["input", "output"])
def test_lengths_and_angles_stay(side: str) -> None:
    layer = layer_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.OFT(4, side=side))
    moved(g)
    g.merge()
    gram = [w @ w.T if side == "input" else w.T @ w for w in (model.weight, layer.weight)]
    torch.testing.assert_close(gram[0], gram[1], rtol=0, atol=1e-13)
    other = [w.T @ w if side == "input" else w @ w.T for w in (model.weight, layer.weight)]
    assert (other[0] - other[1]).abs().max() > 0.05


@invariant("oft", 4)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("side", ["input", "output"])
def test_forward_and_merged_forward_are_the_turned_layer(side: str, shared: bool) -> None:
    layer, x = layer_of(), x_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.OFT(4, shared=shared, side=side))
    moved(g)
    q = g.tensors()["Q"]
    count = (N if side == "input" else M) // 4
    r = torch.block_diag(*(rotation(q[i % len(q)], 4) for i in range(count)))
    weight = layer.weight @ r.T if side == "input" else r.T @ layer.weight
    want = x @ weight.T + layer.bias
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-13)
    if side == "input":
        torch.testing.assert_close(model(x), layer(x @ r), rtol=0, atol=1e-13)
    g.merge()
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-13)


@invariant("oft", 5)
def test_count() -> None:
    def count(method: gw.OFT) -> int:
        return sum(p.numel() for p in gw.graft(layer_of(), method).parameters())

    assert count(gw.OFT(4)) == 3 * 6 and count(gw.OFT(4, shared=True)) == 6
    assert count(gw.OFT(4, side="output")) == 2 * 6 and count(gw.OFT(12)) == 66
    conv = nn.Conv2d(8, 4, 3, groups=2)
    assert sum(p.numel() for p in gw.graft(conv, gw.OFT(2)).parameters()) == 4


@invariant("oft", 6)
def test_the_negative_turns_back() -> None:
    layer, x = layer_of(), x_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.OFT(4))
    moved(g)
    q = g.tensors()["Q"].clone()
    g.merge(keep=False)
    g.remove()
    assert (model(x) - layer(x)).abs().max() > 0.05
    gw.graft(model, gw.OFT(4)).load_tensors({"Q": -q})
    torch.testing.assert_close(model(x), layer(x), rtol=0, atol=1e-13)


@invariant("oft", 7)
def test_the_first_gradient_is_the_free_changes_antisymmetrised() -> None:
    layer, x = layer_of(), x_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.OFT(4))
    model(x).pow(3).sum().backward()
    d = torch.zeros(3, 4, 4, dtype=torch.float64, requires_grad=True)
    free = x + x @ torch.block_diag(*d)
    layer(free).pow(3).sum().backward()
    (ours,) = (p.grad for p in g.parameters())
    rows, cols = torch.triu_indices(4, 4, 1)
    assert d.grad is not None
    want = -2 * (d.grad - d.grad.mT)[:, rows, cols]  # D = -2 Q to first order
    torch.testing.assert_close(ours, want, rtol=1e-12, atol=1e-12)


def test_convolutions_turn_channels_within_a_group() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect", groups=2).double()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    model = copy.deepcopy(conv)
    g = gw.graft(model, gw.OFT(2))
    moved(g)
    r = torch.block_diag(*(rotation(v, 2) for v in g.tensors()["Q"]))
    want = conv(torch.einsum("nchw,cd->ndhw", x, r))
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-13)
    assert not gw.OFT(2, side="output").dense_pays(Linear(out=2, in_=2))
    assert gw.OFT(2).dense_pays(Linear(out=2, in_=2))


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"block": 1}, "OFT.block"), ({"side": "both"}, "OFT.side"), ({"shared": 1}, "OFT.shared")],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        gw.OFT(**fields)


def test_a_block_that_divides_nothing_is_refused() -> None:
    for method, words in (
        (gw.OFT(5), "12 of a group are no multiple of 5"),
        (gw.OFT(3, side="output"), "8 of a group are no multiple of 3"),
    ):
        with pytest.raises(gw.GraftError, match=words):
            gw.graft(nn.Sequential(layer_of()), method)
    with pytest.raises(gw.GraftError, match="3 of a group are no multiple of 2"):
        gw.graft(nn.Sequential(nn.Conv1d(6, 6, 1, groups=2)), gw.OFT(2))
