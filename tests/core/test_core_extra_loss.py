"""The door by which methods add to the training loss."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graftwork as gw
from graftwork.states import MethodState


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))


def grafted(balance: float = 0.5, **fields: object) -> tuple[nn.Sequential, gw.Graft]:
    model = network()
    method = gw.GOAT(4, experts=2, top_k=1, balance=balance, **fields)  # type: ignore[arg-type]
    return model, gw.graft(model, method, seed=0)


X = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))


def balance_of(g: gw.Graft, name: str, x: Tensor) -> Tensor:
    odds = (x @ dict(g.named_parameters())[f"{name}.router"].T).softmax(-1)
    share = nn.functional.one_hot(odds.argmax(-1), 2).float().mean(0)
    return 0.5 * 2 * (share * odds.mean(0)).sum()


def by_hand(model: nn.Sequential, g: gw.Graft, x: Tensor = X) -> Tensor:
    return balance_of(g, "0", x) + balance_of(g, "2", model[1](model[0](x)))


def test_it_sums_all_layers_and_the_gradient_flows() -> None:
    model, g = grafted()
    want = torch.autograd.grad(by_hand(model, g), list(g.parameters()), allow_unused=True)
    with gw.extra_loss(model) as extra:
        model(X)
        total = extra()
    torch.testing.assert_close(total, by_hand(model, g))
    total.backward()
    for p, w in zip(g.parameters(), want, strict=True):
        assert (p.grad is None) == (w is None)
        if w is not None:
            torch.testing.assert_close(p.grad, w)
    assert dict(g.named_parameters())["2.router"].grad.any()


def test_nothing_is_left_from_an_earlier_forward_or_a_failed_one() -> None:
    model, g = grafted()
    model(X)  # nobody collects

    def broken() -> None:
        with gw.extra_loss(model):
            model(X)
            raise KeyError("stop")

    with pytest.raises(KeyError):
        broken()
    with gw.extra_loss(model):
        model(X)  # collected and not used
    assert all(s.left is None for s in model.modules() if isinstance(s, MethodState))
    with gw.extra_loss(model) as extra:
        model(X)
        total = extra()
    torch.testing.assert_close(total, by_hand(model, g))
    copy.deepcopy(model)  # holds no graph
    with gw.extra_loss(model) as extra:
        assert float(extra()) == 0.0


def test_every_call_counts_and_each_block_hands_out_once() -> None:
    model, g = grafted()
    with gw.extra_loss(model) as extra:
        model(X)
        model(X[:4])
        total = extra()
        with pytest.raises(gw.GraftError, match="handed out already"):
            extra()
        with pytest.raises(gw.GraftError, match="inside another such block"):
            _nested(model)
    both = by_hand(model, g) + by_hand(model, g, X[:4])
    torch.testing.assert_close(total.detach(), both.detach())


def _nested(model: nn.Module) -> None:
    with gw.extra_loss(model), gw.extra_loss(model):
        pass


def test_eval_mode_switched_off_and_other_methods_add_nothing() -> None:
    model, g = grafted()
    with gw.extra_loss(model) as extra, g.off():
        model(X)
        assert float(extra()) == 0.0
    model.eval()
    with gw.extra_loss(model) as extra:
        model(X)
        assert float(extra()) == 0.0
    plain = network()
    with gw.extra_loss(plain) as extra:
        loss = plain(X).sum() + extra()
    assert torch.equal(loss, plain(X).sum())
    gw.graft(plain, gw.LoRA(2))
    with gw.extra_loss(plain) as extra:
        plain(X)
        assert float(extra()) == 0.0


@pytest.mark.parametrize("segments", ["whole", "halves"])
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(segments: str) -> None:
    model, g = grafted(exact_start=True, dropout=0.0)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.1)

    def run(x: Tensor) -> Tensor:
        if segments == "whole":
            return checkpoint(model, x, use_reentrant=False)
        h = checkpoint(model[0], x, use_reentrant=False)
        return checkpoint(model[2], model[1](h), use_reentrant=False)

    seen = []
    for forward in (model, run):
        for p in g.parameters():
            p.grad = None
        with gw.extra_loss(model) as extra:
            loss = forward(X).square().mean() + extra()
            loss.backward()  # recomputes inside the block
        seen.append([loss.detach(), *(p.grad for p in g.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_reentrant_checkpointing_is_refused_and_a_frozen_graft_or_no_grad_is_not() -> None:
    model, g = grafted()
    with gw.extra_loss(model) as extra:
        checkpoint(model, X.clone().requires_grad_(), use_reentrant=True)
        with pytest.raises(
            gw.GraftError, match=r"goat adds to the loss has no gradient.*use_reentrant"
        ):
            extra()
    with torch.no_grad(), gw.extra_loss(model) as extra:  # a loss that is only looked at
        model(X)
        assert float(extra()) > 0
    for p in g.parameters():
        p.requires_grad_(False)
    with gw.extra_loss(model) as extra:
        model(X)
        assert not extra().requires_grad
