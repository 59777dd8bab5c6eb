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
    ("weights", "told"),
    [
        ({"nope": 1.0}, "no graft 'nope'"),
        ({"lora": float("nan")}, "'lora' must be a finite number"),
        ({"lora": float("inf"), "all": 1.0}, "'lora' must be a finite number"),
        ({"lora": "1"}, "'lora' must be a finite number"),
        ({"lora": True}, "'lora' must be a finite number"),
        ({"copy": 0.5, "lora": 1.0}, r"'copy' owns head \(module\).*give 'copy' the weight 1"),
        ({"rows": 0.5}, r"'rows' owns head\.new_rows \(rows\).*the weight 1"),
        ({"norms": 0.0, "copy": 1.0}, "'norms' owns .*the weight 1"),
        ({"copy": 1.0, "all": 1.0}, r"'copy' owns head \(module\), and 'all' changes head:"),
        ({"rows": 1.0, "all": 1.0}, r"'rows' owns head\.new_rows \(rows\), and 'all' changes"),
        ({"rows": 1.0, "copy": 1.0}, r"owns head.*changes head"),
        ({"box": 1.0, "inside": 1.0}, r"'box' owns layer1 \(module\), and 'inside' changes"),
        ({"inside": 1.0, "lora": 1.0, "box": 1.0}, "'box' owns layer1"),
    ],
)
def test_sums_that_make_no_sense_are_refused(weights: dict[str, Any], told: str) -> None:
    model = owners()
    gw.activate(model, "lora")
    out = model(tokens())
    for verb in (gw.activate, gw.merge):
        with pytest.raises(gw.GraftError, match=told):
            verb(model, weights)
        assert torch.equal(model(tokens()), out)
    for name in ("copy", "rows", "norms", "box"):  # alone they can be switched on
        gw.activate(model, name)
        model(tokens())


def owners() -> nn.Module:
    """Grafts that own modules or rows, stirred, beside some that do not."""
    model = net(dtype=torch.float64)
    lora = gw.LoRA(2)
    stir(gw.graft(model, lora, sites="layer1.0", name="lora"), seed=1)
    stir(gw.graft(model, lora, sites="head", name="all"), seed=2)
    stir(gw.graft(model, lora, sites="layer1.2", name="inside"), seed=3)
    stir(gw.graft(model, lora, sites="stem.0", also_train="head", name="copy"), seed=4)
    rows = gw.NewRows("head")
    stir(gw.graft(model, lora, sites="stem.0", also_train=rows, name="rows"), seed=5)
    stir(gw.graft(model, gw.NormAffine(), name="norms"), seed=6)
    stir(gw.graft(model, lora, sites="embed", also_train="layer1", name="box"), seed=7)
    return model


@pytest.mark.parametrize(
    "names",
    [
        ["copy", "norms"],
        ["copy", "norms", "box"],
        ["rows", "norms", "lora"],
        ["norms", "lora", "all", "inside"],
        ["rows", "copy_less", "norms"],
    ],
)
def test_owners_that_do_not_meet_act_together_as_one_graft_of_all_would(names: list[str]) -> None:
    model = owners()
    stir(gw.graft(model, gw.LoRA(2), sites="stem.0", name="copy_less"), seed=8)
    gw.activate(model, dict.fromkeys(names, 1))
    out = model(tokens())
    by_hand = net(dtype=torch.float64)
    for name in names:  # one after the other, each merged for good, on a model of its own
        own = gw.get(model, name)
        twin = gw.graft_from_spec(by_hand, own.spec(), name, own.tensors())
        if name in ("rows", "copy_less") and {"rows", "copy_less"} <= set(names):
            continue  # these two share stem.0: their changes are measured against the base
        twin.merge(keep=False)
        twin.remove()
    if {"rows", "copy_less"} <= set(names):
        gw.merge(by_hand, {"rows": 1, "copy_less": 1}, keep=False)
    close(out, by_hand(tokens()), 1e-12)
    gw.check_reach(model, tokens())
    assert torch.equal(model(tokens()), out)


def test_gradients_and_statistics_of_owners_together() -> None:
    model = owners()
    gw.activate(model, {"copy": 1.0, "norms": 1.0, "inside": 1.0})
    before = base_bits(model)
    model.train()
    model(tokens()).square().sum().backward()
    for name, graft in gw.grafts(model).items():
        got = {p.grad is not None for p in graft.parameters()}
        assert got == {name in ("copy", "norms", "inside")}, name
    assert base_bits(model) == before  # the batch norm's statistics moved in the graft's copy


@pytest.mark.parametrize("keep", ["device", "cpu", "disk"])
@pytest.mark.parametrize(
    "weights",
    [
        {"lora": 0.5, "dora": 2.0},
        {"lora": -1.0, "ia3": 1.0, "bitfit": 0.25, "diablo": 1.0},
    ],
)
def test_a_sum_merges_and_comes_out_bit_for_bit(weights: dict[str, float], keep: str) -> None:
    model, _ = several()
    gw.activate(model, weights)
    out, before = model(tokens()), base_bits(model)
    gw.merge(model, weights, keep=keep)
    close(model(tokens()), out, 1e-12)
    assert {n for n, g in gw.grafts(model).items() if g.merged} == set(weights)
    for name in weights:
        with pytest.raises(gw.GraftError, match=r"'lora' \+ .* is merged"):
            gw.get(model, name).remove()
    with pytest.raises(gw.GraftError, match="'nope' is not merged"):
        gw.unmerge(model, "nope")
    gw.unmerge(model, "lora")
    assert base_bits(model) == before and torch.equal(model(tokens()), out)


def test_a_sum_of_owners_merges() -> None:
    model = owners()
    gw.activate(model, {"rows": 1.0, "norms": 1.0, "inside": 1.0})
    out, before = model(tokens()), base_bits(model)
    gw.merge(model, {"rows": 1.0, "norms": 1.0, "inside": 1.0})
    close(model(tokens()), out, 1e-12)
    assert model.head.out_features == 4
    gw.get(model, "norms").unmerge()
    assert base_bits(model) == before and torch.equal(model(tokens()), out)
    with pytest.raises(gw.GraftError, match="name a graft"):
        gw.merge(model, {})


def test_a_sum_merged_for_good_is_removed_name_by_name() -> None:
    model, grafts = several()
    gw.activate(model, {"lora": 0.5, "dora": 0.5})
    out = model(tokens())
    gw.merge(model, {"lora": 0.5, "dora": 0.5}, keep=False)
    grafts["lora"].remove()
    with pytest.raises(gw.GraftError, match="'dora' is merged"):
        gw.activate(model, "dora")  # it would act twice
    grafts["dora"].remove()
    close(model(tokens()), out, 1e-12)
    gw.activate(model, "ia3")


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
