"""HydraLoRA's numbered invariants."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from method_invariants import invariant
from torch import Tensor, nn

import graftwork as gw

M, N = 9, 7


def layer_of(dtype: torch.dtype = torch.float64) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(N, M).to(dtype)


def x_of(tokens: int = 20) -> Tensor:
    return torch.randn(tokens, N, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def moved(g: gw.Graft, size: float = 0.5) -> None:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng, dtype=torch.float64)).to(p.dtype))


def hydra(**fields: Any) -> gw.HydraLoRA:
    return gw.HydraLoRA(**{"rank": 2, "experts": 3, "alpha": 3.0, **fields})


@invariant("hydra_lora", 1)
@pytest.mark.parametrize("fields", [{}, {"top_k": 2}, {"experts": 1}])
def test_the_start_is_the_base(fields: dict[str, Any]) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        layer, x = layer_of(dtype), x_of().to(dtype)
        model = copy.deepcopy(layer)
        g = gw.graft(model, hydra(dropout=0.5, **fields), seed=0)
        assert torch.equal(model(x), layer(x)) and torch.equal(model.train()(x), layer(x))
        assert not g.tensors()["B"].any()


def test_a_and_the_router_start_uniform() -> None:
    g = gw.graft(nn.Linear(400, 32), gw.HydraLoRA(16, experts=8), seed=0)
    for name, shape in (("A", (16, 400)), ("router", (8, 400))):
        t = g.tensors()[name]
        assert t.shape == shape and t.min() >= -1 / 20 and t.max() <= 1 / 20
        assert abs(float(t.mean())) < 0.0025
        assert float(t.std()) == pytest.approx(1 / 20 / 3**0.5, rel=0.05)


@invariant("hydra_lora", 2)
def test_one_head_is_lora() -> None:
    x, models = x_of(), [layer_of(), layer_of()]
    grafts = [
        gw.graft(m, method, seed=4)
        for m, method in zip(models, (hydra(experts=1), gw.LoRA(2, alpha=3.0)), strict=True)
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
