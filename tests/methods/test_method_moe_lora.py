"""MoE-LoRA's numbered invariants."""

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
from torch import Tensor, nn

import graftwork as gw
from graftwork import routing
from graftwork.methods.base import Call


def moe(**fields: Any) -> gw.MoELoRA:
    return gw.MoELoRA(**{"rank": 2, "experts": 4, "alpha": 3.0, **fields})


@invariant("moe_lora", 1)
@pytest.mark.parametrize("fields", [{}, {"top_k": 2}, {"experts": 1}])
def test_the_start_is_the_base(fields: dict[str, Any]) -> None:
    starts_at_the_base(moe(dropout=0.5, **fields))


def test_a_and_the_router_start_uniform() -> None:
    starts_uniform(gw.MoELoRA(8, experts=8), {"A": 64, "router": 8})


@invariant("moe_lora", 2)
def test_one_expert_is_lora() -> None:
    trains_as_lora(moe(experts=1))


def gates(method: gw.MoELoRA, t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    left: list[Tensor] = []
    blank = torch.zeros(1, dtype=x.dtype)
    return method.gates(t, Call(x, blank, blank, None, True, left.append)), left


@invariant("moe_lora", 3)
@pytest.mark.parametrize("k", [None, 1, 2, 4])
def test_gates_add_up_to_one_and_the_order_of_experts_does_not_matter(k: int | None) -> None:
    layer, x, method = layer_of(), x_of(), moe(top_k=k)
    model = copy.deepcopy(layer)
    g = gw.graft(model, method, seed=0)
    moved(g)
    w, left = gates(method, g.tensors(), x)
    assert torch.equal((w > 0).sum(-1), torch.full((20,), k or 4)) and not left
    torch.testing.assert_close(w.sum(-1), torch.ones(20, dtype=w.dtype))
    odds = (x @ g.tensors()["router"].T).softmax(-1)
    assert torch.equal(w.argmax(-1), odds.argmax(-1))
    if k is None:
        torch.testing.assert_close(w, odds)
    y = model(x)
    order = torch.tensor([2, 0, 3, 1])
    rows = (2 * order[:, None] + torch.arange(2)).flatten()
    new = {n: t[:, rows] if n == "B" else t[order if n == "router" else rows]
           for n, t in g.tensors().items()}  # fmt: skip
    g.load_tensors(new)
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-12)


@invariant("moe_lora", 4)
def test_a_router_of_zeros_is_lora_of_the_whole_rank() -> None:
    layer, x = layer_of(), x_of()
    models = [copy.deepcopy(layer), copy.deepcopy(layer)]
    g = gw.graft(models[0], moe())
    moved(g)
    t = {**g.tensors(), "router": torch.zeros(4, N, dtype=torch.float64)}
    g.load_tensors(t)
    plain = gw.graft(models[1], gw.LoRA(8, alpha=8 * 1.5 / 4))
    plain.load_tensors({n: t[n] for n in "AB"})
    torch.testing.assert_close(models[0](x), models[1](x), rtol=0, atol=1e-12)


@invariant("moe_lora", 5)
@pytest.mark.parametrize(("k", "uniform"), [(None, 1), (1, 1), (2, 2)])
def test_the_balance_loss(k: int | None, uniform: int) -> None:
    method = moe(experts=5, top_k=k, balance=0.5)
    x = x_of(300).abs()
    router = torch.zeros(5, N, dtype=torch.float64, requires_grad=True)
    (found,) = gates(method, {"router": router}, x)[1]
    assert float(found.detach()) == pytest.approx(0.5 * uniform)
    with torch.no_grad():
        router[: k or 1] = 1e3
    (found,) = gates(method, {"router": router}, x)[1]
    assert float(found.detach()) == pytest.approx(0.5 * 5)
    with torch.no_grad():
        router.normal_()
    (found,) = gates(method, {"router": router}, x)[1]
    found.backward()
    odds = (x @ router.T).softmax(-1)
    top = odds.topk(k or 1).indices
    share = torch.zeros_like(odds).scatter(1, top, 1.0).mean(0)
    (by_hand,) = torch.autograd.grad(0.5 * 5 * (share * odds.mean(0)).sum(), router)
    torch.testing.assert_close(router.grad, by_hand)


@invariant("moe_lora", 5)
def test_the_balance_loss_reaches_the_router_alone() -> None:
    model = nn.Sequential(layer_of())
    g = gw.graft(model, moe(balance=0.1), seed=0)
    moved(g)
    with gw.extra_loss(model) as extra:
        model(x_of())
        loss = extra()
    loss.backward()
    grads = {n: p.grad for n, p in g.named_parameters()}
    assert grads["0.A"] is None and grads["0.B"] is None and grads["0.router"].any()
    model.eval()
    with gw.extra_loss(model) as extra:
        model(x_of())
        assert float(extra().detach()) == 0.0


@invariant("moe_lora", 6)
def test_count() -> None:
    count = lambda method: sum(p.numel() for p in gw.graft(layer_of(), method).parameters())  # noqa: E731
    assert count(moe()) == 4 * 2 * (M + N) + 4 * N
    assert count(moe(experts=1)) == 2 * (M + N)


@invariant("moe_lora", 7, 8)
@pytest.mark.parametrize("k", [None, 1, 3])
def test_forward_is_the_equation_and_merging_is_refused(k: int | None) -> None:
    layer, x = layer_of(), x_of(6)
    model = copy.deepcopy(layer)
    g = gw.graft(model, moe(top_k=k), seed=0)
    moved(g)
    t, rows = g.tensors(), []
    for token in x:
        odds = (t["router"] @ token).softmax(0)
        kept = odds.topk(k or 4).indices.tolist()
        weight = layer.weight.clone()
        for i in kept:
            own = slice(2 * i, 2 * i + 2)
            weight = weight + odds[i] / odds[kept].sum() * 1.5 * t["B"][:, own] @ t["A"][own]
        rows.append(weight @ token + layer.bias)
    torch.testing.assert_close(model(x), torch.stack(rows), rtol=0, atol=1e-12)
    torch.testing.assert_close(model(x[2]), rows[2], rtol=0, atol=1e-12)
    with pytest.raises(gw.GraftError, match="moe_lora weighs its experts by the input"):
        g.merge()


@invariant("moe_lora", 7)
def test_one_expert_merges() -> None:
    layer, x = layer_of(), x_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, moe(experts=1))
    moved(g)
    assert g.method.mergeable and not moe().mergeable
    t, y = g.tensors(), model(x)
    want = x @ (layer.weight + 1.5 * t["B"] @ t["A"]).T + layer.bias
    torch.testing.assert_close(y, want, rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-12)
    g.unmerge()
    assert torch.equal(model.weight, layer.weight)


def test_the_gate_is_wide_under_autocast_and_empty_batches_leave_nothing() -> None:
    x = x_of().float()
    router = torch.randn(4, N, generator=torch.Generator().manual_seed(0))
    left: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        w = routing.gates(x, router, 2)
    assert w.dtype == torch.float32 and torch.equal(w, routing.gates(x, router, 2))
    empty = routing.gates(x[:0], router, 2, balance=1.0, leave=left.append)
    assert empty.shape == (0, 4) and not left


def test_dropout_acts_in_training_on_the_change_only() -> None:
    layer, x = layer_of().float(), x_of().float()
    model = copy.deepcopy(layer)
    moved(gw.graft(model, moe(dropout=0.5)))
    assert not torch.equal(model.train()(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"experts": 0}, "MoELoRA.experts must lie in"),
        ({"rank": 0}, "MoELoRA.rank"),
        ({"top_k": 5}, "MoELoRA.top_k: 5 of 4 experts cannot act at once"),
        ({"top_k": 0}, "MoELoRA.top_k"),
        ({"balance": -1.0}, "MoELoRA.balance"),
        ({"experts": 1, "top_k": 1}, "MoELoRA.top_k: one expert has no router"),
        ({"experts": 1, "balance": 0.1}, "MoELoRA.balance: one expert has no router"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        moe(**fields)


def test_a_rank_above_the_layer_s_is_refused() -> None:
    layer = nn.Linear(6, 4)
    with pytest.raises(gw.GraftError, match=r"MoELoRA.rank = 5 is a rank above the layer's own, 4"):
        gw.graft(layer, gw.MoELoRA(5))
    gw.graft(layer, gw.MoELoRA(4))
