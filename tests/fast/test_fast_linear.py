"""The fast form of low-rank branches against plain autograd, and who shares a product with whom."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graftwork as gw
from graftwork.attach import grafts_of
from graftwork.fast import linear as fast_linear
from graftwork.fast import sites as fast_sites
from graftwork.fast.linear import Branch, lowrank_linear
from graftwork.fast.twins import Twin, fill
from graftwork.methods.base import Method
from graftwork.states import MethodState


class Attention(nn.Module):
    """q, k and v of one input, as model code calls them."""

    def __init__(self, bias: bool = True, width: int = 8) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(width, width, bias), nn.Linear(width, 4, bias)
        self.v, self.o = nn.Linear(width, width, bias), nn.Linear(width, width, bias)
        self.order = "qkv"

    def forward(self, x: Tensor) -> Tensor:
        y = {name: getattr(self, name)(x) for name in self.order}
        return self.o(y["q"] * y.get("v", x).tanh() + y["k"].sum(-1, keepdim=True))


class Frozen:
    """A frozen map as a branch takes it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    @property
    def _base_class(self) -> type:
        return Frozen

    @property
    def itself(self) -> Frozen:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


@contextmanager
def plain_form() -> Iterator[None]:
    """Everything through plain autograd."""
    kept = fast_sites.plain
    fast_sites.plain = lambda x: False
    try:
        yield
    finally:
        fast_sites.plain = kept


METHODS = [gw.LoRA(3, alpha=4.5), gw.DoRA(3, alpha=4.5), gw.DiaBlo(2), gw.DiaBlo(3)]


def trained(model: nn.Module, method: Method, dtype: torch.dtype = torch.float64) -> gw.Graft:
    graft = gw.graft(model.to(dtype), method, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_((0.3 * torch.randn(p.shape, generator=draw)).to(p.dtype))
    return graft


def state(layer: nn.Module) -> MethodState:
    site = grafts_of(layer)
    assert site is not None
    found = site.state("default")
    assert isinstance(found, MethodState)
    return found


def results(model: nn.Module, graft: gw.Graft, x: Tensor) -> list[Tensor]:
    """Output, gradient of the input and of every factor."""
    x = x.clone().requires_grad_()
    y = model(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *graft.parameters()])]


@given(
    batch=st.lists(st.integers(1, 4), max_size=3),
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    bias=st.booleans(),
    transposed=st.booleans(),
    scale=st.one_of(st.just(1.0), st.floats(0.1, 4)),
    gained=st.booleans(),
    as_on_a_gpu=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_values_and_gradients_are_the_equations(
    batch: list[int],
    ranks: list[int],
    bias: bool,
    transposed: bool,
    scale: float,
    gained: bool,
    as_on_a_gpu: bool,
    seed: int,
) -> None:
    draw = torch.Generator().manual_seed(seed)

    def new(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    x = new(*batch, 6).requires_grad_()
    branches, expected, layers, leaves = [], [], [], [x]
    for i, r in enumerate(ranks):
        w = (new(6, 3 + i).t() if transposed else new(3 + i, 6)).detach()
        b = new(3 + i) if bias else None
        own = [new(r, 6), new(3 + i, r), *([new(3 + i)] if gained else [])]
        own = [t.requires_grad_() for t in own]
        layers.append(Frozen(w, b))
        twin = Twin(own, x.dtype, w if gained else None, scale)
        if not twin.bare:
            fill([twin])
        branches.append(Branch(partial(getattr, layers[-1], "itself"), w, b, twin, scale))
        leaves += own
        a, up = own[:2]
        inner = x @ w.t() + scale * (x @ a.t()) @ up.t()
        if gained:
            inner = own[2] / (w + scale * up @ a).norm(dim=1).detach() * inner
        expected.append(inner + (0 if b is None else b))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_linear, "direct", lambda x, bias: as_on_a_gpu)
        got = lowrank_linear(x, branches)
    g = [new(*y.shape) for y in expected]
    for one, two in zip(got, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)
    for one, two in zip(
        torch.autograd.grad(got, leaves, g), torch.autograd.grad(expected, leaves, g), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_model_agrees_with_plain_autograd(dtype: torch.dtype, bias: bool, method: Method) -> None:
    model = Attention(bias)
    graft = trained(model, method, dtype)
    x = torch.randn(2, 5, 8, dtype=dtype)
    with plain_form():
        expected = results(model, graft, x)
    limit = {torch.float64: 1e-10, torch.float32: 1e-5}[dtype]
    for _ in range(3):  # alone, then as a family
        for one, two in zip(results(model, graft, x), expected, strict=True):
            assert (one - two).abs().max() <= limit * two.abs().max()


def test_who_reads_the_same_input_shares_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = fast_sites.lowrank_linear

    def counted(x: Tensor, branches: list[Branch]) -> tuple[Tensor, ...]:
        sizes.append(len(branches))
        return real(x, branches)

    monkeypatch.setattr(fast_sites, "lowrank_linear", counted)
    monkeypatch.setattr(fast_sites, "one_linear", lambda x, c: counted(x, [c])[0])
    model = Attention()
    trained(model, gw.LoRA(2))
    x = torch.randn(3, 8, dtype=torch.float64)
    model(x)
    model(x + 1)
    assert sizes == [1, 1, 1, 1, 3, 1]
    sizes.clear()
    model.order = "kq"  # v is no longer called: the three give each other up, and never wait again
    model.o.forward = lambda x: x  # type: ignore[method-assign]
    model(x + 2), model(x + 3), model(x + 4)
    del model.o.forward
    assert sizes == [1, 3, 1, 1, 1, 1]
    sizes.clear()
    fresh = copy.deepcopy(model)  # a copy finds out anew, among its own layers
    fresh.order = "qkv"
    fresh(x), fresh(x + 1)
    assert sizes == [1, 1, 1, 1, 3, 1]
    assert {ref() for ref in state(fresh.q).fast.family.members} == {  # type: ignore[union-attr]
        state(layer) for layer in (fresh.q, fresh.k, fresh.v)
    }


def test_an_input_changed_between_two_calls_is_noticed() -> None:
    class Careless(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q = self.q(x)
            x.mul_(2)
            return q.sum(-1) + self.k(x).sum(-1)

    careful, model = Attention(), Careless()
    model.load_state_dict(careful.state_dict())
    for m in (careful, model):
        trained(m, gw.LoRA(2))
    x = torch.randn(3, 8, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(3):
            careful(x.clone())  # a forward with equal inputs, so that a family exists
            model.forward = super(Careless, model).forward  # type: ignore[method-assign]
            model(x.clone())
            del model.forward
            expected = careful.q(x).sum(-1) + careful.k(2 * x).sum(-1)
            torch.testing.assert_close(model(x.clone()), expected)


def test_frozen_factors_and_inputs_get_no_gradient() -> None:
    model = Attention()
    graft = trained(model, gw.LoRA(2))
    frozen = [p for n, p in graft.named_parameters() if n.endswith(".A")]
    for p in frozen:
        p.requires_grad_(False)
    model(torch.randn(3, 8, dtype=torch.float64)).sum().backward()
    assert all(p.grad is None for p in frozen)
    assert all(p.grad is not None for p in graft.parameters() if p.requires_grad)


def test_what_follows_may_work_in_place() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2))
    graft = trained(net, gw.LoRA(2))
    x = torch.randn(5, 4, dtype=torch.float64)
    with plain_form():
        expected = results(net, graft, x)
    for one, two in zip(results(net, graft, x), expected, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_second_derivatives_agree(method: Method) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    graft = trained(net, method)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)

    def penalty() -> list[Tensor]:
        (g,) = torch.autograd.grad(net(x).pow(2).sum(), x, create_graph=True)
        return list(torch.autograd.grad(g.pow(2).sum(), [x, *graft.parameters()]))

    with plain_form():
        expected = penalty()
    for one, two in zip(penalty(), expected, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("seen", [True, False])
def test_checkpointing_agrees_and_keeps_the_family(reentrant: bool, seen: bool) -> None:
    model = Attention()
    graft = trained(model, gw.LoRA(2))
    x = torch.randn(3, 8, dtype=torch.float64)
    with plain_form():
        expected = results(model, graft, x)
    if seen:  # otherwise the very first pass is a checkpointed one
        results(model, graft, x)

    class Kept(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(model, x, use_reentrant=reentrant)

    for _ in range(3):
        leaf = x.clone().requires_grad_()
        y = Kept()(leaf)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
        graft_parameters = list(graft.parameters())
        for p in graft_parameters:
            p.grad = None
        (y * weights).sum().backward()
        found = [y.detach(), leaf.grad, *(p.grad for p in graft_parameters)]
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two)
    results(model, graft, x)
    family = state(model.q).fast.family  # type: ignore[union-attr]
    assert not family.alone and len(family.members) == 3


# torch's own forward-mode rules are compiled with the old compiler
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_transforms_autocast_and_inference_mode_take_the_form_that_they_can() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    trained(net, gw.LoRA(2))
    x = torch.randn(5, 4, dtype=torch.float64)
    y = net(x)
    torch.testing.assert_close(torch.func.vmap(net)(x), y)
    tangent = torch.func.jvp(net, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent, net(x + 1) - y)
    with torch.inference_mode():
        torch.testing.assert_close(net(x.clone()), y)
    net.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x.float()).dtype == torch.bfloat16


def test_only_what_is_switched_on_is_computed_ahead() -> None:
    model = Attention()
    trained(model, gw.LoRA(2))
    x = torch.randn(3, 8, dtype=torch.float64)
    model(x), model(x + 1)
    gw.graft(
        model, gw.LoRA(2), sites=["k"], name="other", seed=3
    )  # active alone: q and v are the base
    with torch.no_grad():
        for p in gw.get(model, "other").parameters():
            p.add_(0.1)
    two = copy.deepcopy(model)
    with plain_form():
        expected = two(x)
    for _ in range(3):
        torch.testing.assert_close(model(x), expected)
    gw.activate(model, {"default": 1.0, "other": 0.5})
    gw.activate(two, {"default": 1.0, "other": 0.5})
    with plain_form():
        expected = two(x)
    for _ in range(3):
        torch.testing.assert_close(model(x), expected)


def test_a_grafted_model_is_pickled_without_its_families() -> None:
    model = Attention()
    trained(model, gw.LoRA(2))
    x = torch.randn(3, 8, dtype=torch.float64)
    model(x), model(x + 1)
    again = pickle.loads(pickle.dumps(model))
    assert not state(again.q).fast.family.members  # type: ignore[union-attr]
    torch.testing.assert_close(again(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_start_is_the_base_bit_for_bit(method: Method, bias: bool, dtype: torch.dtype) -> None:
    model = Attention(bias).to(dtype)
    x = torch.randn(2, 5, 8, dtype=dtype)
    base = model(x)
    gw.graft(model, method, seed=0)
    for _ in range(2):  # alone, then as a family
        assert torch.equal(model(x), base)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_half_precision_keeps_masters_and_rounds_like_the_plain_form(method: Method) -> None:
    model = Attention(bias=False)
    graft = trained(model, method, torch.bfloat16)
    assert {p.dtype for p in graft.parameters()} == {torch.float32}
    x = torch.randn(2, 5, 8, dtype=torch.bfloat16)
    with plain_form():
        expected = results(model, graft, x)
    results(model, graft, x)
    for one, two in zip(results(model, graft, x), expected, strict=True):
        assert one.dtype == two.dtype
        assert (one - two).abs().max() <= 0.05 * two.abs().max()


def test_the_state_that_acts_alone_follows_what_is_switched_on() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    graft = gw.graft(model, gw.LoRA(2), sites=["0"], also_train=[gw.NewRows("0", 3)])
    site = grafts_of(model[0])
    assert site is not None and site.sole() is None  # the new rows act too
    assert model(torch.randn(5, 8)).shape == (5, 7)
    graft.remove()
    gw.graft(model, gw.LoRA(2), sites=["0"], name="a")
    gw.graft(model, gw.LoRA(2), sites=["0"], name="b")
    site = grafts_of(model[0])
    assert site is not None
    for name in ("a", "b", "a"):
        gw.activate(model, name)
        assert site.sole() is site.state(name)
    gw.activate(model, {"a": 0.5})
    assert site.sole() is None
    gw.activate(model, {"a": 1.0, "b": 1.0})
    assert site.sole() is None
    gw.activate(model, None)
    assert site.sole() is None
    gw.activate(model, "b")
    gw.get(model, "b").remove()
    assert site.sole() is None
