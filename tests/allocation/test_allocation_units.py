"""Units: exact costs, exclusions, and switching that leaves no trace."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import SegResNet, SwinUNETR, UNet
from torch import nn

import graftwork as gw
from graftwork.allocation import Family, Switchboard, conv_units, register_family, swin_units, units
from graftwork.allocation import families as families_file
from graftwork.allocation.switchboard import waves
from graftwork.allocation.unit import exclusions, largest
from tests.allocation.allocation_helpers import (
    LEVELS,
    batch,
    board,
    conv_net,
    everything,
    net,
    picture_batch,
    some_units,
    stir,
)
from tests.core.core_helpers import picture

NETS = {"transformer": (net, batch), "convolutions": (conv_net, picture_batch)}
networks = pytest.mark.parametrize("build, data", NETS.values(), ids=NETS)


@networks
def test_all_off_and_all_on_at_the_start_are_the_base_bit_for_bit(build, data) -> None:
    base = build()
    model = build()
    out = base(data())
    switches = board(model)
    assert switches.active == () and torch.equal(model(data()), out)
    # siblings that no choice would have together, too: every branch starts at exactly zero
    gw.activate(model, dict.fromkeys(switches.units, 1.0))
    assert switches.active == tuple(switches.units)
    assert torch.equal(model(data()), out)
    for name in switches.units:
        switches.switch([name])
        assert torch.equal(model(data()), out), name
    switches.remove()
    assert picture(model)["tensors"].keys() == picture(base)["tensors"].keys()
    assert [type(m) for m in model.modules()] == [type(m) for m in base.modules()]


@networks
def test_removal_gives_the_very_model_back(build, data) -> None:
    model = build()
    before = picture(model)
    board(model).remove()
    assert picture(model) == before


@networks
def test_each_unit_reaches_the_output_and_gets_gradients(build, data) -> None:
    model = build()
    switches = board(model)
    stir(switches)
    base = build()(data())
    for name in switches.units:
        switches.switch([name])
        assert not torch.allclose(model(data()), base, atol=1e-6), name
        gw.check_reach(model, data())
        # an owned norm of a unit trains beside nothing else
        model(data()).square().sum().backward()
        got = {n for n in switches.units for p in switches.parameters(n) if p.grad is not None}
        assert got == {name}
        model.zero_grad()


def legal(draw, switches: Switchboard) -> list[str]:
    """A set that may be on, drawn unit by unit."""
    names = draw(st.lists(st.sampled_from(list(switches.units)), max_size=8))
    out: list[str] = []
    for name in names:
        if name not in out and not switches.excludes[name] & set(out):
            out.append(name)
    return out


@pytest.fixture(scope="module", params=NETS, ids=NETS)
def stirred(request):
    build, data = NETS[request.param]
    model = build()
    switches = board(model)
    stir(switches)
    return model, switches, data()


@given(data=st.data())
@settings(max_examples=30)
def test_switching_on_and_off_leaves_no_trace(stirred, data) -> None:
    model, switches, x = stirred
    first = legal(data.draw, switches)
    switches.switch(first)
    before, out = everything(model), model(x)
    assert switches.active == tuple(n for n in switches.units if n in first)
    for _ in range(data.draw(st.integers(1, 3))):
        switches.switch(legal(data.draw, switches))
    switches.switch(first)
    assert everything(model) == before
    assert torch.equal(model(x), out)


@given(data=st.data())
@settings(max_examples=20)
def test_a_set_of_units_is_what_activating_their_grafts_is(stirred, data) -> None:
    model, switches, x = stirred
    names = legal(data.draw, switches)
    switches.switch(names)
    out = model(x)
    gw.activate(model, dict.fromkeys(names, 1.0) or None)
    assert torch.equal(model(x), out)
    assert gw.active(model) == dict.fromkeys([n for n in switches.units if n in names], 1.0)


def test_a_unit_that_is_switched_off_loses_its_gradient() -> None:
    model = net()
    switches = board(model)
    stir(switches)
    (name,) = list(switches.units)[:1]
    switches.switch([name])
    model(batch()).sum().backward()
    assert all(p.grad is not None for p in switches.parameters(name))
    switches.switch([])
    assert all(p.grad is None for p in switches.parameters(name))


def test_costs_are_the_trainable_numbers_and_the_formulas() -> None:
    for model in (net(), conv_net()):
        switches = board(model)
        for unit in switches.units.values():
            own = sum(p.numel() for p in gw.get(model, unit.name).parameters() if p.requires_grad)
            assert unit.cost == own, unit.name
    for unit in some_units(net()):
        r = unit.level
        expected = {
            ("lora", 1): r * (8 + 24),
            ("lora", 2): r * (8 + 16) + r * (16 + 8),
            ("affine", 1): 2 * 8,
            ("adaptformer", 1): r * (8 + 8) + r + 8,
        }[unit.family, len(unit.hosts)]
        assert unit.cost == expected, unit.name
    for unit in some_units(conv_net()):
        out, fan_in = 6, {"0": 9}.get(unit.hosts[0], 54)
        r, hosts = unit.level, len(unit.hosts)
        expected = {
            "lora": hosts * r * (fan_in + out),
            "affine": hosts * 2 * out,
            "adaptformer": r * (fan_in + out) + r + out,
        }[unit.family]
        assert unit.cost == expected, unit.name


def test_the_paper_s_swin_unetr() -> None:
    model = SwinUNETR(in_channels=1, out_channels=1, feature_size=48)
    assert sum(p.numel() for p in model.parameters()) == 62_186_659
    found = swin_units(model)
    count = {f: sum(u.family == f for u in found) for f in ("lora", "affine", "adaptformer")}
    assert count == {"lora": 8 * 6, "affine": 16, "adaptformer": 8 * 4}
    # the paper's counts at d = 48: c = r (d_in + d_out), 2 d, b (d_in + d_out) + b + d_out
    cost = {u.name.split("blocks-0-")[1]: u.cost for u in found if "layers1-0-blocks-0" in u.name}
    assert cost["attn-qkv=lora-r4"] == 4 * (48 + 144)
    assert cost["norm1=affine"] == 96
    assert cost["mlp=adaptformer-b4"] == 436
    assert cost["mlp=lora-r16"] == 16 * (48 + 192) * 2
    groups = {u.group for u in found}
    assert len(groups) == 8 * 5  # per block, not per stage
    # the largest set is 0.68 % of the model: the paper's cap of 1 % would not bind even here
    assert largest(found) == 422_176 and 0.005 * 62_186_659 < 422_176 < 0.01 * 62_186_659


def test_a_real_swin_unetr_starts_as_its_base() -> None:
    torch.manual_seed(0)
    model = SwinUNETR(in_channels=1, out_channels=1, feature_size=12).eval()
    x = torch.randn(1, 1, 64, 32, 32)
    with torch.no_grad():
        out = model(x)
        found = swin_units(model)
        assert max(u.level for u in found if u.hosts[0].startswith("swinViT.layers1")) == 8
        switches = Switchboard(model, found)
        wide = waves(found)[1]
        switches.switch(wide)
        assert len(wide) > 8 and torch.equal(model(x), out)
        stir(switches, wide)
        assert not torch.equal(model(x), out)
        switches.switch([])
        assert torch.equal(model(x), out)


def test_convolutional_networks_of_monai() -> None:
    seg = SegResNet(spatial_dims=3, init_filters=8, upsample_mode="deconv")
    found = conv_units(seg, leave_out=["conv_final.*"])
    by_group = {u.group: u for u in found}
    block = by_group["down_layers.1.1 lora"]
    assert block.hosts == ("down_layers.1.1.conv1.conv", "down_layers.1.1.conv2.conv")
    assert by_group["down_layers.1.1 affine"].hosts == (
        "down_layers.1.1.norm1",
        "down_layers.1.1.norm2",
    )
    assert by_group["down_layers.1.1 adaptformer"].hosts == ("down_layers.1.1.conv2.conv",)
    assert "down_layers.1.0.conv lora" in by_group  # a convolution outside any block
    assert not any("conv_final" in h for u in found for h in u.hosts)
    assert max(u.level for u in found if u.hosts[0] == "down_layers.0.1.conv1.conv") == 8
    kinds = {type(seg.get_submodule(h)) for u in found for h in u.hosts}
    assert nn.ConvTranspose3d in kinds
    u_net = UNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        channels=(4, 8),
        strides=(2,),
        num_res_units=2,
    )
    layers = conv_units(u_net, ["lora"], {"lora": [1]}, group_by="layer")
    blocks = conv_units(u_net, ["lora"], {"lora": [1]})
    assert all(len(u.hosts) == 1 for u in layers) and len(blocks) < len(layers)
    assert sorted(h for u in layers for h in u.hosts) == sorted(h for u in blocks for h in u.hosts)
    assert sum(u.cost for u in layers) == sum(u.cost for u in blocks)
    stages = conv_units(u_net, ["lora"], {"lora": [1]}, group_by=lambda n: n.split(".")[1])
    assert len(stages) == 3


def test_exclusions_are_groups_and_shared_hosts() -> None:
    found = some_units(conv_net())
    excludes = exclusions(found)
    by_name = {u.name: u for u in found}
    for a in found:
        for b in found:
            meet = a.group == b.group or bool(set(a.hosts) & set(b.hosts))
            assert (b.name in excludes[a.name]) == (meet and a is not b)
    assert "1=adaptformer-b2" in excludes["1=lora-r1"]  # one method a site
    assert "1=affine" not in excludes["1=lora-r1"] and by_name["1=affine"].cost == 24


def test_a_copy_excludes_what_lies_inside_it() -> None:
    (norm,) = units(net(), ["affine"], ["blocks.0.norm1"])
    (site,) = norm.sites
    whole = dataclasses.replace(
        norm, name="whole", sites=(dataclasses.replace(site, name="blocks.0", module="blocks.0"),)
    )
    inner = units(net(), [Family("lora", gw.LoRA, (2,), "r")], ["blocks.*.qkv"])
    excludes = exclusions([whole, *inner])
    assert excludes["whole"] == {"blocks-0-attn-qkv=lora-r2"}
    assert excludes["blocks-1-attn-qkv=lora-r2"] == frozenset()


def test_units_of_several_hosts_make_one_instance() -> None:
    found = units(
        net(),
        [Family("lora", gw.LoRA, (2, 4), "r")],
        ["*.linear1", "*.linear2"],
        group_by=lambda host: host.rpartition(".")[0],
    )
    assert [u.name for u in found] == [f"blocks-{b}-mlp=lora-r{r}" for b in (0, 1) for r in (2, 4)]
    assert found[0].hosts == ("blocks.0.mlp.linear1", "blocks.0.mlp.linear2")


def test_waves_hold_each_unit_once_and_nothing_that_excludes_each_other() -> None:
    found = some_units(conv_net())
    excludes = exclusions(found)
    for together in (True, False):
        made = waves(found, together)
        assert sorted(n for w in made for n in w) == sorted(u.name for u in found)
        assert all(not excludes[n] & set(w) for w in made for n in w)
    assert len(waves(found)) < 8 and len(waves(found, False)) == len(found)


def test_a_further_family_joins_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families_file, "_FAMILIES", dict(families_file._FAMILIES))
    register_family(Family("diagonal", lambda n: gw.DiaBlo(n), levels=(2, 3), label="n"))
    model = conv_net()
    found = conv_units(model, levels=LEVELS)
    mine = [u for u in found if u.family == "diagonal"]
    assert {u.level for u in mine} == {2, 3} and all("=diagonal-n" in u.name for u in mine)
    switches = Switchboard(model, found)
    stir(switches)
    switches.switch([mine[0].name])
    gw.check_reach(model, picture_batch())
    with pytest.raises(gw.GraftError, match="there is a family 'diagonal' already"):
        register_family(Family("diagonal", lambda n: gw.DiaBlo(n), levels=(2,), label="n"))


def test_start_values_do_not_depend_on_the_other_units() -> None:
    a, b = net(), net()
    found = some_units(a)
    Switchboard(a, found, seed=4), Switchboard(b, found[::-2], seed=4)
    for unit in found[::-2]:
        mine, other = gw.get(a, unit.name).tensors(), gw.get(b, unit.name).tensors()
        assert all(torch.equal(mine[k], other[k]) for k in mine)
    model = net()
    state = torch.get_rng_state()
    board(model, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone


def test_grafts_beside_stay_on_and_may_not_touch_a_host() -> None:
    model = net()
    gw.graft(model, gw.LoRA(2), sites=["*.proj"], also_train=["head"], name="always")
    gw.graft(model, gw.LoRA(2), sites=["*.linear1"], name="in-the-way")
    gw.graft(model, gw.LoRA(2), sites=[], also_train=["blocks.1"], name="whole")
    gw.activate(model, {"in-the-way": 0.5})
    before, out = picture(model), model(batch())
    for name, told in (
        ("in-the-way", "'in-the-way' has blocks.0.mlp.linear1, where unit"),
        ("whole", r"'whole' has blocks\.1, where unit"),
        ("nope", "no graft 'nope'"),
    ):
        with pytest.raises(gw.GraftError, match=told):
            board(model, beside=[name])
        assert picture(model) == before and torch.equal(model(batch()), out)
    assert gw.active(model) == {"in-the-way": 0.5}
    switches = board(model, beside=["always"])
    assert gw.active(model) == {"always": 1.0}
    switches.switch(list(switches.units)[:1])
    assert gw.active(model) == {"always": 1.0, next(iter(switches.units)): 1.0}


def test_refusals() -> None:
    model = net()
    before = picture(model)
    lora = Family("lora", gw.LoRA, (4, 9), "r")
    wide = Family("adaptformer", lambda b: gw.AdaptFormer(b, 1.0), (16,), "b")
    for families, sites, told in (
        (
            [lora],
            ["*.proj"],
            r"lora level 9 on blocks\.0\.attn\.proj is above min\(d_in, d_out\) = 8",
        ),
        ([wide], ["*.mlp"], r"level 16 on blocks\.0\.mlp is above"),
        (["lora"], ["*.nowhere"], "matches no layer"),
        (["nope"], ["*.qkv"], "no family 'nope'"),
        ([], ["*.qkv"], "name at least one"),
    ):
        with pytest.raises(gw.GraftError, match=told):
            units(model, families, sites)
    for call, told in (
        (lambda: swin_units(conv_net()), "blocks: pattern 'type:SwinTransformerBlock' matches no"),
        (lambda: swin_units(model, levels={"nope": [1]}), "levels: no family 'nope'"),
        (lambda: swin_units(model, ["lora"], {"lora": [64]}), "no host for"),
        (lambda: swin_units(model, blocks="*.mlp"), r"blocks\.0\.mlp has no blocks\.0\.mlp\.attn"),
        (lambda: conv_units(net(), ["lora"]), "no host for"),
        (lambda: conv_units(conv_net(), leave_out=["nope"]), "leave_out: pattern 'nope'"),
        (lambda: conv_units(conv_net(), group_by="stage"), "group_by must be"),
        (lambda: Family("a b", gw.LoRA), r"Family\.name"),
        (lambda: Family("a", gw.LoRA, (4, 2), "r"), r"Family\.levels"),
        (lambda: Family("a", gw.LoRA, (2, 4)), r"Family\.label"),
    ):
        with pytest.raises(gw.GraftError, match=told):
            call()
    found = some_units(model)
    for chosen, told in (
        ([*found, found[0]], f"two units have the name '{found[0].name}'"),
        ([], "there is none to choose from"),
    ):
        with pytest.raises(gw.GraftError, match=told):
            Switchboard(model, chosen)
    assert picture(model) == before
    taken = copy.deepcopy(model)
    gw.graft(taken, gw.LoRA(1), sites=["head"], name=found[3].name)
    with pytest.raises(gw.GraftError, match="already has a graft"):
        Switchboard(taken, found)
    assert set(gw.grafts(taken)) == {found[3].name}
    switches = Switchboard(model, found)
    for names, told in (
        (["nope"], "no unit 'nope'"),
        ([found[0].name, found[1].name], "exclude each other"),
    ):
        with pytest.raises(gw.GraftError, match=told):
            switches.switch(names)
    assert switches.active == ()
    gw.get(model, found[0].name).merge()
    with pytest.raises(gw.GraftError, match="is merged"):
        switches.switch([])
