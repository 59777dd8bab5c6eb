"""GAST's numbered invariants, in float64 against explicit per-sample gradients."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import NotFiniteError
from graftwork.selection.draws import choose, standardised
from graftwork.selection.gast import block_of
from tests.selection.selection_helpers import (
    CLAIMED,
    B,
    data,
    explicit,
    grafted,
    invariant,
    loss_of,
    run,
    scores_of,
    selecting,
)

CASES = [
    *(("tokens", m) for m in (gw.LoRA(2, alpha=3.0), gw.LoRA(3, rslora=True), gw.PiSSA(2))),
    *(("tokens", m) for m in (gw.MiLoRA(2), gw.DoRA(2, alpha=3.0))),
    *(("images", m) for m in (gw.LoRA(2, alpha=3.0), gw.LoRA(3), gw.PiSSA(2))),
    *(("words", m) for m in (gw.LoRA(2, alpha=3.0), gw.PiSSA(2), gw.DoRA(2))),
]
NAMES = [f"{k}-{m.id}-{m.rank}" for k, m in CASES]


@invariant(1)
@pytest.mark.parametrize("layers", ["block", "module"])
@pytest.mark.parametrize(("kind", "method"), CASES, ids=NAMES)
def test_all_samples_give_the_ordinary_gradient(kind: str, method: Any, layers: str) -> None:
    model, g, gast = selecting(kind, method, B, layers=layers)
    x, y = data(kind)
    ours = run(gast, model, x, y)
    for p in g.parameters():
        p.grad = None
    loss_of(model, x, y).backward()
    for n, p in g.named_parameters():
        torch.testing.assert_close(ours[n], p.grad, rtol=1e-12, atol=1e-13)


@invariant(2, 3)
@pytest.mark.parametrize("layers", ["block", "module"])
@pytest.mark.parametrize(("kind", "method"), CASES, ids=NAMES)
def test_scores_and_gradients_are_the_explicit_ones(kind: str, method: Any, layers: str) -> None:
    model, g, gast = selecting(kind, method, layers=layers)
    x, y = data(kind)
    own, sup = explicit(model, g, x, y), explicit(model, g, *data(kind, 2, 4))
    want = scores_of(gast, own, sup)
    ours = run(gast, model, x, y)
    assert gast.chosen.keys() == want.keys()
    for layer, choice in gast.chosen.items():
        torch.testing.assert_close(choice.scores, want[layer], rtol=1e-10, atol=1e-11)
        # invariant 3: the sum is B times the mean gradient's product
        total = sum(
            (torch.stack(own[n]).mean(0) * torch.stack(sup[n]).mean(0)).sum()
            for n in own
            if n.rpartition(".")[0] in gast.layers[layer]
        )
        torch.testing.assert_close(choice.scores.sum(), B * total, rtol=1e-10, atol=1e-11)
        picked = choice.picked.tolist()
        assert len(set(picked)) == 3
        for n in own:
            if n.rpartition(".")[0] in gast.layers[layer]:
                mean = sum(own[n][i] for i in picked) / 3
                torch.testing.assert_close(ours[n], mean, rtol=1e-12, atol=1e-13)
    assert any(bool(t.any()) for t in ours.values())


@invariant(3)
def test_the_batch_as_its_own_support_scores_its_squared_norm() -> None:
    model, g, gast = selecting("tokens")
    x, y = data("tokens")
    gast.support(loss_of(model, x, y))
    run(gast, model, x, y)
    grads = torch.autograd.grad(loss_of(model, x, y), list(g.parameters()))
    norms = {}
    for (n, _), t in zip(g.named_parameters(), grads, strict=True):
        layer = block_of(n.rpartition(".")[0])
        norms[layer] = norms.get(layer, 0.0) + float(t.square().sum())
    for layer, choice in gast.chosen.items():
        assert float(choice.scores.mean()) == pytest.approx(norms[layer], rel=1e-10)


@invariant(4, 7)
def test_rates() -> None:
    equal = torch.full((5,), 0.3)
    counts, lifted = torch.zeros(5), torch.zeros(5)
    tilted = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    n = 3000
    for step in range(n):
        picked = choose(equal, 2, "softmax", 1.0, 0, step)
        assert len(set(picked.tolist())) == 2 and bool((picked[1:] > picked[:-1]).all())
        counts[picked] += 1
        lifted[choose(tilted, 2, "softmax", 1.0, 0, step)] += 1
    assert (counts / n - 0.4).abs().max() < 5 * (0.4 * 0.6 / n) ** 0.5
    assert bool((lifted[1:] > lifted[:-1]).all())
    # sampling without replacement from softmax, by hand: first, then first of the rest
    p = standardised(tilted).softmax(0)
    rates = p + torch.stack(
        [sum(p[j] * p[i] / (1 - p[j]) for j in range(5) if j != i) for i in range(5)]
    )
    assert (lifted / n - rates).abs().max() < 5 * (0.25 / n) ** 0.5


@invariant(4)
def test_a_shift_and_a_factor_of_all_scores_change_nothing() -> None:
    a = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for step in range(50):
        first = choose(a, 8, "softmax", 1.0, step)
        for other in (a + 7, 1e-12 * a, 1e9 * a - 3):
            assert torch.equal(choose(other, 8, "softmax", 1.0, step), first)
    z = standardised(a)
    assert abs(float(z.mean())) < 1e-12 and float(z.std(correction=0)) == pytest.approx(1)
    # a higher temperature flattens
    flat = [choose(a, 1, "softmax", 1e9, s).item() == choose(a, 1, "uniform", 1.0, s).item()
            for s in range(50)]  # fmt: skip
    assert all(flat)
    assert torch.equal(choose(a, 3, "top", 1.0), a.topk(3).indices.sort().values)


@invariant(5)
def test_the_inputs_gradient_and_what_trains_beside_are_as_without() -> None:
    torch.manual_seed(0)
    model, _ = grafted("tokens")
    model = model.double()
    gw.remove(model)
    g = gw.graft(model, gw.LoRA(2), sites=["blocks.*"], also_train=["head"], seed=0)
    gast = gw.GAST(g, 2)
    gast.support(loss_of(model, *data("tokens", 2)))
    x, y = data("tokens")
    ours = x.clone().requires_grad_()
    with gast.batch(B, 0):
        loss_of(model, ours, y).backward()
    head = {n: p.grad.clone() for n, p in g.named_parameters() if n.startswith("head")}
    plain = x.clone().requires_grad_()
    for p in g.parameters():
        p.grad = None
    loss_of(model, plain, y).backward()
    assert torch.equal(ours.grad, plain.grad) and len(head) == 2
    for n, p in g.named_parameters():
        if n in head:
            assert torch.equal(p.grad, head[n])


@invariant(6, 8)
def test_layers_draw_independently_and_a_key_repeats_its_draw() -> None:
    state = torch.get_rng_state()
    equal = torch.zeros(16)
    a = [choose(equal, 8, "softmax", 1.0, 0, step, "a").tolist() for step in range(40)]
    b = [choose(equal, 8, "softmax", 1.0, 0, step, "b").tolist() for step in range(40)]
    assert all(s != t for s, t in zip(a, b, strict=True))
    assert len({tuple(s) for s in a}) > 35
    overlap = sum(len(set(s) & set(t)) for s, t in zip(a, b, strict=True)) / 40
    assert overlap == pytest.approx(4, abs=0.8)
    assert a == [choose(equal, 8, "softmax", 1.0, 0, step, "a").tolist() for step in range(40)]
    assert torch.equal(torch.get_rng_state(), state)


@invariant(8)
def test_same_seed_and_step_same_subsets_and_no_generator_moves() -> None:
    x, y = data("tokens")
    found = []
    for seed, step in ((0, 3), (0, 3), (1, 3), (0, 4)):
        model, _, gast = selecting("tokens", seed=seed, rule="uniform", layers="module")
        state = torch.get_rng_state()
        run(gast, model, x, y, step)
        assert torch.equal(torch.get_rng_state(), state)
        found.append({n: c.picked.tolist() for n, c in gast.chosen.items()})
    assert found[0] == found[1] != found[2] and found[0] != found[3] and found[2] != found[3]
    assert len({tuple(p) for p in found[0].values()}) > 1


@invariant(9)
def test_nothing_is_left_on_the_model() -> None:
    model, g = grafted("tokens")
    x, y = data("tokens")
    before, names, base = model(x), [n for n, _ in model.named_parameters()], model.state_dict()
    gast = gw.GAST(g, 3)
    gast.support(loss_of(model, *data("tokens", 2)))
    assert all(p.grad is None for p in g.parameters())
    with gast.batch(B):
        assert torch.equal(model(x), before)
        loss_of(model, x, y)  # no backward at all: no gradient, no error
    assert all(p.grad is None for p in g.parameters()) and gast.chosen == {}
    run(gast, model, x, y)
    assert torch.equal(model(x), before) and [n for n, _ in model.named_parameters()] == names
    assert model.state_dict().keys() == base.keys()
    assert not any(m._forward_hooks for m in model.modules())


@invariant(10)
def test_padding_changes_no_score() -> None:
    class Each(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    torch.manual_seed(0)
    model = Each().double()
    g = gw.graft(model, gw.LoRA(2), seed=0)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(B, 4, 5, dtype=torch.float64)
    mask = torch.ones(B, 4, dtype=torch.float64)
    mask[2, 3:] = mask[4, 1:] = 0

    def loss(net: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        each = net(x).square().sum(-1)
        return ((each * mask).sum(1) / mask.sum(1)).mean()

    gast = gw.GAST(g, 3)
    gast.support(loss(model, x[:2], mask[:2]))
    ours = run(gast, model, x, mask, loss=loss)
    scores = {n: c.scores for n, c in gast.chosen.items()}
    longer = torch.cat([x, 9 * torch.randn(B, 3, 5, dtype=torch.float64)], 1)
    padded = run(gast, model, longer, torch.cat([mask, torch.zeros(B, 3)], 1), loss=loss)
    for n, c in gast.chosen.items():
        torch.testing.assert_close(c.scores, scores[n], rtol=1e-12, atol=1e-14)
    for n, t in ours.items():
        torch.testing.assert_close(padded[n], t, rtol=1e-12, atol=1e-14)


@invariant(7)
def test_defined_at_the_edges() -> None:
    model, g, gast = selecting("tokens", keep=1)
    x, y = data("tokens")
    one = run(gast, model, x[:1], y[:1])  # B = 1 passes through
    for p in g.parameters():
        p.grad = None
    loss_of(model, x[:1], y[:1]).backward()
    for n, p in g.named_parameters():
        torch.testing.assert_close(one[n], p.grad, rtol=1e-12, atol=1e-14)
    gast = gw.GAST(g, 7)
    with pytest.raises(gw.GraftError, match="no support gradient"):
        run(gast, model, x, y)
    gast.support(loss_of(model, x, y))
    with pytest.raises(gw.GraftError, match="7 samples of a batch of 6"):
        run(gast, model, x, y)
    with pytest.raises(gw.GraftError, match="is the support batch empty"):
        gast.support(loss_of(model, x[:0], y[:0]))
    with pytest.raises(gw.GraftError, match="does not depend on the graft"):
        gast.support(torch.ones(1, requires_grad=True).sum())
    with pytest.raises(gw.GraftError, match="no gradient"):
        gast.support(torch.zeros(()))


@invariant(7)
def test_a_nan_score_is_an_error_and_leaves_the_gradients() -> None:
    model, g, gast = selecting("tokens")
    x, y = data("tokens")
    for p in g.parameters():
        p.grad = torch.full_like(p, 2.0)
    y[4] = float("nan")
    with (
        pytest.raises(NotFiniteError, match=r"sample 4 at layer 'blocks.1' is not finite"),
        gast.batch(B),
    ):
        loss_of(model, x, y).backward()
    assert all(bool((p.grad == 2).all()) for p in g.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_every_invariant_has_a_test() -> None:
    header = importlib.import_module("graftwork.selection.gast").__doc__ or ""
    _, _, listed = header.partition("\nInvariants:\n")
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", listed, re.MULTILINE)]
    assert numbers == list(range(1, 11)) == sorted(CLAIMED)
    assert "Departures" in header and "Refuses:" in header
