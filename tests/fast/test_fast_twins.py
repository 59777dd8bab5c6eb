"""The copies that a graft's layers share are never older than the call that uses them."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from test_fast_linear import Attention, plain_form, results, state, trained
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graftwork as gw
from benchmarks.speed.anatomy import operations
from graftwork.fast import twins
from graftwork.fast.channels import column_dots, scaled, scaled_rows
from graftwork.fast.twins import Twin
from graftwork.methods.base import Method

HALF = torch.bfloat16
METHODS = [gw.LoRA(2, alpha=3), gw.DoRA(2), gw.DiaBlo(2)]


def pair(method: Method = METHODS[0]) -> tuple[nn.Module, gw.Graft, Tensor]:
    torch.manual_seed(0)
    model = Attention(bias=False).to(HALF)
    return model, trained(model, method, HALF), torch.randn(2, 5, 8, dtype=HALF)


def agrees(model: nn.Module, graft: gw.Graft, x: Tensor) -> None:
    """Output and gradients are those of a fresh copy, whose copies of factors are made at its first call."""
    fresh = copy.deepcopy(model)
    found = results(model, graft, x)
    for one, two in zip(found, results(fresh, gw.get(fresh), x), strict=True):
        assert (one - two).abs().max() <= 0.02 * two.abs().max()


def through_version(p: Tensor, new: Tensor) -> None:
    with torch.no_grad():
        p.copy_(new)


def through_data(p: Tensor, new: Tensor) -> None:
    p.data.copy_(new)


def another_memory(p: Tensor, new: Tensor) -> None:
    p.data = new.clone()


WRITES = [through_version, through_data, another_memory]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("grad", [True, False])
def test_a_write_between_two_passes_is_seen(
    method: Method, write: Callable[[Tensor, Tensor], None], grad: bool
) -> None:
    model, graft, x = pair(method)
    with torch.set_grad_enabled(grad):
        for turn in range(4):
            y = model(x)  # alone at first, then as a family
            if grad and turn % 2:
                y.sum().backward()
            for i, p in enumerate(graft.parameters()):
                write(p, p.detach() * (1.5 if i % 2 else -1.0) + 0.1 * turn)
            fresh = copy.deepcopy(model)
            with plain_form():
                expected = fresh(x)
            assert (model(x) - expected).abs().max() <= 0.05 * expected.abs().max()


def test_a_write_in_the_middle_of_a_pass_is_seen() -> None:
    model, graft, x = pair()
    model(x), model(x)
    p = dict(graft.named_parameters())["o.B"]
    old, new = p.detach().clone(), p.detach() + 1.0
    with plain_form():
        through_version(p, new)
        expected = model(x)
    model.q.register_forward_hook(lambda *_: through_version(p, new))
    for _ in range(2):
        through_version(p, old)
        assert (model(x) - expected).abs().max() <= 0.05 * expected.abs().max()


def test_a_pass_that_skips_layers_and_one_that_repeats_them_see_writes_through_data() -> None:
    model, graft, x = pair()
    model(x), model(x)
    for _ in range(3):
        model.o(x)  # a pass of one layer
        for p in graft.parameters():
            through_data(p, p.detach() + 0.3)
        for _ in range(2):
            with plain_form():
                expected = model.o(x)
            found = model.o(x)
            assert (found - expected).abs().max() <= 0.05 * expected.abs().max()
    agrees(model, graft, x)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_step_casts_all_layers_factors_in_one_operation(method: Method) -> None:
    model, graft, x = pair(method)
    optimizer = torch.optim.SGD(graft.parameters(), lr=0.1)

    def step() -> None:
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    found = operations(step)
    assert found["forward"]["_foreach_copy_"] == 1
    if method.id != "dora":
        assert found["forward"]["_to_copy"] == 0


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_recomputes_with_the_same_copies(method: Method, reentrant: bool) -> None:
    torch.manual_seed(0)
    blocks = nn.ModuleList(nn.Linear(8, 8, i % 2 == 0) for i in range(4)).to(HALF)
    graft = gw.graft(blocks, method, seed=0)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(0.2 * torch.randn_like(p))
    x = torch.randn(3, 8, dtype=HALF)

    def run(kept: bool) -> list[Tensor]:
        leaf = h = x.clone().requires_grad_()
        for block in blocks:
            h = checkpoint(block, h, use_reentrant=reentrant).tanh() if kept else block(h).tanh()
        return list(torch.autograd.grad(h.square().sum(), [leaf, *graft.parameters()]))

    if reentrant:  # it only serves backward()

        def run(kept: bool) -> list[Tensor]:
            graft_parameters = list(graft.parameters())
            for p in graft_parameters:
                p.grad = None
            leaf = h = x.clone().requires_grad_()
            for block in blocks:
                h = (checkpoint(block, h, use_reentrant=True) if kept else block(h)).tanh()
            h.square().sum().backward()
            return [leaf.grad, *(p.grad for p in graft_parameters)]  # type: ignore[list-item]

    expected = run(False)
    for _ in range(3):
        for one, two in zip(run(True), expected, strict=True):
            assert torch.equal(one, two)


def test_a_write_between_forward_and_backward_is_refused_as_torch_does() -> None:
    model, graft, x = pair()
    for _ in range(3):
        model(x)
    loss = model(x).sum()
    for p in graft.parameters():
        through_version(p, p.detach() + 1)
    model(x)  # makes the shared copies anew
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_copies_follow_another_dtype_and_inference_mode_leaves_them_alone() -> None:
    model, graft, x = pair()
    for _ in range(3):
        model(x)
    with torch.inference_mode():
        inside = model(x)
    assert torch.equal(inside, model(x))
    agrees(model, graft, x)
    for module in model.modules():
        for n, p in module._parameters.items():
            if p is not None and not p.requires_grad:
                module._parameters[n] = nn.Parameter(p.double(), requires_grad=False)
    wide = x.double()
    with plain_form():
        expected = model(wide)
    for _ in range(3):
        torch.testing.assert_close(model(wide), expected)


def test_a_weight_written_to_changes_the_norms() -> None:
    model, graft, x = pair(gw.DoRA(2))
    for _ in range(3):
        model(x)
    with torch.no_grad():
        model.o._parameters["weight"].mul_(3)
    agrees(model, graft, x)


def test_a_graft_that_nobody_holds_is_freed_without_the_collector() -> None:
    model, graft, x = pair()
    results(model, graft, x), results(model, graft, x)
    seen = [weakref.ref(p) for p in graft.parameters()]
    gc.collect()
    gc.disable()
    try:
        graft.remove()
        assert not any(ref() is not None for ref in seen)
    finally:
        gc.enable()


def test_states_of_a_graft_share_a_pool_and_their_copies_another() -> None:
    model, graft, x = pair()
    pools = {id(s.fast.pool) for _, s in graft.states()}  # type: ignore[union-attr]
    again = copy.deepcopy(model)
    others = {id(s.fast.pool) for _, s in gw.get(again).states()}  # type: ignore[union-attr]
    assert len(pools) == len(others) == 1 and pools != others
    model(x)
    assert state(model.q).fast.pool._twins and not state(again.q).fast.pool._twins  # type: ignore[union-attr]


def test_layers_with_other_ranks_get_their_gains_in_one_go() -> None:
    layers = [(5, 7, 2), (4, 3, 1), (5, 2, 2)]
    found, expected = [], []
    for k, (n_in, n_out, r) in enumerate(layers):
        draw = torch.Generator().manual_seed(k)
        w, a, b = (
            torch.randn(*s, generator=draw, dtype=torch.float64)
            for s in ((n_out, n_in), (r, n_in), (n_out, r))
        )
        if k == 1:
            w[0] = b[0] = 0  # a channel without a direction
        m = torch.rand(n_out, generator=draw, dtype=torch.float64)
        found.append(Twin([a, b, m], torch.float64, w, 1.5))
        n = (w + 1.5 * b @ a).norm(dim=1)
        expected.append(torch.where(n == 0, 1.0, m / n))
    twins.fill(found)
    for t, g in zip(found, expected, strict=True):
        assert t.gain is not None
        torch.testing.assert_close(t.gain.wide, g, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(t.gain.less, g - 1, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(t.gain.up, g[:, None] * t.sources[1], rtol=1e-12, atol=1e-12)
    assert found[1].gain is not None and found[1].gain.norm[0] == torch.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, HALF])
def test_passes_over_channels(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 4, generator=draw).to(dtype) for _ in range(2))
    wide = torch.promote_types(dtype, torch.float32)
    g, b = (torch.randn(4, generator=draw).to(wide) for _ in range(2))
    limit = {"rtol": 1e-12, "atol": 1e-12} if dtype is torch.float64 else {}
    torch.testing.assert_close(scaled(x, g), (x.to(wide) * g).to(dtype))
    torch.testing.assert_close(scaled(x, g, b), (x.to(wide) * g + b).to(dtype))
    assert torch.equal(scaled(x, torch.ones_like(g), 0 * b), x)
    for w in (x, x.t().contiguous().t()):
        torch.testing.assert_close(
            scaled_rows(w, torch.arange(6, dtype=wide)),
            (w.to(wide) * torch.arange(6)[:, None]).to(dtype),
        )
    exact = (x.double() * (y.double() - b.double())).sum(0)
    dots = column_dots(x, y, g, b)
    assert dots.dtype is wide
    torch.testing.assert_close(dots.double(), exact, **limit)
    torch.testing.assert_close(
        column_dots(x, y, g).double(), (x.double() * y.double()).sum(0), rtol=0.01, atol=0.02
    )
