"""Rates that a method asks for: groups, optimizers built elsewhere, schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.optim.pairs import Trained
from graftwork.optim.rates import check_schedule, rates_in, set_rates


def net(method: Any = None) -> tuple[nn.Sequential, gw.Graft]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 8), nn.Linear(8, 3))
    method = gw.NOBLE(4, up_std=0.01) if method is None else method
    g = gw.graft(model, method, sites=["0", "2"], also_train=["3"])
    return model, g


def rates(optimizer: torch.optim.Optimizer, g: gw.Graft) -> dict[str, float]:
    names = {id(p): n for n, p in g.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 3) -> None:
    for i in range(count):
        torch.manual_seed(i)
        optimizer.zero_grad()
        model(torch.randn(5, 16)).square().sum().backward()
        optimizer.step()


def test_a_graft_a_module_and_its_list_give_the_same_steps() -> None:
    ends = []
    for form in (lambda m, g: g, lambda m, g: m, lambda m, g: Trained(m)):
        model, g = net()
        steps(model, torch.optim.AdamW(gw.paced(form(model, g), 1e-2, weight_decay=0.1)))
        ends.append([p.detach() for p in g.parameters()])
    for other in ends[1:]:
        assert all(torch.equal(p, q) for p, q in zip(ends[0], other, strict=True))


@pytest.mark.parametrize("optimizer_class", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_built_without_knowing_gets_the_rates(optimizer_class: Any) -> None:
    model, g = net()
    plain = optimizer_class(Trained(model), lr=1e-2, weight_decay=0.1)
    assert len(plain.param_groups) == 1
    set_rates(plain, model)
    told = optimizer_class(gw.paced(model, 1e-2, weight_decay=0.1))
    assert rates(plain, g) == rates(told, g) and len(set(rates(plain, g).values())) > 4
    assert rates(plain, g)["3.module.weight"] == 1e-2
    assert [x["weight_decay"] for x in plain.param_groups] == [
        x["weight_decay"] for x in told.param_groups
    ]
    before = rates(plain, g)
    set_rates(plain, model)  # once is enough
    set_rates(told, model)
    assert rates(plain, g) == rates(told, g) == before
    twin, h = net()
    steps(model, plain)
    steps(twin, optimizer_class(gw.paced(twin, 1e-2, weight_decay=0.1)))
    assert all(torch.equal(p, q) for p, q in zip(g.parameters(), h.parameters(), strict=True))


def test_a_rate_is_the_size_of_the_step_and_decay_leaves_vectors_alone() -> None:
    _, g = net()
    optimizer = torch.optim.SGD(gw.paced(g, 0.5, weight_decay=0.1))
    before = {n: p.detach().clone() for n, p in g.named_parameters()}
    for p in g.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = {n: before[n] - p.detach() for n, p in g.named_parameters()}
    torch.testing.assert_close(moved["0.phase1"], torch.full((4,), 0.5 * 4))
    torch.testing.assert_close(moved["0.down_bias"], torch.full((4,), 0.5))
    torch.testing.assert_close(moved["0.up"], 0.5 * 4**0.4 * (1 + 0.1 * before["0.up"]))
    torch.testing.assert_close(moved["2.mix"], 0.5 * 2**0.5 * (1 + 0.1 * before["2.mix"]))
    torch.testing.assert_close(
        moved["3.module.weight"], 0.5 * (1 + 0.1 * before["3.module.weight"])
    )


def test_a_method_that_asks_for_nothing_leaves_an_optimizer_as_it_is() -> None:
    model, g = net(gw.LoRA(2))
    assert rates_in(model) == {}
    optimizer = torch.optim.AdamW(Trained(model), lr=1e-2)
    (group,) = optimizer.param_groups
    set_rates(optimizer, model)
    assert optimizer.param_groups == [group] and "times" not in group
    (group,) = gw.paced(g, 1e-3)
    assert group["lr"] == 1e-3 and len(group["params"]) == len(list(g.parameters()))
    check_schedule(optimizer, [17.0])


def test_grafts_of_two_methods_keep_their_own() -> None:
    model, g = net()
    other = gw.graft(model, gw.LoRA(2), sites=["0"], name="other")
    found = rates_in(model)
    assert {id(p) for p in other.parameters()}.isdisjoint(found)
    assert id(dict(g.named_parameters())["0.up"]) in found


def test_schedules_keep_the_ratios_or_are_refused() -> None:
    kinds = torch.optim.lr_scheduler
    for build, good in (
        (lambda o: kinds.LinearLR(o, 0.1, total_iters=4), True),
        (lambda o: kinds.CosineAnnealingLR(o, 10), True),
        (lambda o: kinds.LambdaLR(o, lambda step: 0.0), True),
        (lambda o: kinds.OneCycleLR(o, 1e-2, total_steps=10), False),
        (
            lambda o: kinds.OneCycleLR(o, [x["lr"] for x in o.param_groups], total_steps=10),
            True,
        ),
    ):
        model, _ = net()
        optimizer = torch.optim.AdamW(gw.paced(model, 1e-2))
        before = [x["lr"] for x in optimizer.param_groups]
        build(optimizer)
        if good:
            check_schedule(optimizer, before)
        else:
            with pytest.raises(gw.GraftError, match="lr_scheduler: it sets one rate for all"):
                check_schedule(optimizer, before)


def test_a_group_that_stands_still_tells_nothing_about_a_schedule() -> None:
    model, _ = net()
    optimizer = torch.optim.AdamW(gw.paced(model, 1e-2))
    before = [x["lr"] for x in optimizer.param_groups]
    optimizer.param_groups[0]["lr"] = before[0] = 0.0
    check_schedule(optimizer, before)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: gw.paced(list(net()[1].parameters()), 1e-3), "a list of tensors does not say"),
        (lambda: gw.paced(net()[1], 0.0), "lr must be above 0"),
        (lambda: gw.paced(net()[1], float("nan")), "lr must be above 0"),
    ],
)
def test_refusals(build: Any, words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        build()


def test_an_optimizer_that_has_stepped_is_refused() -> None:
    model, _ = net()
    optimizer = torch.optim.AdamW(Trained(model), lr=1e-2)
    steps(model, optimizer, 1)
    with pytest.raises(gw.GraftError, match="has stepped"):
        set_rates(optimizer, model)
