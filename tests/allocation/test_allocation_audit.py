"""Audits: what they say, and that nobody can tell afterwards that there was one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graftwork as gw
from graftwork.allocation.audit import audit, measure
from tests.allocation.allocation_helpers import (
    batch,
    board,
    conv_net,
    everything,
    net,
    pick,
    picture_batch,
    stir,
)


def error(model: nn.Module) -> float:
    return -float(model(batch()).square().mean())


def states(optimizer: torch.optim.Optimizer) -> Any:
    return {
        k: {n: v.clone() if isinstance(v, Tensor) else v for n, v in s.items()}
        for k, s in optimizer.state_dict()["state"].items()
    }


@pytest.mark.parametrize("build, data", [(net, batch), (conv_net, picture_batch)])
def test_an_audit_changes_nothing(build: Any, data: Any) -> None:
    """Sibling on, half-finished gradients, mixed modes, momentum, three random generators."""
    model = build(dropout=0.2) if build is net else build()
    gw.graft(model, gw.LoRA(1), sites=[], also_train=["head" if build is net else "3"], name="head")
    switches = board(model, beside=["head"])
    stir(switches)
    on = [pick(switches, "=lora-r2")[0], pick(switches, "=affine")[-1]]
    switches.switch(on)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(data()).square().mean().backward()
        optimizer.step()
    next(m for m in model.modules() if isinstance(m, nn.Dropout | nn.Conv2d)).eval()
    before, momentum = everything(model), states(optimizer)
    numbers = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def score(m: nn.Module) -> float:
        assert not any(x.training for x in m.modules()) and not torch.is_grad_enabled()
        noise = torch.rand(()) + random.random() + np.random.rand()
        for b in m.buffers():  # a score that is not careful
            b.add_(1)
        return float(m(data()).mean() + noise)

    sibling = pick(switches, "=lora-r4")[0]
    base, probes = audit(switches, score, [*on, sibling, *list(switches.units)[-3:]])
    assert everything(model) == before and switches.active == tuple(
        n for n in switches.units if n in on
    )
    now = states(optimizer)
    assert all(torch.equal(momentum[k][n], now[k][n]) for k in now for n in now[k])
    assert random.getstate() == numbers[0] and torch.equal(torch.get_rng_state(), numbers[2])
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numbers[1], strict=True))
    assert [p.active for p in probes[:3]] == [True, True, False] and base == base


def test_an_audit_that_fails_changes_nothing_either() -> None:
    model = net()
    switches = board(model)
    stir(switches)
    switches.switch(list(switches.units)[:1])
    model.train()
    before, calls = everything(model), []

    def score(m: nn.Module) -> float:
        calls.append(1)
        return 1 / (3 - len(calls))

    with pytest.raises(ZeroDivisionError):
        audit(switches, score, list(switches.units)[1:6])
    assert everything(model) == before


def test_the_gain_is_what_the_unit_adds_to_the_set_without_its_rivals() -> None:
    model = net()
    switches = board(model)
    stir(switches)
    on = pick(switches, "0-attn-qkv=lora-r2", "1-norm1=affine")
    sibling, free = pick(switches, "0-attn-qkv=lora-r4", "1-mlp=adaptformer-b2")
    switches.switch(on)

    def worth(*names: str) -> float:
        gw.activate(model, dict.fromkeys(names, 1.0) or None)
        with torch.no_grad():
            return error(model)

    expected = {
        on[0]: worth(*on) - worth(on[1]),
        on[1]: worth(*on) - worth(on[0]),
        free: worth(*on, free) - worth(*on),
        sibling: worth(on[1], sibling) - worth(on[1]),  # in the place of its active sibling
    }
    base = worth(*on)
    switches.switch(on)
    score, probes = audit(switches, error, [*on, sibling, free])
    assert score == base and {p.unit: p.gain for p in probes} == expected
    assert len({round(g, 9) for g in expected.values()}) == 4
    assert measure(switches, error, [on, [], on]) == [base, worth(), base]


@given(data=st.data())
@settings(max_examples=15)
@pytest.mark.parametrize("build, inputs", [(net, batch), (conv_net, picture_batch)])
def test_a_unit_that_never_trained_is_worth_exactly_nothing(
    build: Any, inputs: Any, data: st.DataObject
) -> None:
    """Whatever else is on, a trained sibling included."""
    model = build()
    switches = board(model)
    names = list(switches.units)
    on = data.draw(st.lists(st.sampled_from(names), max_size=4, unique=True))
    on = [n for i, n in enumerate(on) if not switches.excludes[n] & set(on[:i])]
    stir(switches, on)
    switches.switch(on)
    fresh = [n for n in names if n not in on]
    probes = audit(switches, lambda m: m(inputs()).square().mean(), fresh)[1]
    assert [p.gain for p in probes] == [0.0] * len(fresh)


def test_a_unit_that_makes_predictions_the_labels_is_worth_something() -> None:
    model = net()
    switches = board(model)
    (good,) = pick(switches, "1-mlp=lora-r4")
    stir(switches, [good], size=1.0)
    switches.switch([good])
    labels = (model(batch()) > model(batch()).median()).float()
    cut = float(model(batch()).detach().median())

    def dice(m: nn.Module) -> float:
        guess = (m(batch()) > cut).float()
        return float((2 * (guess * labels).sum() + 1) / (guess.sum() + labels.sum() + 1))

    for on in ([good], []):
        switches.switch(on)
        score, (probe,) = audit(switches, dice, [good])
        assert probe.gain > 0 and probe.active == bool(on)
        assert (score == 1.0) == bool(on)


def test_all_measurements_start_from_one_random_state() -> None:
    switches = board(net(dropout=0.5))
    stir(switches)

    def score(m: nn.Module) -> float:
        return float(torch.rand(())) + random.random() + float(np.random.rand())

    names = list(switches.units)[:5]
    assert {p.gain for p in audit(switches, score, names)[1]} == {0.0}


def test_autocast_is_off_inside() -> None:
    switches = board(net())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        audit(switches, lambda m: float(m(batch()).dtype == torch.float32) - 1, [])
        assert audit(switches, lambda m: float(m(batch()).dtype == torch.float32), [])[0] == 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.5", True, torch.ones(2)])
def test_a_score_that_is_no_number_is_refused(value: Any) -> None:
    model = net()
    switches = board(model)
    before = everything(model)
    with pytest.raises(gw.GraftError, match=r"^score: "):
        audit(switches, lambda m: value, list(switches.units)[:1])
    assert everything(model) == before
