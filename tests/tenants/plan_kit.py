"""Tasks, costs and planners that are drawn, for the tests of plans."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from graftwork.tenants.cost import CostModel, Own, TaskLoad, real_rows
from graftwork.tenants.layouts import LAYOUTS, Shape, shape
from graftwork.tenants.plan import Planner

owns = st.builds(
    Own,
    per_piece=st.floats(0, 0.01),
    per_pair=st.floats(0, 1e-6),
    row_bytes=st.floats(0, 50),
)
costs = st.builds(
    CostModel,
    floor=st.floats(0, 0.05),
    start=st.floats(0, 0.01),
    per_row=st.floats(1e-6, 1e-4),
    per_task=st.floats(0, 0.01),
    backbone=st.integers(0, 10_000),
    fixed=st.floats(0, 1_000),
    row_bytes=st.floats(0.1, 100),
    per_pair=st.floats(0, 1e-7),
    own=st.dictionaries(st.sampled_from(LAYOUTS), owns),
)


def tokens(group: Sequence[TaskLoad]) -> list[int]:
    return [n for load in group for n in load.lengths]


def padded(group: Sequence[TaskLoad]) -> list[Shape]:
    return [shape(tokens(group), "padded")]


def chunks(group: Sequence[TaskLoad]) -> list[Shape]:
    return [shape(tokens(group), "chunked", 32)]


def every(group: Sequence[TaskLoad]) -> list[Shape]:
    return [*padded(group), *chunks(group), shape(tokens(group), "packed")]


@st.composite
def tasks(draw: st.DrawFn, most: int = 6) -> list[TaskLoad]:
    count = draw(st.integers(1, most))
    lengths = st.lists(st.integers(1, 600), min_size=1, max_size=4)
    return [
        TaskLoad(f"t{i}", tuple(draw(lengths)), draw(st.integers(0, 500))) for i in range(count)
    ]


@st.composite
def planners(draw: st.DrawFn, loads: list[TaskLoad]) -> Planner:
    cost, shapes = draw(costs), draw(st.sampled_from([real_rows, padded, chunks, every]))
    state = sum(load.state for load in loads)
    least = max(min(cost.bytes(s, state) for s in shapes([load])) for load in loads)
    most = max(cost.bytes(s, state) for s in shapes(loads))
    cap = draw(st.none() | st.integers(least, max(least, most) + 10))
    fairness = draw(st.sampled_from([0.1, 0.5, 0.9, 1.0]))
    return Planner(cost, cap=cap, fairness=fairness, shapes=shapes)
