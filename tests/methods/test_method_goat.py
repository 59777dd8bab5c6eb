"""GOAT's numbered invariants."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from method_invariants import invariant
from torch import Tensor, nn

import graftwork as gw
from graftwork.algebra.linear import Linear
from graftwork.methods.base import Call
from graftwork.starts import svd

M, N = 24, 20


def layer_of(m: int = M, n: int = N, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(n, m).double()


def moved(g: gw.Graft, size: float = 0.1) -> None:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng, dtype=torch.float64)).to(p.dtype))


def x_of(tokens: int = 50, n: int = N) -> Tensor:
    return torch.randn(tokens, n, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def goat(**fields: Any) -> gw.GOAT:
    return gw.GOAT(**{"rank": 8, "experts": 4, "top_k": 2, "rho": 2.0, **fields})


@invariant("goat", 1, 7)
@pytest.mark.parametrize("fields", [{}, {"alpha": 0.5}, {"alpha": 16.0}, {"eta": 0.1}])
def test_the_experts_are_the_heads_of_equal_segments(fields: dict[str, float]) -> None:
    layer, method = layer_of(), goat(**fields)
    t = gw.graft(copy.deepcopy(layer), method).tensors()
    s = method.scale(Linear(out=M, in_=N))
    u, sv, vh = torch.linalg.svd(layer.weight, full_matrices=False)
    total = 0
    for i in range(4):
        own = slice(5 * i, 5 * i + 2)  # segments of 20 // 4 values, the 2 largest of each
        part = u[:, own] @ torch.diag(sv[own]) @ vh[own] / 2.0
        a, b = t["A0"][2 * i : 2 * i + 2], t["B0"][:, 2 * i : 2 * i + 2]
        torch.testing.assert_close(s * b @ a, part, rtol=0, atol=1e-10)
        torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0))
        total = total + part
    torch.testing.assert_close(s * t["B0"] @ t["A0"], total, rtol=0, atol=1e-10)
    assert torch.equal(t["A"], t["A0"]) and torch.equal(t["B"], t["B0"])


def test_the_scale_is_the_theorems_or_alpha_over_the_rank_of_an_expert() -> None:
    wide = Linear(out=7, in_=4096)
    assert gw.GOAT(8, experts=8).scale(wide) == pytest.approx(math.sqrt(3 * 4096))  # about 111
    assert gw.GOAT(8, experts=8).scale(Linear(out=7, in_=768)) == pytest.approx(48)
    assert gw.GOAT(16, experts=8, eta=4.0).scale(wide) == pytest.approx(math.sqrt(6 * 4096))
    assert gw.GOAT(16, experts=8, alpha=32.0).scale(wide) == 16.0


@pytest.mark.parametrize("init", ["svd", "zero"])
def test_the_router_starts_uniform(init: str) -> None:
    g = gw.graft(nn.Linear(400, 32), gw.GOAT(8, experts=8, init=init), seed=0)
    router, bound = g.tensors()["router"], 1 / 20
    assert router.shape == (8, 400) and -bound <= router.min() < router.max() <= bound
    assert abs(float(router.mean())) < 0.05 * bound
    assert float(router.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    if init == "zero":
        a = g.tensors()["A"]
        assert -bound <= a.min() < a.max() <= bound and not g.tensors()["B"].any()
        assert float(a.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


@invariant("goat", 2)
def test_equal_gates_give_the_base() -> None:
    layer, x = layer_of(), x_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, goat(top_k=4))
    with torch.no_grad():
        dict(g.named_parameters())["router"].zero_()
    torch.testing.assert_close(model(x), layer(x), rtol=0, atol=1e-12)
    for method in (
        goat(experts=1, top_k=1, rho=1.0),
        goat(exact_start=True),
        goat(exact_start=True, top_k=1),
    ):
        assert method.starts_at_base and not goat().starts_at_base
        model = copy.deepcopy(layer).float()
        gw.graft(model, method)
        assert torch.equal(model(x.float()), copy.deepcopy(layer).float()(x.float()))


@invariant("goat", 3)
def test_the_error_at_the_start_falls_as_one_over_rho() -> None:
    layer, x = layer_of(96, 64), x_of(4000, 64)
    found = []
    for rho in (1.0, 10.0, 100.0):
        model = copy.deepcopy(layer)
        gw.graft(model, gw.GOAT(16, experts=8, top_k=2, rho=rho), seed=0)
        off = (model(x) - layer(x)).detach()
        found.append(float(off.norm() / layer(x).detach().norm()))
        assert off.mean(0).norm() < 0.2 * off.pow(2).mean(0).sqrt().norm()
    assert found[0] == pytest.approx(10 * found[1], rel=1e-6)
    assert found[0] == pytest.approx(100 * found[2], rel=1e-6)
    assert 0.002 < found[1] < 0.03  # 1.2 % in the note on this case


def gates(method: gw.GOAT, t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    left: list[Tensor] = []
    blank = torch.zeros(1, dtype=x.dtype)
    return method.gates(t, Call(x, blank, blank, None, True, left.append)), left


@invariant("goat", 4)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_k_gates_add_up_to_one_and_the_order_of_experts_does_not_matter(k: int) -> None:
    layer, x, method = layer_of(), x_of(), goat(top_k=k)
    model = copy.deepcopy(layer)
    g = gw.graft(model, method, seed=0)
    moved(g)
    w, _ = gates(method, g.tensors(), x)
    assert torch.equal((w > 0).sum(-1), torch.full((50,), k))
    torch.testing.assert_close(w.sum(-1), torch.ones(50, dtype=w.dtype))
    odds = (x @ g.tensors()["router"].T).softmax(-1)
    assert torch.equal(w.argmax(-1), odds.argmax(-1))
    y = model(x)
    order = torch.tensor([2, 0, 3, 1])
    rows = (2 * order[:, None] + torch.arange(2)).flatten()
    new = {n: t[:, rows] if n[0] == "B" else t[order if n == "router" else rows]
           for n, t in g.tensors().items()}  # fmt: skip
    g.load_tensors(new)
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-12)


@invariant("goat", 5)
def test_the_balance_loss_is_k_when_uniform_and_e_when_collapsed() -> None:
    method = goat(rank=8, experts=8, balance=0.5)
    x = x_of(300, 8).abs()
    router = torch.zeros(8, 8, dtype=torch.float64, requires_grad=True)
    t = {"router": router, "A": x}
    (uniform,) = gates(method, t, x)[1]
    assert float(uniform.detach()) == pytest.approx(0.5 * 2)
    with torch.no_grad():
        router[:2] = 1e3
    (collapsed,) = gates(method, t, x)[1]
    assert float(collapsed.detach()) == pytest.approx(0.5 * 8)
    with torch.no_grad():
        router.normal_()
    (loss,) = gates(method, t, x)[1]
    loss.backward()
    odds = (x @ router.T).softmax(-1)
    top = odds.topk(2).indices
    share = torch.zeros(300, 8, dtype=torch.float64).scatter(1, top, 1.0).mean(0)
    (by_hand,) = torch.autograd.grad(0.5 * 8 * (share * odds.mean(0)).sum(), router)
    torch.testing.assert_close(router.grad, by_hand)


@invariant("goat", 5)
def test_the_balance_loss_reaches_the_router_alone() -> None:
    model = nn.Sequential(layer_of())
    g = gw.graft(model, goat(balance=0.1), seed=0)
    moved(g)
    x = x_of().requires_grad_()
    with gw.extra_loss(model) as extra:
        model(x)
        loss = extra()
    loss.backward()
    grads = {n: p.grad for n, p in g.named_parameters()}
    assert grads["0.A"] is None and grads["0.B"] is None and grads["0.router"].any()
    model.eval()
    with gw.extra_loss(model) as extra:
        model(x)
        assert float(extra().detach()) == 0.0


@invariant("goat", 6)
def test_the_zero_start_is_the_base_and_its_size_the_theorems() -> None:
    layer, x = layer_of(), x_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, goat(init="zero"))
    assert torch.equal(model(x), layer(x)) and set(g.tensors()) == {"A", "B", "router"}
    wide = nn.Linear(128, 8)
    method = gw.GOAT(4, experts=1, top_k=1, init="zero", eta=2.0)
    s = method.scale(Linear(out=8, in_=128))
    total = torch.zeros(128, 128)
    for seed in range(200):
        a = gw.graft(copy.deepcopy(wide), method, seed=seed).tensors()["A"]
        total += s**2 * a.T @ a / 200
    assert float(total.diagonal().mean()) == pytest.approx(2.0, rel=0.02)
    off = total - torch.diag(total.diagonal())
    assert off.abs().mean() < 0.1


@invariant("goat", 8)
@pytest.mark.parametrize("bias", [True, False])
def test_count_and_limits(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(N, M, bias=bias).double()
    count = lambda g: sum(p.numel() for p in g.parameters())  # noqa: E731
    assert count(gw.graft(copy.deepcopy(layer), goat())) == 8 * (M + N) + 4 * N
    one = gw.GOAT(5, experts=1, top_k=1, rho=1.0, alpha=10.0, balance=0.0)
    pairs = [(one, gw.PiSSA(5, alpha=10.0)), (one.with_fields(init="zero"), gw.LoRA(5, alpha=10.0))]
    x = x_of()
    for ours, other in pairs:
        models = [copy.deepcopy(layer), copy.deepcopy(layer)]
        grafts = [
            gw.graft(m, method, seed=4) for m, method in zip(models, (ours, other), strict=True)
        ]
        assert count(grafts[0]) == count(grafts[1]) == 5 * (M + N)
        for _ in range(4):  # the same function, the same gradients, the same training
            for model, g in zip(models, grafts, strict=True):
                for p in g.parameters():
                    p.grad = None
                model(x).pow(2).sum().backward()
                with torch.no_grad():
                    for p in g.parameters():
                        p -= 1e-4 * p.grad
            assert grafts[0].tensors().keys() == grafts[1].tensors().keys()
            for n, t in grafts[0].tensors().items():
                torch.testing.assert_close(t, grafts[1].tensors()[n], rtol=0, atol=1e-12)
            torch.testing.assert_close(models[0](x), models[1](x), rtol=0, atol=1e-11)
        assert not torch.equal(models[0](x), layer(x))


@invariant("goat", 9)
def test_a_reload_decomposes_nothing_and_removal_gives_the_base_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = layer_of(), x_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, goat())
    moved(g)
    y = model(x)
    gw.save(g, tmp_path / "a")

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("a reload decomposed a weight")

    monkeypatch.setattr(torch.linalg, "svd", fail)
    monkeypatch.setattr(svd.cache, "store", fail)
    fresh = copy.deepcopy(layer)
    again = gw.load(fresh, tmp_path / "a")
    assert torch.equal(fresh(x), y)
    again.remove()
    assert torch.equal(fresh.weight, layer.weight) and torch.equal(fresh(x), layer(x))


def by_hand(method: gw.GOAT, layer: nn.Linear, t: dict[str, Tensor], x: Tensor) -> Tensor:
    """The paper's form: a changed weight, and a loop over tokens and experts."""
    s, each = method.scale(Linear(out=M, in_=N)), method.rank // method.experts
    own = [slice(i * each, (i + 1) * each) for i in range(method.experts)]
    past = [s * t["B0"][:, o] @ t["A0"][o] for o in own]
    out = []
    for token in x:
        odds = (t["router"] @ token).softmax(0)
        kept = odds.topk(method.top_k).indices.tolist()
        w = {i: float(odds[i] / odds[kept].sum()) for i in kept}
        rest = sum(w[i] * past[i] for i in kept) if method.exact_start else sum(past) / len(own)
        new = sum(w[i] * s * t["B"][:, own[i]] @ t["A"][own[i]] for i in kept)
        out.append((layer.weight - rest + new) @ token + layer.bias)
    return torch.stack(out)


@invariant("goat", 10)
@pytest.mark.parametrize("fields", [{}, {"exact_start": True}, {"top_k": 1}, {"top_k": 4}])
def test_forward_is_the_papers_form_and_merging_is_refused(fields: dict[str, Any]) -> None:
    layer, x, method = layer_of(), x_of(7), goat(**fields)
    model = copy.deepcopy(layer)
    g = gw.graft(model, method, seed=0)
    moved(g)
    with torch.no_grad():
        want = by_hand(method, layer, g.tensors(), x)
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-11)
    torch.testing.assert_close(model(x[0]), want[0], rtol=0, atol=1e-11)
    with pytest.raises(gw.GraftError, match="goat weighs its experts by the input"):
        g.merge()


@invariant("goat", 10)
@pytest.mark.parametrize("init", ["svd", "zero"])
def test_one_expert_merges(init: str) -> None:
    layer, x = layer_of(), x_of()
    model = copy.deepcopy(layer)
    g = gw.graft(model, goat(experts=1, top_k=1, init=init))
    moved(g)
    t, y = g.tensors(), model(x)
    s = g.method.scale(Linear(out=M, in_=N))
    delta = s * t["B"] @ t["A"] - (s * t["B0"] @ t["A0"] if init == "svd" else 0)
    torch.testing.assert_close(y, x @ (layer.weight + delta).T + layer.bias, rtol=0, atol=1e-11)
    g.merge()
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-11)
    g.unmerge()
    assert torch.equal(model.weight, layer.weight)


def test_dropout_acts_in_training_on_the_change_only() -> None:
    layer, x = layer_of().float(), x_of().float()
    model = copy.deepcopy(layer)
    g = gw.graft(model, goat(dropout=0.5, exact_start=True), seed=0)
    assert torch.equal(model.train()(x), layer(x))
    moved(g)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank": 9}, "GOAT.rank: 4 experts do not divide 9"),
        ({"top_k": 5}, "GOAT.top_k: 5 of 4 experts"),
        ({"experts": 0}, "GOAT.experts"),
        ({"rho": 0.0}, "GOAT.rho"),
        ({"eta": -1.0}, "GOAT.eta"),
        ({"alpha": 0.0}, "GOAT.alpha"),
        ({"init": "top"}, "GOAT.init"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        goat(**fields)


def test_a_rank_above_the_segments_is_refused_and_a_zero_start_is_not() -> None:
    model = nn.Sequential(nn.Linear(8, 7))
    with pytest.raises(gw.GraftError, match="3 rows per expert, 2 in a segment"):
        gw.graft(model, gw.GOAT(9, experts=3))
    gw.graft(model, gw.GOAT(9, experts=3, init="zero"))
