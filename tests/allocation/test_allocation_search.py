"""The episode: what a search finds, spends, remembers, and refuses."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.allocation import Family, Plan, Search, conv_units, units
from graftwork.allocation import search as search_file
from tests.allocation.allocation_helpers import (
    QUICK,
    batch,
    conv_net,
    net,
    picture_batch,
    plain,
    some_units,
    task,
)
from tests.core.core_helpers import bits, picture


def optimizer_of(search: Search, lr: float = 0.02) -> torch.optim.Optimizer:
    return torch.optim.AdamW(search.groups(lr), weight_decay=0.0)


def run(search: Search, loss: Any, optimizer: Any, steps: int = 10**6) -> list[str]:
    lines: list[str] = []
    while not search.done and steps:
        search.begin(optimizer)
        optimizer.zero_grad()
        loss(search.board.model, search.step).backward()
        optimizer.step()
        lines += search.end(optimizer)
        steps -= 1
    return lines


def test_a_search_helps_and_fits_its_budget() -> None:
    model, loss, score = task()
    with torch.no_grad():
        base = float(score(model))
    search = Search(model, some_units(model), score, budget=110, plan=QUICK, seed=1)
    assert search.binds
    lines = run(search, loss, optimizer_of(search))
    result = search.finish()
    assert result.cost == sum(u.cost for u in result.units) <= 110
    assert result.units and result.score > base / 1.5  # the error, negative, falls by a third
    assert search.board.active == tuple(u.name for u in result.units)
    with torch.no_grad():
        assert result.score == float(score(model))
    assert result.score == result.candidates[0]["score"]
    assert result.score == max(c["score"] for c in result.candidates)
    assert (
        len(lines) == 10 and lines[-1].startswith("step 90: ") and "of 110 parameters" in lines[-1]
    )
    for allocation in search.diary.allocations:
        assert allocation["cost"] == search.board.cost(allocation["set"]) <= 110
        search.board.check(allocation["set"])
    assert {c["from"] for c in result.candidates} >= {"allocation"}
    assert search.finish() is result


class Branches(nn.Module):
    """Independent linear maps of one input, side by side: where a change is needed is no matter of taste."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([m(x) for m in self.maps])


@pytest.mark.parametrize("places", [(1, 4), (0, 3), (2, 5)])
def test_a_search_finds_where_the_change_is(places: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = Branches()
    truth = copy.deepcopy(model)
    with torch.no_grad():
        for place in places:
            truth.maps[place].weight.add_(torch.randn(8, 1) @ torch.randn(1, 8))
    found = units(model, [Family("lora", gw.LoRA, (1, 2), "r")], ["maps.*"])

    def error(m: nn.Module, seed: int) -> Tensor:
        x = batch(seed)
        return (m(x) - truth(x).detach()).square().mean()

    # room for one unit of rank 2 or two of rank 1; each of the two changes has rank 1
    search = Search(model, found, lambda m: -error(m, 99), budget=32, plan=QUICK)
    run(search, lambda m, step: error(m, step % 7), optimizer_of(search, 0.05))
    assert [u.name for u in search.finish().units] == [f"maps-{p}=lora-r1" for p in places]


def test_the_record_is_plain_and_complete() -> None:
    model, loss, score = task()
    search = Search(model, some_units(model), score, budget=0.2, plan=QUICK, seed=1)
    run(search, loss, optimizer_of(search))
    search.finish()
    record = search.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["budget"] == int(0.2 * sum(p.numel() for p in net().parameters()))
    assert len(record["audits"]) == 20 and len(record["allocations"]) == 10
    first, probes = record["audits"][0], [p for a in record["audits"] for p in a["probes"]]
    assert all(p["predicted"] is None for p in first["probes"]) and first["step"] == 33
    assert {p["unit"] for p in probes} == set(search.board.units)  # nobody is forgotten
    assert any(p["gain"] != 0 for p in first["probes"])  # warm-up gave each something to show
    for probe in probes:
        assert probe["density"] == probe["gain"] / search.board.units[probe["unit"]].cost
    known = [p for p in probes if p["predicted"] is not None]
    assert len(known) > 50 and -1 <= record["foreseen"]["all"] <= 1
    assert record["foreseen"]["all"] > 0  # an audit tells something of the next one
    assert len(record["foreseen"]["by_audit"]) == 20
    assert 0 < record["share_in_audits"] < 1
    assert [r["name"] for r in record["chosen"]] == list(search.set)
    assert record["cost"] == sum(r["cost"] for r in record["chosen"])


@pytest.mark.parametrize("stop", [1, 17, 30, 31, 42, 55, 89])
def test_a_resumed_search_is_the_uninterrupted_one(stop: int) -> None:
    """Through JSON, a fresh model and a fresh optimizer; the tensors travel with the grafts."""
    model, loss, score = task()
    whole = Search(model, some_units(model), score, budget=110, plan=QUICK, seed=1)
    whole_optimizer = optimizer_of(whole)
    whole_lines = run(whole, loss, whole_optimizer)

    first = Search(net(), some_units(net()), score, budget=110, plan=QUICK, seed=1)
    optimizer = optimizer_of(first)
    lines = run(first, loss, optimizer, stop)
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    tensors = {n: gw.get(first.board.model, n).tensors() for n in first.board.units}
    moments = copy.deepcopy(optimizer.state_dict())

    again = Search(net(), some_units(net()), score, budget=110, plan=QUICK, seed=1)
    for name, saved in tensors.items():
        gw.get(again.board.model, name).load_tensors(saved)
    optimizer = optimizer_of(again)
    optimizer.load_state_dict(moments)
    again.load_state_dict(state)
    assert again.state_dict() == state
    lines += run(again, loss, optimizer)

    assert lines == whole_lines
    whole.finish(), again.finish()
    assert plain(again.state_dict()) == plain(whole.state_dict())
    assert again.board.active == whole.board.active
    for name in whole.board.units:
        mine, other = gw.get(again.board.model, name).tensors(), gw.get(model, name).tensors()
        assert all(bits(mine[k]) == bits(other[k]) for k in other), name
    finished = Search(net(), some_units(net()), score, budget=110, plan=QUICK, seed=1)
    finished.load_state_dict(json.loads(json.dumps(again.state_dict())))
    assert finished.finish() == again.finish()


def test_a_state_of_another_search_is_refused() -> None:
    model, _, score = task()
    found = some_units(model)
    search = Search(model, found, score, budget=110, plan=QUICK, seed=1)
    state = search.state_dict()
    before = plain(state)
    for change, told in (
        ({"seed": 2}, "seed is '2' in the state"),
        ({"budget": 111}, "budget is '111'"),
        ({"plan": Plan(steps=7).row()}, "plan 'warm_up' is 200 in the state, 30 here"),
        ({"units": {found[0].name: 1}}, f"units '{found[0].name}' is 1 in the state"),
        ({"beside": ["head"]}, "beside is"),
    ):
        with pytest.raises(gw.GraftError, match=told):
            search.load_state_dict({**state, **change})
        assert plain(search.state_dict()) == before


def test_one_lora_a_qkv_always_on_is_plain_lora_step_for_step() -> None:
    """No audit, no allocator: the machinery itself changes nothing."""
    base, loss, score = task()
    twin = net()
    found = units(base, [Family("lora", gw.LoRA, (4,), "r")], ["*.qkv"])
    never = Plan(warm_up=0, steps=25, audit_every=100, allocate_every=100, ramp=1)
    search = Search(
        base, found, score, budget=1.0, plan=never, start=[u.name for u in found], seed=3
    )
    graft = gw.graft(twin, gw.LoRA(4), sites=["*.qkv"])
    graft.load_tensors(search.board.tensors(search.set))
    optimizer = torch.optim.AdamW(search.groups(0.01), weight_decay=0.0)
    plain_one = torch.optim.AdamW(graft.parameters(), lr=0.01, weight_decay=0.0)
    for step in range(25):
        search.begin(optimizer)
        losses = []
        for model, o in ((base, optimizer), (twin, plain_one)):
            model.train()
            o.zero_grad()
            out = loss(model, step)
            out.backward()
            o.step()
            losses.append(float(out.detach()))
        assert search.end(optimizer) == []
        assert losses[0] == losses[1], step
    mine, other = search.board.tensors(search.set), graft.tensors()
    assert mine.keys() == other.keys() and all(bits(mine[k]) == bits(other[k]) for k in other)
    assert search.diary.audits == search.diary.allocations == []
    assert torch.equal(base(batch(5)), twin(batch(5)))


@pytest.mark.parametrize("together", [True, False])
def test_warm_up_trains_every_unit_at_every_level(together: bool) -> None:
    model, loss, score = task()
    found = some_units(model)
    plan = Plan(warm_up=2 * len(found), steps=5, together=together, audit_every=9, allocate_every=9)
    search = Search(model, found, score, budget=110, plan=plan)
    start = {
        n: [p.detach().clone() for p in search.board.parameters(n)] for n in search.board.units
    }
    optimizer = optimizer_of(search)
    seen: list[int] = []
    while search.warming:
        search.begin(optimizer)
        seen.append(len(search.board.active))
        optimizer.zero_grad()
        loss(model, search.step).backward()
        optimizer.step()
        search.end(optimizer)
    for name, values in start.items():
        moved = [
            not torch.equal(a, b)
            for a, b in zip(values, search.board.parameters(name), strict=True)
        ]
        assert all(moved), name
    assert max(seen) == (10 if together else 1)
    assert search.board.active == () and not optimizer.state  # search starts from nothing


def test_a_promoted_unit_starts_afresh_at_a_rate_that_no_cycle_sets() -> None:
    model, loss, score = task()
    search = Search(model, some_units(model), score, budget=110, plan=QUICK, seed=1)
    optimizer = optimizer_of(search, lr=0.02)
    # its minima fall on every audit and allocation, like those of the released code
    cycle = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, QUICK.audit_every)
    rate = {g["unit"]: g for g in optimizer.param_groups}
    promoted: dict[str, int] = {}
    demoted = 0
    while not search.done:
        search.begin(optimizer)
        for name, group in rate.items():
            age = search.step - promoted[name] + 1 if name in promoted else 4
            assert group["lr"] == pytest.approx(0.02 * min(4, age) / 4), (search.step, name)
        optimizer.zero_grad()
        loss(model, search.step).backward()
        optimizer.step()
        for name, at in promoted.items():
            for p in search.board.parameters(name):
                if name in search.set:
                    assert int(optimizer.state[p]["step"]) == search.step - at + 1
        cycle.step()
        for line in search.end(optimizer):
            last = search.diary.allocations[-1]
            assert f"+{len(last['up'])} -{len(last['down'])}" in line
            for name in (*last["up"], *last["down"]):
                promoted.pop(name, None)
                assert not any(p in optimizer.state for p in search.board.parameters(name))
            demoted += len(last["down"])
            promoted |= dict.fromkeys(last["up"], search.step)
    assert promoted


def test_audits_leave_votes_and_guards_alone() -> None:
    model, loss, score = task()
    plan = Plan(**{**QUICK.row(), "votes": 3, "audit_every": 1, "allocate_every": 2, "share": 1.0})
    search = Search(model, some_units(model), score, budget=110, plan=plan, seed=1)
    optimizer = optimizer_of(search)
    run(search, loss, optimizer, 30 + 3)
    held = copy.deepcopy(search.controller.state_dict())
    assert held["votes"]  # every unit has been audited since, and keeps them
    search._audit()
    assert search.controller.state_dict() == held
    run(search, loss, optimizer, 3)
    assert search.set  # three allocations in a row


def test_guarded_units_keep_their_room_in_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss, score = task()
    seen: list[tuple[set[str], set[str]]] = []
    solve = search_file.solve

    def listening(items: Any, budget: int, **options: Any) -> list[str]:
        wanted = solve(items, budget, **options)
        held = {n for n, left in search.controller.guards.items() if left > 0}
        seen.append((held & set(search.set), set(wanted)))
        assert set(options["locked"]) == held & set(search.set)
        return wanted

    monkeypatch.setattr(search_file, "solve", listening)
    plan = Plan(**{**QUICK.row(), "guard": 3, "votes": 1})
    search = Search(model, some_units(model), score, budget=110, plan=plan, seed=1)
    run(search, loss, optimizer_of(search))
    assert any(held for held, _ in seen) and all(held <= wanted for held, wanted in seen)


def test_beginning_twice_changes_nothing() -> None:
    model, _, score = task()
    search = Search(model, some_units(model), score, budget=110, plan=QUICK)
    optimizer = optimizer_of(search)
    search.begin(optimizer)
    before, on = picture(model), search.board.active
    rates = [g["lr"] for g in optimizer.param_groups]
    search.begin(optimizer)
    assert picture(model) == before and search.board.active == on
    assert [g["lr"] for g in optimizer.param_groups] == rates
    search.rest()
    assert search.board.active == search.set == ()


def test_no_step_beyond_the_last() -> None:
    model, loss, score = task()
    plan = Plan(**{**QUICK.row(), "warm_up": 0, "steps": 2})
    search = Search(model, some_units(model), score, budget=110, plan=plan)
    run(search, loss, optimizer_of(search))
    with pytest.raises(gw.GraftError, match="all steps are taken"):
        search.end()
    result = search.finish()  # nobody was ever audited: the empty set
    assert result.units == () and result.cost == 0
    with pytest.raises(gw.GraftError, match="the set is empty"):
        search.settle()
    assert search_file.Result is type(result)


def test_a_search_over_filters_takes_alfas_levels() -> None:
    levels = {"alfa": (2, 3, 5), "lora": (1, 2)}
    model, base = conv_net(), conv_net()
    found = conv_units(model, ["alfa", "lora"], levels, leave_out=["3"])
    assert not [u for u in conv_units(model, levels={"lora": (1,)}) if u.family == "alfa"]
    mine = [u for u in found if u.family == "alfa"]
    assert {u.level for u in mine} == {2, 3, 5} and all("=alfa-k" in u.name for u in mine)
    for unit in mine:  # each site trains r + 1 numbers
        assert unit.cost == (unit.level + 1) * len(unit.sites)
    truth = conv_net()
    teacher = gw.graft(truth, gw.Alfa(5, form="diagonal"), sites=["1.conv1", "2.conv2"])
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))

    def error(net: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = truth(x)
        return (net(x) - y).square().mean()

    search = Search(
        model, found, lambda m: -error(m, picture_batch(9)), budget=40, plan=QUICK, seed=1
    )
    out = base(picture_batch())
    switches = search.board
    switches.switch([u.name for u in mine if u.level == 3])  # on at their start: the base
    assert torch.equal(model(picture_batch()), out)
    for unit in mine:
        tensors = switches.parameters(unit.name)
        assert sum(p.numel() for p in tensors if p.requires_grad) == unit.cost
    switches.switch([])
    run(search, lambda m, step: error(m, picture_batch(step % 5)), optimizer_of(search))
    result = search.finish()
    assert result.cost == sum(u.cost for u in result.units) <= 40
    for allocation in search.diary.allocations:
        assert allocation["cost"] == switches.cost(allocation["set"]) <= 40
        switches.check(allocation["set"])
    before = model(picture_batch())
    switches.switch([])
    assert torch.equal(model(picture_batch()), out)
    switches.switch([u.name for u in result.units])
    assert torch.equal(model(picture_batch()), before)
    graft = search.settle()
    assert sum(p.numel() for p in graft.parameters()) == result.cost
    torch.testing.assert_close(model(picture_batch()), before, rtol=0, atol=1e-6)
