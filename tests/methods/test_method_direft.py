"""DiReFT's numbered invariants."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from edit_checks import D, blocks, check_lengths, check_places, check_tied, h_of, moved
from method_by_hand_edits import gram_schmidt
from method_invariants import invariant
from torch import Tensor, nn

import graftwork as gw
from graftwork.starts.orthonormal import orthonormal

R = 3


@invariant("direft", 1)
@pytest.mark.parametrize("fields", [{}, {"tied": False}, {"orthonormal": True}, {"where": "all"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_start_is_the_base(fields: dict[str, object], dtype: torch.dtype) -> None:
    base, x = blocks(dtype=dtype), h_of(dtype=dtype)
    model = copy.deepcopy(base)
    t = gw.graft(model, gw.DiReFT(R, **fields)).tensors()
    assert torch.equal(model(x), base(x))
    assert bool(t["layers.0.R"].any()) and not t["layers.0.W"].any() and not t["layers.0.b"].any()


@invariant("direft", 1)
def test_the_start_of_the_paper() -> None:
    model, base, x = blocks(), blocks(), h_of()
    method = gw.DiReFT(R, start_at="paper", tied=False)
    t = gw.graft(model, method).tensors()
    assert not method.starts_at_base and not torch.equal(model(x), base(x))
    for value in t.values():
        assert float(value.abs().max()) <= D**-0.5
        assert bool((value > 0).any()) and bool((value < 0).any())
    assert not torch.equal(t["layers.0.R"][0], t["layers.0.R"][1])
    assert float(t["layers.0.R"].std()) == pytest.approx(D**-0.5 / 3**0.5, rel=0.25)


@invariant("direft", 2)
@pytest.mark.parametrize("rows", [True, False])
def test_forward_is_the_affine_map_by_hand(rows: bool) -> None:
    def phi(t: dict[str, Tensor], h: Tensor) -> Tensor:
        r = gram_schmidt(t["R"]) if rows else t["R"]
        return h + (h @ t["W"].T + t["b"]) @ r

    def make(**fields: Any) -> gw.DiReFT:
        return gw.DiReFT(R, orthonormal=rows, **fields)

    check_tied(make, phi)
    check_places(make)
    check_lengths(make)
    g = gw.graft(blocks(), make())
    with pytest.raises(gw.GraftError, match=r"direft edits hidden states.*residual stream"):
        g.merge()


@invariant("direft", 3)
def test_count() -> None:
    for tied, factor in ((True, 1), (False, 2)):
        g = gw.graft(blocks(), gw.DiReFT(R, tied=tied))
        assert sum(p.numel() for p in g.parameters()) == 2 * factor * (2 * R * D + R)


@invariant("direft", 4)
def test_loreft_with_w_plus_r_is_the_same() -> None:
    model, other, x = blocks(1), blocks(1), h_of()
    t = moved(gw.graft(model, gw.DiReFT(R, orthonormal=True)))
    r = gram_schmidt(t["layers.0.R"])
    g = gw.graft(other, gw.LoReFT(R))
    g.load_tensors({**t, "layers.0.R": r, "layers.0.W": t["layers.0.W"] + r})
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-12)


@invariant("direft", 5)
def test_rows_stay_orthonormal() -> None:
    model, x = nn.Sequential(*blocks(dtype=torch.float32).layers), h_of(dtype=torch.float32)
    g = gw.graft(model, gw.DiReFT(R, where="all", orthonormal=True), sites=["0", "1"])
    start = g.tensors()["0.R"].clone()
    assert torch.equal(orthonormal(start), start)
    steps = torch.optim.AdamW(g.parameters(), lr=0.1)
    for _ in range(10):
        steps.zero_grad()
        (model(x) - 1).square().sum().backward()
        steps.step()
    t = g.tensors()["0.R"]
    r = orthonormal(t)
    assert float((t @ t.T - torch.eye(R)).abs().max()) > 1e-2
    assert float((r @ r.T - torch.eye(R)).abs().max()) < 1e-5
