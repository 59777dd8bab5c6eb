"""NOBLE's numbered invariants."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from method_invariants import invariant
from torch import nn

import graftwork as gw
from graftwork.pretraining import pretrain

ACTS = ("cos", "gelu", "silu", "tanh", "leaky_relu")


def moved(model: nn.Module, size: float = 0.3) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in gw.get(model).parameters():
            p.add_(size * torch.randn_like(p))


@torch.no_grad()
def branch(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the graft adds to the model's output."""
    with gw.get(model).off():
        base = model(x)
    return model(x) - base


@invariant("noble", 1)
@pytest.mark.parametrize("act", ACTS)
def test_start_is_the_base_and_which_tensors_have_gradients(act: str) -> None:
    layer, x = nn.Linear(12, 8), torch.randn(4, 12)
    for up_std, exact in ((0.0, True), (0.01, False)):
        model = copy.deepcopy(layer)
        g = gw.graft(model, gw.NOBLE(4, act=act, up_std=up_std))
        assert g.method.starts_at_base is exact
        y = model(x)
        assert torch.equal(y, layer(x)) is exact
        y.square().sum().backward()
        for name, p in g.named_parameters():
            assert bool(p.grad.any()) == (name == "up" or not exact), name
            assert bool(torch.isfinite(p.grad).all())


@invariant("noble", 2)
def test_forward_is_the_equation_and_merging_is_refused() -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.NOBLE(3))
    moved(model)
    t = g.tensors()
    z = x @ t["down"].T + t["down_bias"]
    h = (t["freq1"] * z + t["phase1"]).cos() @ t["mix"].T + t["mix_bias"]
    side = (t["freq2"] * h + t["phase2"]).cos() @ t["up"].T
    torch.testing.assert_close(model(x), layer(x) + side, rtol=0, atol=1e-12)
    with pytest.raises(gw.GraftError, match="noble is a part of the network: its branch is not"):
        g.merge()


@invariant("noble", 2)
@pytest.mark.parametrize("bias", [True, False])
def test_the_linear_control_merges(bias: bool) -> None:
    layer = nn.Linear(5, 7, bias=bias).double()
    model, x = copy.deepcopy(layer), torch.randn(3, 5, dtype=torch.float64)
    g = gw.graft(model, gw.NOBLE(3, act="none", layers=1))
    moved(model)
    t, y = g.tensors(), model(x)
    w = layer.weight + t["up"] @ t["down"]
    by_hand = x @ w.T + t["up"] @ t["down_bias"] + (layer.bias if bias else 0)
    torch.testing.assert_close(y, by_hand, rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.weight, w, rtol=0, atol=1e-12)


@invariant("noble", 3)
@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 3 * (5 + 7) + 9 + 18),
        ({"act": "gelu"}, 3 * (5 + 7) + 9 + 6),
        ({"act": "gelu", "layers": 1}, 3 * (5 + 7 + 1)),
        ({"layers": 1}, 3 * (5 + 7 + 1) + 6),
    ],
)
def test_the_count_is_the_formula(fields: dict[str, Any], count: int) -> None:
    model = nn.Linear(5, 7)
    g = gw.graft(model, gw.NOBLE(3, **fields))
    assert sum(p.numel() for p in g.parameters()) == count
    for shape in ((5,), (2, 5), (2, 3, 5), (0, 5)):
        assert model(torch.randn(shape)).shape == (*shape[:-1], 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.randn(2, 5)).dtype == torch.bfloat16


@invariant("noble", 4)
@pytest.mark.parametrize("layers", [1, 2])
def test_cosines_bound_the_branch_and_its_slope(layers: int) -> None:
    model = nn.Linear(6, 9).double()
    g = gw.graft(model, gw.NOBLE(4, layers=layers))
    moved(model, 1.0)
    t = g.tensors()
    x = 100 * torch.randn(500, 6, dtype=torch.float64)
    norm = torch.linalg.matrix_norm
    bound = float(norm(t["up"], 2)) * math.sqrt(4)
    size = branch(model, x).norm(dim=-1).max()
    assert 0.3 * bound < size <= bound
    z = torch.randn(500, 4, dtype=torch.float64)
    step = 1e-4 * torch.randn_like(z)
    moved_by = g.method.hidden(t, z + step) - g.method.hidden(t, z)
    slope = (moved_by.norm(dim=-1) / step.norm(dim=-1)).max()
    most = t["freq1"].abs().max()
    if layers == 2:
        most = most * norm(t["mix"], 2) * t["freq2"].abs().max()
    assert 0.1 * most < slope <= most


@invariant("noble", 5)
@pytest.mark.parametrize("layer", [1, 2])
def test_a_turn_and_a_pair_of_signs_change_nothing(layer: int) -> None:
    model, x = nn.Linear(6, 9).double(), torch.randn(5, 6, dtype=torch.float64)
    g = gw.graft(model, gw.NOBLE(4))
    moved(model)
    y, t = model(x), {k: v.clone() for k, v in g.tensors().items()}
    freq, phase = f"freq{layer}", f"phase{layer}"
    for new in ({phase: t[phase] + 2 * math.pi}, {freq: -t[freq], phase: -t[phase]}):
        g.load_tensors(t | new)
        torch.testing.assert_close(model(x), y, rtol=0, atol=1e-12)
    g.load_tensors(t | {freq: -t[freq]})
    assert (model(x) - y).abs().max() > 1e-3


@invariant("noble", 6)
def test_rates_are_the_papers_and_reach_the_groups() -> None:
    model = nn.Sequential(nn.Linear(768, 768), nn.Tanh(), nn.Linear(768, 96))
    g = gw.graft(model, gw.NOBLE(64), sites=["0", "2"])
    names = {id(p): n for n, p in g.named_parameters()}
    groups = gw.paced(g, 1e-3, weight_decay=0.1)
    found = {names[id(p)]: group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(names) == len(found)
    for site, q in (("0", 12.0), ("2", 1.5)):
        wanted = {
            "down": 1.0,
            "down_bias": 1.0,
            "up": q**0.4,
            "mix": q**0.5,
            "mix_bias": 1.0,
            "freq1": 2.0,
            "freq2": 2.0,
            "phase1": 4.0,
            "phase2": 4.0,
        }
        rates = {n: found[f"{site}.{n}"]["lr"] / 1e-3 for n in wanted}
        assert rates == pytest.approx(wanted)
        decays = {n for n in wanted if found[f"{site}.{n}"]["weight_decay"]}
        assert decays == {"down", "up", "mix"}
    assert found["0.up"]["lr"] == pytest.approx(2.70e-3, rel=2e-3)
    assert found["0.mix"]["lr"] == pytest.approx(3.46e-3, rel=2e-3)
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    before = [group["lr"] for group in optimizer.param_groups]
    for _ in range(4):
        optimizer.step()
        schedule.step()
    shares = [g["lr"] / b for g, b in zip(optimizer.param_groups, before, strict=True)]
    assert shares == pytest.approx([shares[0]] * len(shares)) and shares[0] < 0.9
    equal = gw.NOBLE(64).rates(next(s.geo for s, _ in g.entry.sites if s.name == "2"))
    full = gw.NOBLE(96).rates(next(s.geo for s, _ in g.entry.sites if s.name == "2"))
    assert equal["up"].times > 1 and {full[k].times for k in ("up", "mix")} == {1.0}


@invariant("noble", 7)
@pytest.mark.parametrize("rank", [16, 32, 64])
def test_the_papers_start_is_almost_silent(rank: int) -> None:
    model, x = nn.Linear(256, 256, bias=False), torch.randn(200, 256)
    g = gw.graft(model, gw.NOBLE(rank, up_std=0.01), seed=0)
    torch.manual_seed(0)
    pretrain(g)
    with torch.no_grad(), g.off():
        main = model(x).norm()
    assert float(branch(model, x).norm() / main) == pytest.approx(0.019, abs=0.004)


def test_start_values_have_the_spreads_of_the_header() -> None:
    g = gw.graft(nn.Linear(400, 500), gw.NOBLE(100, up_std=0.02), seed=0)
    t = g.tensors()
    for name, std in (("down", 400**-0.5), ("up", 0.002), ("mix", 0.05)):
        assert float(t[name].std()) == pytest.approx(std, rel=0.05)
        assert abs(float(t[name].mean())) < 0.05 * std
    assert float(t["mix_bias"].abs().max()) <= 0.1 and float(t["mix_bias"].std()) > 0.04
    assert not t["down_bias"].any()
    for i in "12":
        freq, phase = t[f"freq{i}"], t[f"phase{i}"]
        assert 0.8 <= freq.min() < 0.83 and 1.17 < freq.max() <= 1.2
        assert float(phase.std()) == pytest.approx(0.1, rel=0.25) and abs(phase.mean()) < 0.04


@invariant("noble", 8)
def test_pretraining_trains_branch_and_weight_together() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 300), nn.Tanh(), nn.Linear(300, 4))
    frozen = model[2].bias.requires_grad_(False)
    g = gw.graft(model, gw.NOBLE(8, up_std=0.01), sites=["0"])
    head = model[2].weight.clone()
    pretrain(g)
    assert float(model[0].weight.detach().std()) == pytest.approx(0.5 * 200**-0.5, rel=0.03)
    assert not model[0].bias.any() and torch.equal(model[2].weight, head)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(p is not frozen for p in trained.values()) and len(trained) == 3 + 9
    optimizer = torch.optim.AdamW(gw.paced(model, 1e-2))
    before = {n: p.detach().clone() for n, p in trained.items()}
    x, target = torch.randn(64, 200), torch.randn(64, 4)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert not [n for n, p in trained.items() if torch.equal(p, before[n])]
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, trained.values()))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"rank": 0}, "rank"),
        ({"act": "relu"}, "act"),
        ({"act": "none"}, "layers"),
        ({"layers": 3}, "layers"),
        ({"up_std": -0.1}, "up_std"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(gw.GraftError, match=rf"NOBLE\.{field}"):
        gw.NOBLE(**fields)


def test_a_rank_above_the_layers_own_is_refused() -> None:
    with pytest.raises(gw.GraftError, match=r"NOBLE\.rank = 6 is a rank above the layer's own, 5"):
        gw.graft(nn.Linear(5, 9), gw.NOBLE(6))
