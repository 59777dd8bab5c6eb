"""Units whose methods ask for rates of their own, or share tensors between hosts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.allocation import pace
from graftwork.allocation.families import Family
from graftwork.allocation.switchboard import Switchboard
from graftwork.allocation.unit import Unit, units_of


def board() -> Switchboard:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4), nn.Linear(4, 3))
    found = [
        gw.graft(model, method, sites=[site], name=site).entry.sites[0][0]
        for site, method in (("0", gw.NOBLE(2)), ("2", gw.LoRA(2)))
    ]
    costs = [sum(p.numel() for p in gw.get(model, n).parameters()) for n in "02"]
    for name in "02":
        gw.get(model, name).remove()
    made = [
        Unit(f"u{s.name}", (s,), m, s.name, m.id, 1, c)
        for s, m, c in zip(found, (gw.NOBLE(2), gw.LoRA(2)), costs, strict=True)
    ]
    return Switchboard(model, made)


def rates(optimizer: torch.optim.Optimizer) -> dict[int, tuple[str, float]]:
    return {
        id(p): (g["unit"], g["lr"])
        for g in optimizer.param_groups
        if "unit" in g
        for p in g["params"]
    }


@pytest.mark.parametrize("own", [True, False])
def test_a_units_tensors_keep_the_rates_of_their_method(own: bool) -> None:
    b = board()
    if own:
        optimizer = torch.optim.AdamW(pace.groups(b, 0.1, weight_decay=0.01))
    else:
        optimizer = torch.optim.AdamW(gw.paced(b.model, 0.1, weight_decay=0.01))
        pace.own_groups(optimizer, b)
    named = dict(gw.get(b.model, "u0").named_parameters())
    found = rates(optimizer)
    wanted = {"0.phase1": 0.4, "0.freq2": 0.2, "0.up": 0.1 * 4**0.4, "0.mix": 0.2, "0.down": 0.1}
    for name, rate in wanted.items():
        assert found[id(named[name])] == ("u0", pytest.approx(rate))
    assert {found[id(p)] for p in gw.get(b.model, "u2").parameters()} == {("u2", 0.1)}
    pace.set_rates(optimizer, {"u0": 10}, step=11, ramp=4)  # half of the height
    assert rates(optimizer)[id(named["0.phase1"])][1] == pytest.approx(0.2)
    assert rates(optimizer)[id(named["0.down"])][1] == pytest.approx(0.05)


def test_hosts_that_share_tensors_cost_them_once() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({n: nn.ModuleDict({"q": nn.Linear(6, 5)}) for n in "ab"})
    model["c"] = nn.ModuleDict({"q": nn.Linear(4, 5)})
    sites = tuple(s for s, _ in gw.graft(model, gw.WeGeFT(2), sites=["*.q"]).entry.sites)
    gw.get(model).remove()
    family = Family("wegeft", lambda level: gw.WeGeFT(level, shared=True), (2,))
    (unit,) = units_of(model, family, {"all": list(sites)})
    assert unit.cost == 2 * 2 * (6 + 4)
    assert sum(p.numel() for p in Switchboard(model, [unit]).parameters(unit.name)) == unit.cost
