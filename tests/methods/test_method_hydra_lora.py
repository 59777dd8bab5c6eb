"""HydraLoRA's numbered invariants."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from method_experts import (
    M,
    N,
    layer_of,
    moved,
    starts_at_the_base,
    starts_uniform,
    trains_as_lora,
    x_of,
)
from method_invariants import invariant
from torch import nn

import graftwork as gw


def hydra(**fields: Any) -> gw.HydraLoRA:
    return gw.HydraLoRA(**{"rank": 2, "experts": 3, "alpha": 3.0, **fields})


@invariant("hydra_lora", 1)
@pytest.mark.parametrize("fields", [{}, {"top_k": 2}, {"experts": 1}])
def test_the_start_is_the_base(fields: dict[str, Any]) -> None:
    starts_at_the_base(hydra(dropout=0.5, **fields))


def test_a_and_the_router_start_uniform() -> None:
    starts_uniform(gw.HydraLoRA(16, experts=8), {"A": 16, "router": 8})


@invariant("hydra_lora", 2)
def test_one_head_is_lora() -> None:
    trains_as_lora(hydra(experts=1))


@invariant("hydra_lora", 3)
@pytest.mark.parametrize("k", [None, 1, 2])
def test_it_is_a_mixture_whose_experts_share_a(k: int | None) -> None:
    x, models = x_of(), [layer_of(), layer_of()]
    ours = gw.graft(models[0], hydra(top_k=k))
    moved(ours)
    other = gw.graft(models[1], gw.MoELoRA(2, experts=3, alpha=3.0, top_k=k))
    t = ours.tensors()
    other.load_tensors({**t, "A": t["A"].repeat(3, 1)})
    torch.testing.assert_close(models[0](x), models[1](x), rtol=0, atol=1e-12)
    for model in models:
        model(x).pow(3).sum().backward()
    grads = [{n: p.grad for n, p in g.named_parameters()} for g in (ours, other)]
    torch.testing.assert_close(grads[0]["A"], grads[1]["A"].view(3, 2, N).sum(0))
    for n in ("B", "router"):
        torch.testing.assert_close(grads[0][n], grads[1][n])


@invariant("hydra_lora", 4)
def test_a_router_of_zeros_is_lora_with_the_mean_head() -> None:
    x, models = x_of(), [layer_of(), layer_of()]
    ours, plain = gw.graft(models[0], hydra()), gw.graft(models[1], gw.LoRA(2, alpha=3.0))
    moved(ours)
    t = {**ours.tensors(), "router": torch.zeros(3, N, dtype=torch.float64)}
    ours.load_tensors(t)
    plain.load_tensors({"A": t["A"], "B": t["B"].view(M, 3, 2).mean(1)})
    torch.testing.assert_close(models[0](x), models[1](x), rtol=0, atol=1e-12)


@invariant("hydra_lora", 5)
def test_count() -> None:
    count = lambda method: sum(p.numel() for p in gw.graft(layer_of(), method).parameters())  # noqa: E731
    assert count(hydra()) == 2 * N + 3 * 2 * M + 3 * N
    assert count(hydra(experts=1)) == 2 * (M + N)


@invariant("hydra_lora", 6)
def test_forward_is_the_equation_and_merging_is_refused() -> None:
    layer, x = layer_of(), x_of(6)
    model = copy.deepcopy(layer)
    g = gw.graft(model, hydra(), seed=0)
    moved(g)
    t, rows = g.tensors(), []
    for token in x:
        odds = (t["router"] @ token).softmax(0)
        b = sum(odds[i] * t["B"][:, 2 * i : 2 * i + 2] for i in range(3))
        rows.append((layer.weight + 1.5 * b @ t["A"]) @ token + layer.bias)
    torch.testing.assert_close(model(x), torch.stack(rows), rtol=0, atol=1e-12)
    with pytest.raises(gw.GraftError, match="hydra_lora weighs its experts by the input"):
        g.merge()


@invariant("hydra_lora", 6)
def test_one_head_merges() -> None:
    layer, x = layer_of(), x_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, hydra(experts=1))
    moved(g)
    assert g.method.mergeable and not hydra().mergeable
    t = g.tensors()
    want = x @ (layer.weight + 1.5 * t["B"] @ t["A"]).T + layer.bias
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-12)


def test_the_balance_loss_is_off_unless_asked_for() -> None:
    model = nn.Sequential(layer_of())
    for balance, found in ((0.0, False), (0.5, True)):
        g = gw.graft(model, hydra(balance=balance))
        moved(g)
        with gw.extra_loss(model) as extra:
            model(x_of())
            assert bool(extra() > 0) is found
        g.remove()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"experts": 0}, "HydraLoRA.experts must lie in"),
        ({"top_k": 4}, "HydraLoRA.top_k: 4 of 3 experts cannot act at once"),
        ({"experts": 1, "balance": 0.1}, "HydraLoRA.balance: one expert has no router"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        hydra(**fields)


def test_a_rank_above_the_layer_s_is_refused() -> None:
    layer = nn.Linear(3, 6)
    with pytest.raises(
        gw.GraftError, match=r"HydraLoRA.rank = 4 is a rank above the layer's own, 3"
    ):
        gw.graft(layer, gw.HydraLoRA(4))
    gw.graft(layer, gw.HydraLoRA(3))
