"""WeGeFT's numbered invariants."""

from __future__ import annotations

import copy

import pytest
import torch
from method_invariants import invariant
from torch import nn

import graftwork as gw

FORMS = ("input", "output")
LAYERS = [
    (nn.Linear(6, 10), (4, 6)),
    (nn.Conv2d(4, 6, (3, 2), groups=2, padding=1, padding_mode="reflect"), (2, 4, 7, 7)),
    (nn.ConvTranspose1d(6, 9, 3, stride=2, groups=3), (1, 6, 5)),
]


def grafted(
    layer: nn.Module, method: gw.WeGeFT, size: float = 0.3
) -> tuple[nn.Module, gw.Graft, dict[str, torch.Tensor]]:
    model = copy.deepcopy(layer)
    g = gw.graft(model, method, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(size * torch.randn_like(p))
    return model, g, g.tensors()


def change_of(model: nn.Module, g: gw.Graft, layer: nn.Module) -> torch.Tensor:
    g.merge()
    change = model.weight.detach() - layer.weight.detach()
    g.unmerge()
    return change


@invariant("wegeft", 1, 3)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_start_is_the_base_and_the_count_is_the_formula(
    layer: nn.Module, shape: tuple[int, ...], form: str
) -> None:
    model, x = copy.deepcopy(layer), torch.randn(shape)
    g = gw.graft(model, gw.WeGeFT(3, form=form))
    y = model(x)
    assert torch.equal(y, layer(x))
    ins = getattr(layer, "in_features", None) or layer.in_channels
    outs = getattr(layer, "out_features", None) or layer.out_channels
    assert sum(p.numel() for p in g.parameters()) == 2 * 3 * (ins if form == "input" else outs)
    y.square().sum().backward()
    grads = {n: p.grad for n, p in g.named_parameters()}
    assert not grads["psi"].any() and grads["phi"].abs().min() > 0
    width = (ins if form == "input" else outs) // getattr(layer, "groups", 1)
    psi = g.tensors()["psi"].abs().max()
    assert 0.5 * width**-0.5 < psi <= width**-0.5


@invariant("wegeft", 2)
@pytest.mark.parametrize("form", FORMS)
def test_forward_is_the_equation(form: str) -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model, g, t = grafted(layer, gw.WeGeFT(2, alpha=3.0, form=form))
    moved = 3.0 / 2 * t["phi"].T @ t["psi"]
    eye = torch.eye(len(moved), dtype=moved.dtype)
    w = layer.weight @ (eye + moved) if form == "input" else (eye + moved) @ layer.weight
    by_hand = x @ w.T + layer.bias
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("wegeft", 4)
@pytest.mark.parametrize("form", FORMS)
def test_the_change_stays_in_the_span_of_the_weight(form: str) -> None:
    layer = nn.Linear(9, 8).double()
    with torch.no_grad():  # a weight of rank 3, so that its spaces are not everything
        layer.weight.copy_(torch.randn(8, 3).double() @ torch.randn(3, 9).double())
    model, g, _ = grafted(layer, gw.WeGeFT(2, form=form))
    change = change_of(model, g, layer)
    rank = torch.linalg.matrix_rank
    assert int(rank(change)) == 2
    joined = torch.cat([layer.weight, change], dim=1 if form == "input" else 0)
    assert int(rank(joined, rtol=1e-10)) == 3
    other = torch.cat([layer.weight, change], dim=0 if form == "input" else 1)
    assert int(rank(other, rtol=1e-10)) == 5


@invariant("wegeft", 5)
@pytest.mark.parametrize("form", FORMS)
def test_a_zero_weight_has_no_change_and_the_identity_gives_lora(form: str) -> None:
    layer, x = nn.Linear(6, 6).double(), torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.zero_()
    model, g, _ = grafted(layer, gw.WeGeFT(2, form=form))
    assert torch.equal(model(x), layer(x)) and not change_of(model, g, layer).any()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(6))
    model, _, t = grafted(layer, gw.WeGeFT(2, alpha=5.0, form=form))
    twin = copy.deepcopy(layer)
    gw.graft(twin, gw.LoRA(2, alpha=5.0)).load_tensors({"A": t["psi"], "B": t["phi"].T})
    torch.testing.assert_close(model(x), twin(x), rtol=0, atol=1e-12)


@invariant("wegeft", 6)
@pytest.mark.parametrize("form", FORMS)
def test_dropout_acts_in_training_on_the_branch_only(form: str) -> None:
    layer, x = nn.Linear(32, 5), torch.randn(3, 32)
    model = copy.deepcopy(layer)
    gw.graft(model, gw.WeGeFT(4, form=form, dropout=0.5))
    assert torch.equal(model.train()(x), layer(x))
    model, _, _ = grafted(layer, gw.WeGeFT(4, form=form, dropout=0.5))
    model.train()
    assert not torch.equal(model(x), model(x))
    mean = torch.stack([model(x) for _ in range(400)]).mean(0)
    model.eval()
    assert torch.equal(model(x), model(x))
    # the branch is linear in W0: its mean under inverted dropout is itself
    assert (mean - model(x)).abs().max() < 0.35 * (model(x) - layer(x)).abs().max()


def test_a_layer_that_is_never_called_refuses_dropout() -> None:
    model = nn.MultiheadAttention(8, 2)
    with pytest.raises(gw.GraftError, match=r"WeGeFT\.dropout"):
        gw.graft(model, gw.WeGeFT(2, dropout=0.1), sites=["out_proj"])
    base = copy.deepcopy(model)
    g = gw.graft(model, gw.WeGeFT(2), sites=["out_proj"])
    x = torch.randn(3, 2, 8)
    assert torch.equal(model(x, x, x)[0], base(x, x, x)[0])
    with torch.no_grad():
        next(g.parameters()).normal_()
    assert not torch.equal(model(x, x, x)[0], base(x, x, x)[0])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"rank": 0}, "rank"),
        ({"form": "both"}, "form"),
        ({"dropout": 1.0}, "dropout"),
        ({"alpha": "1"}, "alpha"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, object], field: str) -> None:
    with pytest.raises(gw.GraftError, match=rf"WeGeFT\.{field}"):
        gw.WeGeFT(**fields)  # type: ignore[arg-type]
