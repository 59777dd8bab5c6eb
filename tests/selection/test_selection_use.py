"""GAST in use: checkpointing, shared inputs, windows, half precision, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graftwork as gw
from graftwork.selection.gast import block_of
from tests.selection.selection_helpers import (
    B,
    data,
    explicit,
    grafted,
    loss_of,
    run,
    scores_of,
    selecting,
)


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


@pytest.mark.parametrize("kept", [None, False, True])  # checkpointed, reentrant or not
@pytest.mark.parametrize("kind", ["tokens", "images"])
def test_dropout_in_the_branch_is_that_of_the_forward(kind: str, kept: bool | None) -> None:
    model, g, gast = selecting(kind, gw.LoRA(2, alpha=3.0, dropout=0.4))
    plain = gw.GAST(g, B)
    plain.support(loss_of(model, *data(kind, 2, 4)))
    model.train()
    if kept is not None and kind == "tokens":
        for block in model.blocks:
            inner = block.forward
            block.forward = lambda z, f=inner: checkpoint(f, z, use_reentrant=kept)
    x, y = data(kind)
    x.requires_grad_()
    torch.manual_seed(7)
    each = (model(x) - y).square().sum(1)
    params = dict(g.named_parameters())
    own: dict[str, list[Tensor]] = {n: [] for n in params}
    for i in range(B if kept is None else 0):
        grads = torch.autograd.grad(each[i], list(params.values()), retain_graph=True)
        for n, v in zip(params, grads, strict=True):
            own[n].append(v)
    torch.manual_seed(7)
    ours = run(gast, model, x, y)
    sites = [site for layer in gast._layers.values() for site in layer.sites]
    assert all(site.state.saw is None and site.masked is None for site in sites)
    torch.manual_seed(7)
    whole = run(plain, model, x, y)
    for p in params.values():
        p.grad = None
    torch.manual_seed(7)
    loss_of(model, x, y).backward()
    for n, p in params.items():
        torch.testing.assert_close(whole[n], p.grad, rtol=1e-11, atol=1e-12)
    torch.manual_seed(8)
    other = run(plain, model, x, y)
    assert any(not torch.equal(other[n], whole[n]) for n in params)
    if kept is not None:
        return
    support = {id(p): n for n, p in params.items()}
    v = {support[i]: [t] for i, t in gast._support.items()}
    for layer, scores in scores_of(gast, own, v).items():
        torch.testing.assert_close(gast.chosen[layer].scores, scores, rtol=1e-10, atol=1e-11)
        picked = gast.chosen[layer].picked.tolist()
        for n in own:
            if n.rpartition(".")[0] in gast.layers[layer]:
                mean = torch.stack([own[n][i] for i in picked]).mean(0)
                torch.testing.assert_close(ours[n], mean, rtol=1e-11, atol=1e-12)


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
        (gw.PiSSA(2, dropout=0.1), "PiSSA with dropout, of which it declares no factors"),
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
