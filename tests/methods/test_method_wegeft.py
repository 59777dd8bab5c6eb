"""WeGeFT's numbered invariants."""

from __future__ import annotations

import copy
from pathlib import Path

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
    g = gw.graft(model, gw.WeGeFT(2, form=form))
    y = model(x)
    assert torch.equal(y, layer(x))
    ins = getattr(layer, "in_features", None) or layer.in_channels
    outs = getattr(layer, "out_features", None) or layer.out_channels
    assert sum(p.numel() for p in g.parameters()) == 2 * 2 * (ins if form == "input" else outs)
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


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"q": nn.Linear(6, 6), "up": nn.Linear(6, 9), "down": nn.Linear(9, 6)})
            for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer["down"](torch.tanh(layer["up"](layer["q"](x))))
        return x


def blocks(method: gw.WeGeFT, **more: object) -> tuple[Blocks, gw.Graft]:
    torch.manual_seed(0)
    model = Blocks().double()
    return model, gw.graft(model, method, sites=["*.q", "*.up", "*.down"], **more)  # type: ignore[arg-type]


@invariant("wegeft", 7)
@pytest.mark.parametrize(("form", "count"), [("input", 6 + 6 + 9), ("output", 6 + 9 + 6)])
def test_a_shared_pair_counts_once_and_its_gradient_is_the_sum(form: str, count: int) -> None:
    model, g = blocks(gw.WeGeFT(2, form=form, shared=True))
    twin, own = blocks(gw.WeGeFT(2, form=form))
    x = torch.randn(4, 6, dtype=torch.float64)
    assert sum(p.numel() for p in g.parameters()) == g.summary().trainable == 2 * 2 * count
    assert sum(p.numel() for p in own.parameters()) == 3 * 2 * 2 * count
    assert len(list(g.named_parameters())) == 6 and len(g.tensors()) == 18
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.3 * torch.randn_like(p))
    own.load_tensors(g.tensors())
    assert torch.equal(model(x), twin(x))
    for net in (model, twin):
        net(x).square().sum().backward()
    single = dict(own.named_parameters())
    for name, p in g.named_parameters():
        summed = sum(single[f"layers.{i}.{name.removeprefix('layers.0.')}"].grad for i in range(3))
        torch.testing.assert_close(p.grad, summed, rtol=0, atol=1e-11)
    for net in (model, twin):
        gw.merge(gw.get(net))
    torch.testing.assert_close(model(x), twin(x), rtol=0, atol=1e-11)


def test_a_shared_pair_stays_one_through_training_files_and_copies(tmp_path: Path) -> None:
    model, g = blocks(gw.WeGeFT(2, shared=True))
    x = torch.randn(4, 6, dtype=torch.float64)
    optimizer = torch.optim.AdamW(g.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    gw.save(g, tmp_path / "a")
    torch.manual_seed(0)
    fresh = Blocks().double()
    again = gw.load(fresh, tmp_path / "a")
    assert torch.equal(fresh(x), model(x))
    for handle in (again, gw.get(copy.deepcopy(model))):
        states = dict(handle.states())
        assert states["layers.0.q"].phi is states["layers.2.q"].phi
        assert states["layers.0.q"].phi is not states["layers.0.up"].phi
        assert len(list(handle.parameters())) == 6
    tensors = g.tensors()
    tensors["layers.1.q.phi"] = tensors["layers.1.q.phi"] + 1
    with pytest.raises(gw.GraftError, match=r"layers\.1\.q\.phi: differs from layers\.0\.q\.phi"):
        again.load_tensors(tensors)
    assert torch.equal(fresh(x), model(x))


def test_only_layers_of_a_kind_with_the_same_settings_share() -> None:
    _, g = blocks(gw.WeGeFT(2, shared=True), overrides={"layers.1.*": {"rank": 3}})
    states = dict(g.states())
    assert states["layers.0.q"].phi is states["layers.2.q"].phi
    assert states["layers.1.q"].phi is not states["layers.0.q"].phi
    model = nn.ModuleDict({"a": nn.ModuleDict({"q": nn.Linear(4, 5)})})
    model["b"] = nn.ModuleDict({"q": nn.Linear(6, 5)})
    g = gw.graft(model, gw.WeGeFT(2, shared=True), sites=["*.q"])
    assert [tuple(t.shape) for t in g.tensors().values()] == [(2, 4), (2, 4), (2, 6), (2, 6)]


def test_a_rank_above_the_layer_s_is_refused() -> None:
    layer = nn.Conv2d(6, 8, 3, groups=2)
    with pytest.raises(gw.GraftError, match=r"WeGeFT.rank = 4 is a rank above the layer's own, 3"):
        gw.graft(layer, gw.WeGeFT(4))
    gw.graft(layer, gw.WeGeFT(3))
