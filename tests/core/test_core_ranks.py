"""Rank statistics of LoRA-SP and its export as LoRA."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.ranks import rank_statistics, to_lora


def grafted(eta: float = 0.6) -> tuple[nn.Sequential, gw.Graft]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    g = gw.graft(model, gw.LoRASP(6, hidden=2, eta=eta), seed=0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(torch.randn(p.shape, generator=rng, dtype=p.dtype))
    return model, g


def tokens() -> Tensor:
    return torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(2)).double()


def test_padding_is_left_out_and_nothing_stays_on_the_model() -> None:
    model, g = grafted()
    keep = torch.ones(4, 5, dtype=torch.bool)
    keep[:, 3:] = False
    x = tokens()
    with rank_statistics(g, keep) as some:
        model(x)
    with rank_statistics(g) as alone:
        model(x[:, :2])
        model(x[:, 2:3])
    for site in ("0", "2"):
        assert some[site].tokens == alone[site].tokens == 12
        assert (some[site].mean, some[site].least) == (alone[site].mean, alone[site].least)
        torch.testing.assert_close(some[site].scores, alone[site].scores)
    model(x)
    assert some["0"].tokens == 12
    told = pytest.raises(gw.GraftError, match=r"keep: 0 was called with tokens \(4, 5\)")
    with told, rank_statistics(g, keep[:2]):
        model(x)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_constant_gate_is_exported_exactly_and_merges() -> None:
    model, g = grafted()
    with torch.no_grad():
        for name, p in g.named_parameters():
            if name.endswith("w2"):
                p.zero_()  # scores no longer depend on the input, the gate drops some vectors
    x = tokens()
    y = model(x)
    lora, errors = to_lora(g, lambda: model(x))
    assert max(errors.values()) < 1e-12 and set(errors) == {"0", "2"}
    ranks = {len(t) for n, t in lora.tensors().items() if n.endswith("A")}
    assert max(ranks) < 6  # vectors that no token chose are gone
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-12)
    lora.merge()
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-12)


def test_the_reported_error_is_that_of_the_change() -> None:
    model, g = grafted(eta=0.5)
    x = tokens()
    with g.off():
        base = model[0](x)
    exact = model[0](x) - base
    lora, errors = to_lora(g, lambda: model(x))
    off = model[0](x) - base - exact
    assert errors["0"] == pytest.approx(float((off.norm() / exact.norm()).detach()), rel=1e-9)
    assert errors["0"] > 0.01  # the scores do depend on the input
    assert lora.name in gw.active(model)


def test_refusals() -> None:
    model, g = grafted()
    with pytest.raises(gw.GraftError, match="does not reach 0"):
        to_lora(g, lambda: None)
    assert set(gw.grafts(model)) == {"default"}
    plain = nn.Sequential(nn.Linear(3, 3))
    other = gw.graft(plain, gw.LoRA(1))
    with pytest.raises(gw.GraftError, match="which is no LoRASP"), rank_statistics(other):
        plain(torch.zeros(1, 3))
