"""The chosen set as one ordinary graft: saved, loaded, merged, written for peft, grafted fresh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graftwork as gw
from graftwork.allocation import (
    Family,
    Plan,
    Search,
    Switchboard,
    conv_units,
    graft_units,
    read_record,
    units,
    write_record,
)
from graftwork.allocation.export import chosen_units, joint_spec
from tests.allocation.allocation_helpers import (
    LEVELS,
    batch,
    board,
    conv_net,
    net,
    pick,
    picture_batch,
    some_units,
    stir,
)
from tests.core.core_helpers import close, picture

NEVER = Plan(warm_up=0, steps=1, audit_every=9, allocate_every=9)
MIXED = ("0-attn-qkv=lora-r2", "0-norm1=affine", "1-mlp=lora-r4", "1-mlp=adaptformer-b2")


def ended(model: nn.Module, names: Any, beside: Any = (), found: Any = None) -> Search:
    """A search that ends with a given set, its tensors stirred."""
    found = found or some_units(model)

    def score(m: nn.Module) -> float:
        return float(len(gw.active(m)))  # of all candidates the largest set wins

    search = Search(model, found, score, budget=1.0, plan=NEVER, start=names, beside=beside, seed=2)
    stir(search.board)
    search.begin(), search.end()
    return search


def with_head(model: nn.Module) -> nn.Module:
    head = gw.graft(model, gw.LoRA(2), sites=["*.proj"], also_train=["head"], name="head", seed=0)
    with torch.no_grad():
        for p in head.parameters():
            p.add_(0.1)
    return model


def names_of(model: nn.Module, *ends: str) -> list[str]:
    names = [u.name for u in some_units(model)]
    return [next(n for n in names if n.endswith(end)) for end in ends]


@pytest.mark.parametrize("beside", [[], ["head"]])
def test_export_reload_reapply_is_the_same_set(tmp_path: Path, beside: list[str]) -> None:
    model = with_head(net()) if beside else net()
    names = names_of(net(), *MIXED)
    search = ended(model, names, beside)
    assert search.finish().units == tuple(u for u in some_units(net()) if u.name in names)
    out = model(batch())
    exported = search.export(net())
    close(exported.model(batch()), out, 1e-6)
    gw.save(exported, tmp_path / "set")
    again = gw.load(net(), tmp_path / "set")
    assert torch.equal(again.model(batch()), exported.model(batch()))
    gw.check_reach(again.model, batch())
    trained = sum(p.numel() for p in again.parameters())
    head = sum(t.numel() for t in gw.get(model, "head").tensors().values()) if beside else 0
    assert trained == search.finish().cost + head
    with again.off():
        assert torch.equal(again.model(batch()), net()(batch()))


@pytest.mark.parametrize("name", ["default", "head", "chosen"])
def test_settling_leaves_one_graft_on_the_model_itself(name: str) -> None:
    model = with_head(net())
    gw.graft(model, gw.LoRA(1), sites=["*.linear1"], name="other")
    search = ended(model, names_of(net(), *MIXED), ["head"])
    out = model(batch())
    graft = search.settle(name)
    assert set(gw.grafts(model)) == {name, "other"} and gw.active(model) == {name: 1.0}
    close(model(batch()), out, 1e-6)
    graft.remove(), gw.get(model, "other").remove()
    assert torch.equal(model(batch()), net()(batch()))
    assert picture(model)["keys"] == picture(net())["keys"]


def test_settling_refuses_the_name_of_another_graft() -> None:
    model = net()
    gw.graft(model, gw.LoRA(1), sites=["*.linear1"], name="other")
    search = ended(model, names_of(net(), "0-attn-qkv=lora-r2"))
    before = picture(model)
    with pytest.raises(gw.GraftError, match="another graft 'other'"):
        search.settle("other")
    assert picture(model) == before


def test_a_set_without_bottlenecks_merges_and_one_with_them_refuses() -> None:
    for build, data, found in (
        (net, batch, None),
        (conv_net, picture_batch, conv_units(conv_net(), levels=LEVELS, leave_out=["3"])),
    ):
        every = found or some_units(build())
        own: list[Any] = []
        for unit in every:  # LoRA and affine wherever they can be
            if unit.family != "adaptformer" and unit.group not in {o.group for o in own}:
                own.append(unit)
        model = build()
        graft = ended(model, [u.name for u in own], found=every).settle()
        out = model(data())
        graft.merge()
        close(model(data()), out, 1e-5)
        graft.unmerge()
        assert torch.equal(model(data()), out)
        branch = next(u for u in every if u.family == "adaptformer")
        graft = ended(build(), [branch.name], found=every).settle()
        with pytest.raises(gw.GraftError, match="changes activations, not weights"):
            graft.merge()


def test_a_set_of_lora_goes_to_peft_with_its_ranks(tmp_path: Path) -> None:
    from peft import PeftModel

    from graftwork.store import to_peft

    names = names_of(net(), "0-attn-qkv=lora-r2", "1-attn-qkv=lora-r4", "1-mlp=lora-r1")
    graft = ended(net(), names).settle()
    out = graft.model(batch())
    to_peft(graft, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    ranks = {config["r"], *config["rank_pattern"].values()}
    assert ranks == {1, 2, 4}
    theirs = PeftModel.from_pretrained(net(), str(tmp_path / "peft")).eval()
    close(theirs(batch()), out, 1e-5)


def test_refining_starts_from_the_base_and_trains() -> None:
    names = names_of(net(), *MIXED)
    chosen = [u for u in some_units(net()) if u.name in names]
    model, twin = net(), net()
    graft = graft_units(model, chosen, seed=7)
    again = graft_units(twin, chosen, seed=7)
    assert torch.equal(model(batch()), net()(batch()))
    mine, other = graft.tensors(), again.tensors()
    assert all(torch.equal(mine[k], other[k]) for k in mine)
    assert sum(p.numel() for p in graft.parameters()) == sum(u.cost for u in chosen)
    optimizer = torch.optim.SGD(graft.parameters(), lr=0.1)
    before = float(model(batch()).square().mean().detach())
    for _ in range(3):
        optimizer.zero_grad()
        model(batch()).square().mean().backward()
        optimizer.step()
    assert float(model(batch()).square().mean().detach()) < before
    assert graft.spec()["method"]["id"] == "lora"
    kinds = {(s["kind"], s.get("method", {}).get("id", "lora")) for s in graft.spec()["sites"]}
    assert kinds == {("linear", "lora"), ("block", "adaptformer")}
    assert graft.spec()["also_train"] == [{"name": "blocks.0.norm1", "kind": "module"}]


def test_norms_alone_are_a_graft_too(tmp_path: Path) -> None:
    names = names_of(net(), "0-norm1=affine", "1-norm2=affine")
    graft = ended(net(), names).settle()
    gw.save(graft, tmp_path / "norms")
    assert torch.equal(gw.load(net(), tmp_path / "norms").model(batch()), graft.model(batch()))


@given(data=st.data())
@settings(max_examples=20)
def test_any_legal_set_is_the_same_as_one_graft(data: st.DataObject) -> None:
    build, inputs = data.draw(st.sampled_from([(net, batch), (conv_net, picture_batch)]))
    model = build()
    switches = board(model)
    stir(switches)
    names: list[str] = []
    for name in data.draw(st.lists(st.sampled_from(list(switches.units)), min_size=1, max_size=9)):
        if name not in names and not switches.excludes[name] & set(names):
            names.append(name)
    switches.switch(names)
    graft = graft_units(build(), [switches.units[n] for n in switches.active])
    graft.load_tensors(switches.tensors(names))
    close(graft.model(inputs()), model(inputs()), 1e-6)


def test_records_on_disk(tmp_path: Path) -> None:
    names = names_of(net(), *MIXED)
    search = ended(net(), names)
    result = search.finish()
    path = write_record(tmp_path / "deep" / "search.json", search.record())
    assert [f.name for f in path.parent.iterdir()] == ["search.json"]
    record = read_record(path)
    assert record == search.record()
    assert chosen_units(record, some_units(net())) == list(result.units)
    row = record["chosen"][0]
    for change, told in (
        ({"name": "nope"}, "no unit 'nope'"),
        ({"cost": 1}, "has .* parameters here, 1 in the record"),
    ):
        with pytest.raises(gw.GraftError, match=told):
            chosen_units({**record, "chosen": [{**row, **change}]}, some_units(net()))
    with pytest.raises(gw.GraftError, match="no unit None"):
        chosen_units({"chosen": ["x"]}, some_units(net()))
    wider = some_units(net(dim=12))
    with pytest.raises(gw.GraftError, match="is this the same network"):
        chosen_units(record, wider)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "not the record of a search"),
        ('{"format": "graftwork-allocation", "chosen": 3}', "not the record of a search"),
    ],
)
def test_bad_records_are_refused_by_name(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "record.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(gw.GraftError, match=told) as refusal:
        read_record(path)
    assert "record.json" in str(refusal.value)


def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(gw.GraftError, match="cannot be written"):
        write_record(tmp_path / "file" / "record.json", {})
    with pytest.raises(gw.GraftError, match="cannot be written as JSON"):
        write_record(tmp_path / "record.json", {"score": float("nan")})
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_sets_that_make_no_graft_are_refused() -> None:
    found = some_units(net())
    by_name = {u.name: u for u in found}
    a, b = (by_name[n] for n in names_of(net(), "0-attn-qkv=lora-r1", "0-attn-qkv=lora-r2"))
    model = net()
    before = picture(model)
    other = gw.graft(net(), gw.LoRA(2), sites=["blocks.0.attn.qkv"]).spec()
    whole = gw.graft(net(), gw.LoRA(2), sites=[], also_train=["blocks.0.norm1"]).spec()
    (norm,) = (by_name[n] for n in names_of(net(), "0-norm1=affine"))
    for units_, beside, told in (
        ([], [], "the set is empty"),
        ([a, b], [], "exclude each other"),
        ([a], [other], r"meet at blocks\.0\.attn\.qkv"),
        ([norm], [whole], r"meet at blocks\.0\.norm1"),
    ):
        with pytest.raises(gw.GraftError, match=told):
            graft_units(model, units_, beside=beside)
    with pytest.raises(gw.GraftError, match="do not fit Sequential"):
        graft_units(conv_net(), [a])
    assert picture(model) == before
    rows = gw.graft(net(), gw.NormAffine(), sites=["blocks.1.norm1"], also_train=gw.NewRows("head"))
    spec = joint_spec([a], [rows.spec()])
    assert spec["also_train"] == [
        {"name": "blocks.1.norm1", "kind": "module"},
        {"name": "head", "kind": "rows", "new": 1},
    ]


def test_groups_of_a_convolution_are_kept() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 1))
    found = units(model, [Family("lora", gw.LoRA, (2,), "r")], ["0", "1"])
    switches = Switchboard(model, found)
    assert pick(switches, "0=lora-r2") == ["0=lora-r2"]
    assert joint_spec(found)["sites"][0] == {"name": "0", "kind": "conv2d", "groups": 2}
    spec = gw.graft(nn.Sequential(*[nn.Conv2d(4, 4, 3, groups=2)]), gw.LoRA(2), sites=["0"]).spec()
    assert joint_spec(found[:1]) == spec
