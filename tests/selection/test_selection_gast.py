"""GAST's numbered invariants, in float64 against explicit per-sample gradients."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graftwork as gw
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
)

CASES = [
    *(("tokens", m) for m in (gw.LoRA(2, alpha=3.0), gw.LoRA(3, rslora=True), gw.PiSSA(2))),
    *(("tokens", m) for m in (gw.MiLoRA(2), gw.DoRA(2, alpha=3.0))),
    *(("images", m) for m in (gw.LoRA(2, alpha=3.0), gw.LoRA(3), gw.PiSSA(2))),
    *(("words", m) for m in (gw.LoRA(2, alpha=3.0), gw.PiSSA(2), gw.DoRA(2))),
]
NAMES = [f"{k}-{m.id}-{m.rank}" for k, m in CASES]


def served(kind: str, method: Any) -> list[str] | None:
    """Sites where the method declares factors."""
    if method.id == "dora" and kind == "words":
        return ["2"]
    return None


def selecting(kind: str, method: Any = None, keep: int = 3, **options: Any) -> Any:
    model, g = grafted(kind, method, sites=served(kind, method) if method else None)
    gast = gw.GAST(g, keep, **options)
    xs, ys = data(kind, 2, 4)
    gast.support(loss_of(model, xs, ys))
    return model, g, gast


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
        pytest.raises(gw.GraftError, match=r"sample 4 at layer 'blocks.1' is not finite"),
        gast.batch(B),
    ):
        loss_of(model, x, y).backward()
    assert all(bool((p.grad == 2).all()) for p in g.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_gradients_add_to_what_stood_there() -> None:
    model, g, gast = selecting("tokens")
    x, y = data("tokens")
    first = run(gast, model, x, y)
    with gast.batch(B, 0):
        loss_of(model, x, y).backward()
    for n, p in g.named_parameters():
        torch.testing.assert_close(p.grad, 2 * first[n])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layers", ["block", "module", lambda name: "all"])
def test_checkpointing_captures_once(reentrant: bool, layers: Any) -> None:
    x, y = data("tokens")
    found = []
    for kept in (False, True):
        model, _, gast = selecting("tokens", layers=layers)
        if kept:
            for block in model.blocks:
                inner = block.forward
                block.forward = lambda z, f=inner: checkpoint(f, z, use_reentrant=reentrant)
        gast.begin(B, 0)
        gast.mark()
        loss_of(model, x.clone().requires_grad_(), y).backward()
        if not (
            kept and reentrant
        ):  # where the backward makes the calls, the last is known at its end
            assert not any(s.calls for layer in gast._layers.values() for s in layer.sites)
        assert gast.finish() is gast.chosen and gast.chosen
        assert not any(m._forward_hooks for m in model.modules())
        found.append(({n: p.grad for n, p in gast.graft.named_parameters()}, gast.chosen))
    for n, t in found[0][0].items():
        torch.testing.assert_close(found[1][0][n], t, rtol=1e-12, atol=1e-14)
    for n, c in found[0][1].items():
        torch.testing.assert_close(found[1][1][n].scores, c.scores, rtol=1e-12, atol=1e-14)


def test_inputs_and_gradients_are_let_go_as_soon_as_a_layer_has_chosen() -> None:
    model, _, gast = selecting("tokens")
    held: list[int] = []

    def count(grad: Tensor) -> None:
        held.append(sum(len(s.calls) for layer in gast._layers.values() for s in layer.sites))

    x, y = data("tokens")
    with gast.batch(B):
        x = x.clone().requires_grad_()
        middle = model.blocks[0](x)
        middle.register_hook(count)
        (model.head(model.blocks[1](middle).mean(1)) - y).square().sum(1).mean().backward()
    assert held == [0]  # block 1 has chosen, block 0 has not begun


def test_layers_that_share_one_input_and_its_fast_form() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.q(x), self.k(x), self.v(x)
            return nn.functional.scaled_dot_product_attention(q, k, v).mean(1)

    torch.manual_seed(0)
    model = Attention().double()
    g = gw.graft(model, gw.LoRA(2), seed=0)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(torch.randn_like(p))
    x, y = data("tokens")
    gast = gw.GAST(g, 2, layers=lambda name: "all")
    for step in range(3):  # the layers learn from the first calls that they read the same input
        gast.support(loss_of(model, *data("tokens", 2)))
        ours = run(gast, model, x, y, step)
    own, sup = explicit(model, g, x, y), explicit(model, g, *data("tokens", 2))
    scores = scores_of(gast, own, sup)["all"]
    torch.testing.assert_close(gast.chosen["all"].scores, scores, rtol=1e-10, atol=1e-11)
    for n, t in ours.items():
        mean = sum(own[n][i] for i in gast.chosen["all"].picked.tolist()) / 2
        torch.testing.assert_close(t, mean, rtol=1e-12, atol=1e-13)


def test_windows_are_folded_on_request() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 3).double()
    net = nn.Sequential(nn.Flatten(0, 1), layer, nn.Unflatten(0, (B, 4)))
    g = gw.graft(net, gw.LoRA(2), seed=0)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(torch.randn_like(p))
    x = torch.randn(B, 4, 5, dtype=torch.float64)

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return model(x).square().sum((1, 2)).mean()

    gast = gw.GAST(g, 2)
    gast.support(loss(net, x, x))
    with pytest.raises(gw.GraftError, match="1 was called with 24 rows for a batch of 6 samples"):
        run(gast, net, x, x, loss=loss)
    gast = gw.GAST(g, 2, folded=True)
    gast.support(loss(net, x, x))
    folded = run(gast, net, x, x, loss=loss)
    straight = nn.Sequential(layer)
    scores = gast.chosen["1"].scores
    gast = gw.GAST(g, 2)
    net[0], net[2] = nn.Identity(), nn.Identity()
    gast.support(loss(straight, x, x))
    plain = run(gast, net, x, x, loss=loss)
    torch.testing.assert_close(gast.chosen["1"].scores, scores)
    for n, t in folded.items():
        torch.testing.assert_close(plain[n], t)


def test_half_precision_is_scored_wide() -> None:
    model, g = grafted("tokens")
    model = model.float()
    x, y = (t.float() for t in data("tokens"))
    gast = gw.GAST(g, B)
    with torch.autocast("cpu", torch.bfloat16):
        gast.support(loss_of(model, x, y))
        ours = run(gast, model, x, y)
    assert {c.scores.dtype for c in gast.chosen.values()} == {torch.float32}
    for p in g.parameters():
        p.grad = None
    loss_of(model, x, y).backward()
    for n, p in g.named_parameters():
        assert ours[n].dtype == torch.float32
        assert (ours[n] - p.grad).abs().max() < 0.05 * p.grad.abs().max()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"keep": 0}, "GAST.keep must be a whole number of at least 1, not 0"),
        ({"keep": 2.0}, "GAST.keep"),
        ({"temperature": 0.0}, "GAST.temperature"),
        ({"temperature": float("nan")}, "GAST.temperature"),
        ({"rule": "greedy"}, "GAST.rule"),
        ({"layers": "each"}, "GAST.layers"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    _, g = grafted("tokens")
    with pytest.raises(gw.GraftError, match=re.escape(words)):
        gw.GAST(g, **{"keep": 2, **fields})


def test_what_cannot_be_served_is_refused() -> None:
    for method, words in (
        (gw.LoRA(2, dropout=0.1), "LoRA with dropout, whose mask is gone"),
        (gw.GOAT(4, experts=2), "GOAT, which declares no low-rank factors"),
    ):
        _, g = grafted("tokens", method)
        with pytest.raises(gw.GraftError, match=words):
            gw.GAST(g, 2)
    mha = nn.MultiheadAttention(4, 2)
    g = gw.graft(mha, gw.LoRA(2), sites=["in_proj_weight"])
    with pytest.raises(gw.GraftError, match="in_proj_weight is a bare parameter"):
        gw.GAST(g, 2)
    g.remove()
    g = gw.graft(mha, gw.LoRA(2), sites=["out_proj"])
    with pytest.raises(gw.GraftError, match="out_proj's weight is read by its owner"):
        gw.GAST(g, 2)
    table = nn.Sequential(nn.Embedding(5, 3, scale_grad_by_freq=True))
    with pytest.raises(gw.GraftError, match="scale_grad_by_freq"):
        gw.GAST(gw.graft(table, gw.LoRA(2), sites=["0"]), 2)
    net = nn.Sequential(nn.Linear(4, 3))
    g = gw.graft(net, gw.LoRA(2), sites=["0"], also_train=[gw.NewRows("0", 1)])
    with pytest.raises(gw.GraftError, match="new rows"):
        gw.GAST(g, 2)
    norm = nn.Sequential(nn.LayerNorm(4))
    with pytest.raises(gw.GraftError, match="copied module"):
        gw.GAST(gw.graft(norm, gw.NormAffine()), 2)


def test_states_that_it_cannot_train_in_are_refused() -> None:
    model, g, gast = selecting("tokens")
    x, y = data("tokens")
    gw.activate(model, {"default": 0.5})
    with pytest.raises(gw.GraftError, match=r"is on by 0\.5"):
        gast.begin(B, 0)
    gw.activate(model, None)
    with pytest.raises(gw.GraftError, match="is off"):
        gast.begin(B, 0)
    gw.activate(model, "default")
    g.merge()
    with pytest.raises(gw.GraftError, match="is merged"):
        gast.begin(B, 0)
    g.unmerge()
    with gast.batch(B), pytest.raises(gw.GraftError, match="inside another batch"):
        gast.begin(B, 0)
    with (
        pytest.raises(gw.GraftError, match="one forward and one backward"),
        gast.batch(B),
    ):
        loss = loss_of(model, x, y)
        loss.backward(retain_graph=True)
        loss.backward()
    with (
        pytest.raises(gw.GraftError, match="by another way than the layers' own calls"),
        gast.batch(B),
    ):
        sum(p.sum() for p in g.parameters()).backward()
    assert all(p.grad is None for p in g.parameters())


def test_blocks_are_named_up_to_their_first_number() -> None:
    assert block_of("model.layers.3.self_attn.q_proj") == "model.layers.3"
    assert block_of("0") == "0" and block_of("encoder.head") == "encoder.head"
    _, g = grafted("tokens")
    assert set(gw.GAST(g, 2).layers) == {"blocks.0", "blocks.1"}
    assert len(gw.GAST(g, 2, layers="module").layers) == 6
    one = gw.GAST(g, 2, layers=lambda name: "all").layers
    assert len(one["all"]) == 6


def test_every_invariant_has_a_test() -> None:
    header = importlib.import_module("graftwork.selection.gast").__doc__ or ""
    _, _, listed = header.partition("\nInvariants:\n")
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", listed, re.MULTILINE)]
    assert numbers == list(range(1, 11)) == sorted(CLAIMED)
    assert "Departures" in header and "Refuses:" in header
