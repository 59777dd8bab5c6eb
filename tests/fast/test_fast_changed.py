"""Linear layers that run with their changed weight compute the same, and small updates survive its rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_fast_linear import plain_form, results, trained
from test_fast_serving import Operations
from torch import Tensor, nn

import graftwork as gw
from graftwork.fast import changed, linear
from graftwork.fast.changed import changed_matrix, pays, pays_once

METHODS = [gw.LoRA(3, alpha=4.5), gw.LoRA(2), gw.PiSSA(2)]
WIDE = torch.float64


class Two(nn.Module):
    """Layers that read different inputs, activations in place between them; the last one carries no graft."""

    def __init__(self, bias: bool, width: int = 6, act: Any = torch.relu_) -> None:
        super().__init__()
        self.act = act
        self.up, self.down = nn.Linear(width, 60, bias=bias), nn.Linear(60, width, bias=bias)
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.down(self.act(self.up(x)))))


def rows(*shape: int, dtype: torch.dtype = WIDE, width: int = 6) -> Tensor:
    return torch.randn(*shape, width, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("shape", [(250,), (2, 130), (2, 5, 26)])
@pytest.mark.parametrize(("dtype", "near"), [(WIDE, 1e-10), (torch.float32, 1e-5)])
def test_values_and_gradients_are_those_of_the_branch(
    method: gw.LoRA, bias: bool, shape: tuple[int, ...], dtype: torch.dtype, near: float
) -> None:
    torch.manual_seed(0)
    model = Two(bias)
    graft, x = trained(model, method, dtype), rows(*shape, dtype=dtype)
    assert pays(x, model.up.weight) and x.numel() < 5 * model.up.weight.numel()
    with plain_form():
        expected = results(model, graft, x)
    for _ in range(5):  # watched at first, then alone
        found = results(model, graft, x)
        for one, two in zip(found, expected, strict=True):
            assert (one - two).abs().max() <= near * two.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_a_new_graft_is_the_base_bit_for_bit(
    bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "pays", lambda x, weight: True)
    torch.manual_seed(0)
    model = Two(bias).to(dtype)
    base = copy.deepcopy(model)
    gw.graft(model, gw.LoRA(3), seed=0)
    for n in (3, 64, 64):
        assert torch.equal(model(rows(n, dtype=dtype)), base(rows(n, dtype=dtype)))


class Readers(nn.Module):
    """Layers that read one input, and one that reads what they give."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(6, 8, bias=bias), nn.Linear(6, 5, bias=bias)
        self.out = nn.Linear(13, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.q(x), self.k(x)], -1).tanh())


@pytest.fixture
def made_for_one_product(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """W' is never kept, and made for every product; the list takes the sizes that were asked for."""
    asked: list[tuple[int, int]] = []

    def once(rows: int, columns: int, weight: Tensor) -> bool:
        asked.append((rows, columns))
        return True

    monkeypatch.setattr(linear, "pays", lambda x, weight: False)
    monkeypatch.setattr(linear, "pays_once", once)
    return asked


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("make", [Two, Readers])
@pytest.mark.parametrize(("dtype", "near"), [(WIDE, 1e-10), (torch.float32, 1e-5)])
def test_a_weight_made_for_one_product_gives_the_same(
    make: type, bias: bool, dtype: torch.dtype, near: float, made_for_one_product: Any
) -> None:
    torch.manual_seed(0)
    model = make(bias)
    base = copy.deepcopy(model).to(dtype)
    x = rows(2, 50, dtype=dtype)
    fresh = copy.deepcopy(base)
    gw.graft(fresh, METHODS[0], seed=0)
    graft = trained(model, METHODS[0], dtype)
    with plain_form():
        expected = results(model, graft, x)
    made_for_one_product.clear()
    for _ in range(5):  # alone, then as a family
        assert torch.equal(fresh(x), base(x))
        for one, two in zip(results(model, graft, x), expected, strict=True):
            assert (one - two).abs().max() <= near * two.abs().max()
    width = (60, 6) if make is Two else (13, 4)
    assert {(100, 6), (100, width[0]), (100, width[1])} <= set(made_for_one_product)


def test_half_precision_gradients_are_as_exact_as_the_branchs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = Two(True, 64, torch.tanh)  # a kink would tell roundings apart that are equally large
    graft = trained(model, METHODS[0], torch.bfloat16)
    x = rows(200, dtype=torch.bfloat16, width=64)
    exact_model = copy.deepcopy(model).double()
    exact = results(exact_model, gw.get(exact_model), x.double())
    branch = results(model, graft, x)
    for kept in (True, False):
        monkeypatch.setattr(linear, "pays", lambda x, weight, kept=kept: kept)
        monkeypatch.setattr(linear, "pays_once", lambda rows, columns, weight: True)
        for found, other, true in zip(results(model, graft, x), branch, exact, strict=True):
            error, usual = (float((t.double() - true).norm() / true.norm()) for t in (found, other))
            assert error <= 2 * usual + 2**-9


def test_frozen_factors_inputs_and_second_derivatives() -> None:
    torch.manual_seed(0)
    model = Two(True)
    graft = trained(model, METHODS[0])
    x = rows(250)
    with plain_form():
        expected = results(model, graft, x)
    named = dict(graft.named_parameters())
    named["up.A"].requires_grad_(False)
    named["down.B"].requires_grad_(False)
    y = model(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    (y * weights).sum().backward()
    for (name, p), true in zip(named.items(), expected[2:], strict=True):
        if name in ("up.A", "down.B"):
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, true, rtol=1e-10, atol=1e-10)

    def second() -> Tensor:
        z = x.clone().requires_grad_()
        out = model.down(torch.tanh(model.up(z))).square().sum()
        [g] = torch.autograd.grad(out, [named["up.B"]], create_graph=True)
        return torch.autograd.grad(g.square().sum(), [z])[0]

    found = second()
    with plain_form():
        torch.testing.assert_close(found, second(), rtol=1e-9, atol=1e-9)


def test_it_issues_no_more_operations_and_keeps_the_weight() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16))
    graft = trained(model, gw.LoRA(2), torch.float32)
    kept: list[Tensor] = []

    def count(rows: int) -> int:
        x = torch.randn(rows, 16)
        for _ in range(5):
            model(x).sum().backward()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            model(x)
        with Operations() as seen:
            model(x).sum().backward()
        return len(seen.names)

    few = count(32)  # the branch: x is no larger than twice W
    many = count(64)
    assert many <= few
    shapes = sorted(tuple(t.shape) for t in kept)
    assert shapes == [(2, 16), (16, 2), (16, 16), (64, 16)] and len(list(graft.parameters())) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_updates_far_below_a_step_move_a_matrix_by_what_they_should(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 512).to(dtype)
    a, b = torch.randn(4, 512), torch.zeros(64, 4)
    assert torch.equal(changed_matrix(weight, a, b, 2.0), weight)
    b = 0.03 * torch.finfo(dtype).eps * torch.randn(64, 4)  # about a tenth of a step
    wanted = 2.0 * b @ a
    moved = changed_matrix(weight, a, b, 2.0).float() - weight.float()
    nearest = (weight.float() + wanted).to(dtype).float() - weight.float()
    x = torch.sign(a[0])  # an input that sees the update
    gap, lost = ((m @ x - wanted @ x).norm() / (wanted @ x).norm() for m in (moved, nearest))
    assert gap < 0.5 * lost and gap < 0.3


def test_half_precision_is_switched_on_and_needs_the_kernel_and_long_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, weight = torch.zeros(64, 8), torch.zeros(8, 8)
    assert pays(x, weight) and not pays(x[:31], weight)
    assert not pays(x.bfloat16(), weight.bfloat16())  # never kept
    wide, short = (torch.zeros(16, n, dtype=torch.bfloat16) for n in (16, 8))
    monkeypatch.setattr(changed, "one_pass", lambda weight: True)
    assert not pays_once(48, 16, wide)
    monkeypatch.setattr(changed, "allowed_in_half", True)
    assert pays_once(48, 16, wide) and not pays_once(47, 16, wide)
    assert not pays_once(48, 16, wide.float())
    assert not pays_once(
        48, 8, short
    )  # the rounding of a short row's few elements does not even out
    monkeypatch.setattr(changed, "one_pass", lambda weight: False)
    assert not pays_once(48, 16, wide)  # without the kernel the sum takes too many passes
