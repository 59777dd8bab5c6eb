"""Which layout does a pass get? The one of least predicted seconds, as passes of each were timed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_kit import costs, every, owns, tasks, tokens

from graftwork.tenants.cost import CostModel, Own, Run, TaskLoad, fit
from graftwork.tenants.layouts import Shape, fewest_rows, shape
from graftwork.tenants.plan import Planner

#: runs that tell rows, pairs and pieces apart
SAMPLES = (
    [16], [40], [100], [300], [600], [16, 600], [30, 30, 30, 30], [50, 100, 400], [200, 300, 350, 10],
    [600, 10, 20, 30, 40, 50, 60, 70, 80, 90], [300, 300, 150, 150, 150],
)  # fmt: skip


def made_up(real: CostModel) -> list[Run]:
    """What passes would have measured if `real` were true."""
    return [
        Run(s, n, real.seconds(s, n), real.bytes(s))
        for i, lengths in enumerate(SAMPLES)
        for n in (1 + i % 3,)
        for s in (*(shape(lengths, k) for k in ("padded", "packed")), shape(lengths, "chunked", 32))
    ]


@settings(deadline=None, max_examples=10)
@given(packed=owns, chunked=owns, floor=st.sampled_from([0.0, 0.003]))
def test_a_fit_finds_what_each_layout_has_of_its_own(
    packed: Own, chunked: Own, floor: float
) -> None:
    own = {"padded": Own(), "packed": packed, "chunked": chunked}
    real = CostModel(floor, 0.002, 2e-5, 0.001, 1000, 100.0, 50.0, 2e-8, own)
    found = fit(made_up(real), real.backbone)
    assert max(map(abs, found.time_errors)) < 1e-6
    assert found.model.own.keys() == own.keys()
    for name, expected in own.items():
        got = found.model.own[name]
        assert got.per_piece == pytest.approx(expected.per_piece, rel=1e-3, abs=1e-8)
        assert got.per_pair == pytest.approx(expected.per_pair, rel=1e-3, abs=1e-12)
        assert got.row_bytes == pytest.approx(expected.row_bytes, rel=0.05, abs=0.1)  # whole bytes
    assert CostModel.from_row(json.loads(json.dumps(found.model.row()))) == found.model


@settings(deadline=None, max_examples=25)
@given(loads=tasks(), dear=st.booleans())
def test_the_planner_takes_packed_lines_unless_they_are_measured_to_cost_more(
    loads: list[TaskLoad], dear: bool
) -> None:
    per_row, longest = 2e-5, 600
    # a sequence's own operations take longer than a padded line of the longest could
    packed = Own(per_piece=2 * per_row * longest if dear else 0.0)
    real = CostModel(start=0.002, per_row=per_row, own={"padded": Own(), "packed": packed})
    runs = [r for r in made_up(real) if r.shape.layout != "chunked"]

    def shapes(group: Sequence[TaskLoad]) -> list[Shape]:
        return [shape(tokens(group), k) for k in ("padded", "packed")]

    plan = Planner(fit(runs).model, shapes=shapes, fairness=1e-9).plan(loads)
    by_name = {load.name: load for load in loads}
    for names, taken in zip(plan.groups, plan.chosen.shapes, strict=True):
        plain, tight = shapes([by_name[n] for n in names])
        if dear:
            assert taken == plain
        elif tight.rows < plain.rows:
            assert taken == tight


@given(loads=tasks(), cost=costs)
def test_where_no_layout_was_timed_the_fewest_rows_are_taken(
    loads: list[TaskLoad], cost: CostModel
) -> None:
    untimed = replace(cost, own={})
    assert untimed.least(every(loads)) == fewest_rows(every(loads))
    plan = Planner(untimed, shapes=every).plan(loads)
    only = Planner(untimed, shapes=lambda g: [fewest_rows(every(g))]).plan(loads)
    assert plan == only
    # runs of one layout say nothing of the others
    assert fit([r for r in made_up(cost) if r.shape.layout == "packed"]).model.own == {}


def test_a_layout_that_does_not_fit_or_was_not_timed_is_passed_over() -> None:
    tight, plain = Shape(10, "packed"), Shape(30, "padded")
    cost = CostModel(per_row=1.0, row_bytes=1.0, own={"padded": Own()})
    assert cost.least([plain, tight]) == plain
    assert cost.least([plain, tight], cap=29) == tight
    assert cost.least([plain, tight], state=5, cap=14) == tight  # the smallest, where none fits
