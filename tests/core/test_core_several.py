"""Several named grafts on one model: switch, sum, remove one by one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from tests.core.core_helpers import base_bits, close, net, picture, stir, tokens

METHODS: dict[str, Any] = {
    "lora": gw.LoRA(2),
    "dora": gw.DoRA(2),
    "diablo": gw.DiaBlo(4),
    "ia3": gw.IA3("input"),
    "bitfit": gw.BitFit(),
}


def several() -> tuple[nn.Module, dict[str, gw.Graft]]:
    model = net(dtype=torch.float64)
    for i, (name, method) in enumerate(METHODS.items()):
        stir(gw.graft(model, method, name=name), seed=i)
    return model, gw.grafts(model)


def alone(name: str, seed: int) -> torch.Tensor:
    model = net(dtype=torch.float64)
    stir(gw.graft(model, METHODS[name], seed=0), seed=seed)
    return model(tokens())


def test_the_newest_graft_is_active_alone_and_each_can_be_switched_to() -> None:
    model, grafts = several()
    base = net(dtype=torch.float64)(tokens())
    outs = {}
    for name in METHODS:
        gw.activate(model, name)
        outs[name] = model(tokens())
        twin = net(dtype=torch.float64)
        gw.graft_from_spec(twin, grafts[name].spec(), tensors=grafts[name].tensors())
        assert torch.equal(twin(tokens()), outs[name]), name
    assert len({float(o.detach().sum()) for o in outs.values()}) == len(METHODS)
    gw.activate(model, None)
    assert torch.equal(model(tokens()), base)
    gw.activate(model, "lora")
    with grafts["dora"].off():  # any handle switches all of them off
        assert torch.equal(model(tokens()), base)
    assert torch.equal(model(tokens()), outs["lora"])
    with pytest.raises(ZeroDivisionError), grafts["lora"].off():
        raise ZeroDivisionError
    assert torch.equal(model(tokens()), outs["lora"])


@pytest.mark.parametrize(
    "weights",
    [
        {"lora": 0.5, "dora": 0.5},
        {"lora": 1.0, "diablo": 1.0},
        {"lora": -0.3, "ia3": 2.0, "bitfit": 0.25},
        {"dora": 0.4},
        {"lora": 0.0},
        {"bitfit": 1},
    ],
)
def test_a_weighted_sum_is_the_sum_of_the_changes_by_hand(weights: dict[str, float]) -> None:
    model, grafts = several()
    dense = net(dtype=torch.float64)
    with torch.no_grad():
        for name, weight in weights.items():
            for site, state in grafts[name].states():
                layer, source = dense.get_submodule(site), model.get_submodule(site)
                delta = state.delta(source)
                for leaf, change in (("weight", delta.weight), ("bias", delta.bias)):
                    if change is not None:
                        getattr(layer, leaf).add_(weight * change)
    gw.activate(model, weights)
    close(model(tokens()), dense(tokens()), 1e-12)
    gw.check_reach(model, tokens())


def test_gradients_of_a_sum_reach_each_part() -> None:
    model, grafts = several()
    gw.activate(model, {"lora": 0.5, "ia3": 2.0})
    model(tokens()).square().sum().backward()
    for name, graft in grafts.items():
        got = {p.grad is not None for p in graft.parameters()}
        assert got == {name in ("lora", "ia3")}, name


@pytest.mark.parametrize(
    "weights",
    [
        {"nope": 1.0},
        {"lora": float("nan")},
        {"lora": float("inf"), "ia3": 1.0},
        {"lora": "1"},
        {"copy": 0.5, "lora": 0.5},
        {"rows": 0.5},
        {"norms": 0.5, "lora": 0.5},
    ],
)
def test_sums_that_make_no_sense_are_refused(weights: dict[str, Any]) -> None:
    model, _ = several()
    gw.graft(model, gw.LoRA(2), also_train="head", name="copy")
    gw.graft(model, gw.LoRA(2), also_train=gw.NewRows("head"), name="rows")
    gw.graft(model, gw.NormAffine(), name="norms")
    gw.activate(model, "lora")
    out = model(tokens())
    with pytest.raises(gw.GraftError, match=r"no graft|finite number|cannot be part"):
        gw.activate(model, weights)
    assert torch.equal(model(tokens()), out)
    for name in ("copy", "rows", "norms"):  # alone they can be switched on
        gw.activate(model, name)
        model(tokens())


def test_removal_in_any_order() -> None:
    for order in (
        list(METHODS),
        list(reversed(METHODS)),
        ["ia3", "bitfit", "lora", "diablo", "dora"],
    ):
        model = net(dtype=torch.float64)
        before = picture(model)
        for i, (name, method) in enumerate(METHODS.items()):
            stir(gw.graft(model, method, name=name), seed=i)
        for i, name in enumerate(order):
            left = order[i + 1 :]
            if left:
                gw.activate(model, left[-1])
                out = model(tokens())
            gw.remove(model, name)
            assert sorted(gw.grafts(model)) == sorted(left)
            if left:
                assert torch.equal(model(tokens()), out)
            with pytest.raises(gw.GraftError, match="no graft"):
                gw.get(model, name)
        assert picture(model) == before


def test_removing_the_active_one_leaves_the_base_in_force() -> None:
    model, grafts = several()
    gw.activate(model, "lora")
    grafts["lora"].remove()
    assert torch.equal(model(tokens()), net(dtype=torch.float64)(tokens()))


def test_grafts_on_different_sites_and_fused_readers() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).double().eval()
    before = picture(layer)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    a = stir(gw.graft(layer, gw.LoRA(2), sites="linear*", name="a"))
    b = stir(gw.graft(layer, gw.DoRA(2), sites="self_attn*", name="b"))
    with torch.no_grad():
        gw.activate(layer, {"a": 0.5, "b": 2.0})
        both = layer(x)
        twin = copy.deepcopy(layer)
        gw.activate(twin, "a")
        a_alone = twin(x)
    b.remove()
    gw.activate(layer, "a")
    with torch.no_grad():
        close(layer(x), a_alone, 1e-12)
        assert float((both - a_alone).abs().max()) > 1e-4
    a.remove()
    assert picture(layer) == before


def test_handles_are_views() -> None:
    model, grafts = several()
    assert gw.get(model, "lora") == grafts["lora"]
    assert grafts["lora"].method == gw.LoRA(2)
    twin = copy.deepcopy(model)
    gw.remove(twin, "lora")
    assert "lora" in gw.grafts(model) and "lora" not in gw.grafts(twin)
    assert base_bits(twin) == base_bits(model)
    grafts["lora"].remove()
    with pytest.raises(gw.GraftError, match="no graft 'lora' any more"):
        grafts["lora"].tensors()
    assert gw.grafts(nn.Linear(2, 2)) == {}
    gw.activate(nn.Linear(2, 2), None)
    with pytest.raises(gw.GraftError, match="no graft"):
        gw.activate(nn.Linear(2, 2), "x")
