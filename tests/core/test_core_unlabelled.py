"""Adaptation without labels."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.unlabelled import adapt, symmetry_loss
from tests.core.core_helpers import picture

FORMS = ["attention", "diagonal", "free"]


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Flatten(),
        nn.Linear(6 * 4 * 4, 2),
    )  # fmt: skip
    for _ in range(3):
        model(faces())
    return model


def faces(n: int = 4) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))


def mirror(x: Tensor) -> Tensor:
    return x.flip(-1)


def undo(y: Tensor) -> Tensor:
    return y * torch.tensor([1.0, -1.0])  # pitch, yaw


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return symmetry_loss(model, x, mirror, undo)


class Symmetric(nn.Module):
    """Pitch from the mean, yaw from left against right."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))
        return torch.stack([left + right, left - right], 1)


def test_the_loss_is_zero_for_a_symmetric_predictor_and_trains_one_branch_only() -> None:
    assert float(loss(Symmetric(), faces())) < 1e-6
    model, x = model_of().eval(), faces()
    value = loss(model, x)
    with torch.no_grad():
        target = undo(model(mirror(x)))
    want = torch.autograd.grad((model(x) - target).abs().mean(), list(model.parameters()))
    for mine, theirs in zip(
        torch.autograd.grad(value, list(model.parameters())), want, strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 4])
def test_it_lowers_the_loss_leaves_the_base_and_can_be_undone(form: str, n: int) -> None:
    model = model_of().train()
    g = gw.graft(model, gw.Alfa(3, form=form, width=4), sites=["0", "3"], seed=0)
    base, start = model_of().eval(), {k: t.clone() for k, t in g.tensors().items()}
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rates = {"*.query": 0.01, "*.key": 0.01} if form == "attention" else None
    done = adapt(g, faces(n), loss, steps=12, lr=0.05, rates=rates)
    assert len(done.losses) == 12 and done.losses[-1] < done.losses[0]
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # statistics too
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    assert not torch.equal(model(faces()), base(faces()))
    done.undo()
    assert all(torch.equal(t, start[k]) for k, t in g.tensors().items())
    assert torch.equal(model(faces()), base(faces()))


def test_rates_go_to_the_tensors_that_they_name() -> None:
    g = gw.graft(model_of(), gw.Alfa(3, gate=0.1), sites=["0"], seed=0)
    before = {k: t.clone() for k, t in g.tensors().items()}
    adapt(g, faces(), loss, steps=1, lr=1e-2, rates={"*.query": 1e-3})
    for name, rate in (("0.gate", 1e-2), ("0.key", 1e-2), ("0.query", 1e-3)):
        step = (g.tensors()[name] - before[name]).abs().max()
        assert float(step) == pytest.approx(rate, rel=1e-2)


def test_what_a_method_leaves_for_the_loss_is_added_once() -> None:
    found = []
    for anchor in (0.0, 0.5):
        g = gw.graft(model_of(), gw.Alfa(3, "free", anchor=anchor), sites=["0"], seed=0)
        with torch.no_grad():
            for p in g.parameters():
                p.fill_(0.3)
        found.append(adapt(g, faces(), loss, steps=1).losses[0])
    assert found[1] - found[0] == pytest.approx(0.5 * 3 * 0.3**2, rel=1e-4)


def test_refusals_leave_the_graft_as_it_was() -> None:
    model = model_of()
    g = gw.graft(model, gw.Alfa(3, "free"), sites=["0"], seed=0)
    before = picture(model)
    for told, call in (
        ("holds no input", lambda: adapt(g, faces()[:0], loss)),
        ("NaN or infinite", lambda: adapt(g, faces() * math.nan, loss)),
        ("steps must be at least 1", lambda: adapt(g, faces(), loss, steps=0)),
        (r"rates: '\*.gate' matches none", lambda: adapt(g, faces(), loss, rates={"*.gate": 1.0})),
        ("must be above 0", lambda: adapt(g, faces(), loss, lr=-1.0)),
        (
            "the loss is nan at step 0",
            lambda: adapt(g, faces(), lambda m, x: m(x).sum() * math.nan),
        ),
    ):
        with pytest.raises(gw.GraftError, match=told):
            call()
        assert picture(model) == before
    calls = []

    def later(model: nn.Module, x: Tensor) -> Tensor:
        calls.append(1)
        return model(x).sum() * (math.nan if len(calls) == 3 else 1.0)

    start = copy.deepcopy(g.tensors())
    with pytest.raises(gw.GraftError, match="at step 2"):
        adapt(g, faces(), later)
    assert all(torch.equal(t, start[k]) for k, t in g.tensors().items())
