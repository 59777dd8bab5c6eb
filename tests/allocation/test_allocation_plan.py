"""Budgets and plans, and what a search refuses before it touches the model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graftwork as gw
from graftwork.allocation import Plan, Search, Switchboard
from graftwork.allocation.plan import parameter_budget
from tests.allocation.allocation_helpers import QUICK, net, some_units, task
from tests.core.core_helpers import picture


@given(st.floats(1e-6, 1.0, exclude_min=True) | st.integers(1, 10**7))
@settings(max_examples=30)
def test_budgets(budget: float | int) -> None:
    model = net()
    total = sum(p.numel() for p in model.parameters())
    expected = budget if isinstance(budget, int) else int(budget * total)
    assert parameter_budget(model, budget) == expected
    Switchboard(model, some_units(model))
    assert parameter_budget(model, budget) == expected  # grafts do not count


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"budget": 0.0}, r"must lie in \(0, 1\]"),
        ({"budget": -0.1}, r"must lie in \(0, 1\]"),
        ({"budget": 1.0001}, r"must lie in \(0, 1\]"),
        ({"budget": float("nan")}, r"must lie in \(0, 1\]"),
        ({"budget": 0}, "at least 1"),
        ({"budget": True}, "must be a number"),
        ({"budget": "1%"}, "must be a number"),
        (
            {"budget": 15},
            r"15 parameters hold no unit; the smallest, blocks-0-norm1=affine, has 16",
        ),
        ({"plan": Plan(warm_up=2)}, r"Plan\.warm_up: 2 steps do not reach all units; they need 3"),
        ({"plan": Plan(warm_up=19, together=False)}, r"they need 20"),
        ({"start": ["nope"]}, "no unit 'nope'"),
        ({"start": ["blocks-0-mlp=lora-r4", "blocks-1-mlp=lora-r4"]}, "384 parameters, the budget"),
        ({"beside": ["head"]}, "no graft 'head'"),
        ({"units": []}, "there is none to choose from"),
    ],
)
def test_refusals_leave_the_model_as_it_was(options: dict[str, Any], told: str) -> None:
    model, _, score = task()
    before = picture(model)
    settings = {"units": some_units(model), "budget": 110, "plan": QUICK, **options}
    with pytest.raises(gw.GraftError, match=told):
        Search(model, settings.pop("units"), score, **settings)
    assert picture(model) == before


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"share": 1.5}, r"Plan\.share must lie in \[0\.0, 1\.0\]"),
        ({"steps": 0}, r"Plan\.steps must lie in"),
        ({"votes": 2.5}, r"Plan\.votes must be int"),
        ({"memory": float("nan")}, r"Plan\.memory must be finite"),
        ({"nope": 1}, r"Plan: unknown field 'nope'"),
    ],
)
def test_plans_are_checked(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(gw.GraftError, match=told):
        Plan.from_row(fields)
    assert Plan.from_row(QUICK.row()) == QUICK
