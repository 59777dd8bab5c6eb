"""LoRA-SP's numbered invariants."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_invariants import invariant
from torch import Tensor, nn

import graftwork as gw
from graftwork.methods.base import Call
from graftwork.ranks import rank_statistics

M, N, R = 9, 7, 6
scores = st.lists(st.floats(0.0, 50.0, width=32), min_size=R, max_size=R)
etas = st.floats(0.01, 1.0)


def sp(**fields: Any) -> gw.LoRASP:
    return gw.LoRASP(**{"rank": R, "hidden": 2, **fields})


def layer_of(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(N, M).double()


def x_of(tokens: int = 40) -> Tensor:
    return torch.randn(tokens, N, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def moved(g: gw.Graft, size: float = 0.5) -> None:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng, dtype=torch.float64)).to(p.dtype))


def doubles(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def energy(s: Tensor, keep: Tensor) -> Tensor:
    return (s.square() * keep).sum(-1) / s.square().sum(-1)


@invariant("lora_sp", 1)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_start_is_the_base(dtype: torch.dtype, training: bool) -> None:
    base, x = layer_of().to(dtype), x_of().to(dtype)
    model = copy.deepcopy(base).train(training)
    gw.graft(model, sp(dropout=0.5))
    assert torch.equal(model(x), base(x))


@invariant("lora_sp", 2)
def test_scores_of_one_at_eta_one_are_lora() -> None:
    layer, x = layer_of(), x_of()
    model, other = copy.deepcopy(layer), copy.deepcopy(layer)
    g = gw.graft(model, sp(eta=1.0, scale=1.5))
    moved(g)
    with torch.no_grad():
        for name, p in g.named_parameters():
            if name == "w2":
                p.zero_()
            if name == "b2":
                p.fill_(math.log(math.e - 1))  # its softplus is 1
    lora = gw.graft(other, gw.LoRA(R, alpha=1.5 * R))
    lora.load_tensors({"A": g.tensors()["V"], "B": g.tensors()["U"]})
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-12)


@invariant("lora_sp", 3, 4)
@settings(max_examples=150, deadline=None)
@given(values=scores, eta=etas, other=etas)
def test_the_gate_keeps_the_fewest_that_reach_eta(
    values: list[float], eta: float, other: float
) -> None:
    s = doubles(values)
    keep = sp(eta=eta).kept(s)
    k = int(keep.sum())
    assert set(keep.tolist()) <= {0.0, 1.0} and 1 <= k <= R
    more, less = (int(sp(eta=e).kept(s).sum()) for e in (max(eta, other), min(eta, other)))
    assert less <= more
    if not s.square().sum():
        return
    squares = s.square().sort(descending=True).values
    shares = squares.cumsum(0) / squares.sum()
    assert bool((shares.diff() >= 0).all()) and float(shares[-1]) == pytest.approx(1.0)
    assert float(energy(s, keep)) == pytest.approx(float(shares[k - 1]), abs=1e-12)
    assert float(shares[k - 1]) >= eta - 1e-12
    assert k == 1 or float(shares[k - 2]) < eta + 1e-12 or eta == 1
    loss = float(sp(eta=eta).spectral_loss(s, keep))
    assert -1e-12 <= loss <= 1 - eta + 1e-12
    assert loss == pytest.approx(1 - float(shares[k - 1]), abs=1e-12)


@invariant("lora_sp", 5)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.01, 100.0), eta=st.floats(0.05, 0.99))
def test_the_gate_sees_no_common_factor(seed: int, factor: float, eta: float) -> None:
    s = torch.rand(5, R, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(sp(eta=eta).kept(s), sp(eta=eta).kept(factor * s))
    order = torch.randperm(R, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(sp(eta=eta).kept(s)[:, order], sp(eta=eta).kept(s[:, order]))


@invariant("lora_sp", 5)
def test_the_order_of_the_vectors_does_not_matter() -> None:
    model, x = layer_of(), x_of()
    g = gw.graft(model, sp(eta=0.7))
    moved(g)
    y, order = model(x), torch.tensor([3, 0, 5, 1, 4, 2])
    t = g.tensors()
    new = {
        n: v if n in ("w1", "b1") else v[:, order] if n == "U" else v[order] for n, v in t.items()
    }
    g.load_tensors(new)
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-12)


@invariant("lora_sp", 6)
def test_the_error_bound_needs_orthonormal_banks() -> None:
    torch.manual_seed(2)
    s = torch.rand(R, dtype=torch.float64)
    keep = sp(eta=0.8).kept(s)
    want = float((1 - energy(s, keep)).sqrt())
    found = []
    for orthonormal in (True, False):
        u, v = torch.randn(M, R).double(), torch.randn(N, R).double()
        if orthonormal:
            u, v = torch.linalg.qr(u)[0], torch.linalg.qr(v)[0]
        full, part = u @ torch.diag(s) @ v.T, u @ torch.diag(s * keep) @ v.T
        found.append(float((full - part).norm() / full.norm()))
    assert found[0] == pytest.approx(want, abs=1e-10)
    assert abs(found[1] - want) > 1e-2


@invariant("lora_sp", 7, 8)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), eta=st.floats(0.1, 0.95))
def test_the_spectral_loss_raises_kept_scores_and_lowers_dropped_ones(
    seed: int, eta: float
) -> None:
    method = sp(eta=eta)
    s = torch.rand(R, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.05
    s.requires_grad_()
    keep = method.kept(s)
    method.spectral_loss(s, keep).backward()
    with torch.no_grad():
        share, total = energy(s, keep), s.square().sum()
        want = torch.where(keep > 0, -2 * s * (1 - share), 2 * s * share) / total
        torch.testing.assert_close(s.grad, want, rtol=0, atol=1e-10)
        after = energy(s - 1e-3 * s.grad, keep)
        assert bool(after >= share) and (bool(after > share) or int(keep.sum()) == R)


@invariant("lora_sp", 9)
def test_parameters_and_start_values() -> None:
    g = gw.graft(nn.Linear(400, 30), gw.LoRASP(64, hidden=4), seed=0)
    count = 64 * (400 + 30) + 4 * 400 + 4 + 64 * 4 + 64
    assert sum(p.numel() for p in g.parameters()) == count
    t = g.tensors()
    for name in ("V", "w1"):
        assert float(t[name].abs().max()) <= 0.05 and abs(float(t[name].mean())) < 2e-3
        assert float(t[name].std()) == pytest.approx(0.05 / math.sqrt(3), rel=0.03)
    assert not t["U"].any() and not t["b1"].any() and not t["b2"].any()
    for i in range(64):
        assert t["w2"][i].tolist() == [float(j == i * 4 // 64) for j in range(4)]


@invariant("lora_sp", 10)
@pytest.mark.parametrize("eta", [0.15, 0.4, 0.65, 0.97, 1.0])
def test_equal_single_and_no_scores(eta: float) -> None:
    method = sp(eta=eta)
    assert int(method.kept(torch.full((R,), 0.7)).sum()) == math.ceil(eta * R)
    single = torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0, 0.0])
    if eta < 1:
        assert method.kept(single).tolist() == [0, 0, 1, 0, 0, 0]
    none = torch.zeros(R, requires_grad=True)
    keep = method.kept(none)
    assert int(keep.sum()) == (R if eta == 1 else 1)
    loss = method.spectral_loss(none, keep)
    loss.backward()
    assert float(loss.detach()) == 0.0 and bool(none.grad.isfinite().all())


@invariant("lora_sp", 11)
def test_a_token_acts_on_its_own_output_alone() -> None:
    model, x = layer_of(), x_of()
    moved(gw.graft(model, sp()))
    y, other = model(x), x.clone()
    other[7] += 1.0
    changed = (model(other) != y).any(-1)
    assert changed.nonzero().flatten().tolist() == [7]


@invariant("lora_sp", 12)
def test_the_reported_rank_is_the_number_of_sigma_above_zero() -> None:
    model, x = nn.Sequential(layer_of()), x_of()
    g = gw.graft(model, sp(eta=0.6))
    moved(g)
    t = {n.removeprefix("0."): v for n, v in g.tensors().items()}
    s = nn.functional.softplus(g.method.logits(t, x))
    with rank_statistics(g) as ranks:
        model(x)
    report = ranks["0"]
    count = (s * g.method.kept(s) > 0).sum(-1).double()
    assert report.mean == pytest.approx(float(count.mean())) and report.tokens == 40
    assert (report.least, report.most) == (int(count.min()), int(count.max()))
    used = (g.method.kept(s) > 0).any(0)
    assert report.used.tolist() == used.tolist()


@invariant("lora_sp", 13)
def test_the_weight_does_not_train() -> None:
    model, x = layer_of(), x_of()
    g, before = gw.graft(model, sp()), model.weight.clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(x).square().sum().backward()
        optimizer.step()
    assert model.weight.grad is None and torch.equal(model.weight, before)
    assert {n for n, _ in g.named_parameters()} == {"U", "V", "w1", "b1", "w2", "b2"}


def left(method: gw.LoRASP, g: gw.Graft, x: Tensor) -> list[Tensor]:
    out: list[Tensor] = []
    from graftwork.algebra.linear import Linear

    method.change(
        Linear(out=M, in_=N), g.tensors(), Call(x, x.new_zeros(1), x, None, True, out.append)
    )
    return out


@invariant("lora_sp", 14)
def test_the_losses_are_those_of_the_equations() -> None:
    model, x = layer_of(), x_of()
    method = sp(eta=0.6, spectral=0.5, router=0.25)
    g = gw.graft(model, method)
    moved(g)
    t = g.tensors()
    z = torch.softmax(x @ t["w1"].T + t["b1"], -1) @ t["w2"].T + t["b2"]
    s = torch.log1p(torch.exp(z))
    spectral = sum(1 - energy(token, method.kept(token)) for token in s) / len(x)
    gates = torch.exp(z) / torch.exp(z).sum(-1, keepdim=True)
    share = torch.bincount(z.argmax(-1), minlength=R) / len(x)
    router = R * (share * gates.mean(0)).sum() + torch.log(torch.exp(z).sum(-1)).square().mean()
    a, b = left(method, g, x.unflatten(0, (4, 10)))
    torch.testing.assert_close(a, 0.5 * spectral)
    torch.testing.assert_close(b, 0.25 * router)
    with gw.extra_loss(model) as extra:
        model(x)
        loss = extra()
    torch.testing.assert_close(loss.detach(), a + b)
    loss.backward()
    grads = {n: p.grad for n, p in g.named_parameters()}
    assert grads["U"] is None and grads["V"] is None
    assert all(bool(grads[n].any()) for n in ("w1", "b1", "w2", "b2"))


@invariant("lora_sp", 14)
def test_balance_is_one_when_even_and_r_on_collapse() -> None:
    even = torch.zeros(R * 5, R, dtype=torch.float64)
    even[torch.arange(R * 5), torch.arange(R * 5) % R] = 1e-9
    norm = math.log(R) ** 2
    assert float(sp().router_loss(even)) == pytest.approx(1 + norm, abs=1e-6)
    fallen = torch.zeros(R * 5, R, dtype=torch.float64)
    fallen[:, 2] = 30.0
    assert float(sp().router_loss(fallen)) == pytest.approx(R + 30.0**2, abs=1e-6)


def test_dropout_acts_in_training_on_the_router_only() -> None:
    model, x = layer_of(), x_of()
    g = gw.graft(model, sp(dropout=0.5, eta=1.0))
    moved(g)
    assert not torch.equal(model.train()(x), model(x))
    with torch.no_grad():
        dict(g.named_parameters())["w2"].zero_()  # scores that do not depend on the router's input
    assert torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank": 0}, r"LoRASP\.rank"),
        ({"rank": 5}, r"LoRASP\.rank: 2 hidden units do not divide 5"),
        ({"eta": 0.0}, r"LoRASP\.eta must lie in \(0, 1\]"),
        ({"eta": 1.1}, r"LoRASP\.eta"),
        ({"hidden": 0}, r"LoRASP\.hidden"),
        ({"scale": 0.0}, r"LoRASP\.scale"),
        ({"spectral": -1.0}, r"LoRASP\.spectral"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        sp(**fields)


def test_merging_is_refused_with_the_way_out() -> None:
    model = layer_of()
    with pytest.raises(gw.GraftError, match="lora_sp weighs its vectors by the input"):
        gw.graft(model, sp()).merge()
