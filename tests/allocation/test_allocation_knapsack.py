"""The knapsack: what fits, what is best, and how far greed can be from it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import graftwork as gw
from graftwork.allocation.candidates import candidates, rank
from graftwork.allocation.knapsack import Item, greedy, solve

values = st.floats(-2, 5, allow_nan=False).map(lambda v: round(v, 3))


@st.composite
def instances(draw: Any, groups: bool = True, least: float | None = None) -> dict[str, Any]:
    """Items, a budget, what is active and locked (a set that may be on), and exclusions across groups."""
    count = draw(st.integers(1, 9))
    value = values if least is None else st.floats(least, 5, allow_nan=False)
    items = [
        Item(
            f"u{i}",
            draw(st.integers(1, 20)),
            draw(value),
            f"g{draw(st.integers(0, 4)) if groups else i}",
        )
        for i in range(count)
    ]
    pairs = (
        draw(st.lists(st.tuples(*[st.integers(0, count - 1)] * 2), max_size=3)) if groups else []
    )
    excludes: dict[str, set[str]] = {i.name: set() for i in items}
    for a, b in pairs:
        if a != b:
            excludes[f"u{a}"].add(f"u{b}")
            excludes[f"u{b}"].add(f"u{a}")
    for a in items:
        excludes[a.name] |= {b.name for b in items if b.group == a.group and b is not a}
    active: list[Item] = []
    for item in items:
        meets = any(a.group == item.group or a.name in excludes[item.name] for a in active)
        if draw(st.booleans()) and not meets:
            active.append(item)
    locked = [a for a in active if draw(st.booleans())]
    spent = sum(a.cost for a in locked)
    return {
        "items": items,
        "budget": draw(st.integers(spent, spent + 60)),
        "active": {a.name for a in active},
        "locked": {a.name for a in locked},
        "excludes": excludes,
    }


def cost(items: list[Item], names: Any) -> int:
    return sum(i.cost for i in items if i.name in names)


@given(instances(), st.floats(0, 1))
def test_the_set_fits_has_one_a_group_and_keeps_what_is_locked(
    case: dict[str, Any], hysteresis: float
) -> None:
    items = case["items"]
    got = solve(**case, hysteresis=hysteresis)
    assert cost(items, got) <= case["budget"]
    assert case["locked"] <= set(got)
    groups = [i.group for i in items if i.name in got]
    assert len(groups) == len(set(groups))
    assert not any(case["excludes"][n] & set(got) for n in got)
    for item in items:
        if item.name in got and item.name not in case["locked"]:
            assert item.worth >= -hysteresis if item.name in case["active"] else item.value > 0


@given(instances())
def test_a_budget_of_nothing_gives_the_empty_set(case: dict[str, Any]) -> None:
    case = {**case, "budget": 0, "locked": set()}
    assert solve(**case, hysteresis=1.0) == []


@given(instances())
def test_with_ample_budget_every_positive_unit_that_wins_its_group_is_in(
    case: dict[str, Any],
) -> None:
    items = case["items"]
    excludes = {i.name: {j.name for j in items if j.group == i.group and j is not i} for i in items}
    got = solve(items, 10**6, excludes=excludes)
    for item in items:
        rivals = [i for i in items if i.group == item.group and i is not item]
        if item.value > 0 and all(r.value < item.value for r in rivals):
            assert item.name in got
        if item.value <= 0 or any(r.value > item.value for r in rivals):
            assert item.name not in got


@given(instances(groups=False), st.integers(1, 60))
def test_at_least_half_of_the_optimum_where_units_are_independent(
    case: dict[str, Any], budget: int
) -> None:
    items = case["items"]
    best = max(
        sum(i.worth for i in chosen)
        for size in range(len(items) + 1)
        for chosen in itertools.combinations(items, size)
        if sum(i.cost for i in chosen) <= budget
    )
    got = solve(items, budget)
    assert sum(i.worth for i in items if i.name in got) >= best / 2 - 1e-9


@pytest.mark.parametrize("size", [10, 1000, 10**6])
def test_greed_alone_has_no_bound(size: int) -> None:
    small, large = Item("small", 1, 2.0, "a"), Item("large", size, 1.0, "b")
    assert [i.name for i in greedy([small, large], size, (), {})] == ["small"]  # 2 of `size`
    assert solve([small, large], size) == ["large"]


def test_with_groups_there_is_no_such_bound() -> None:
    """What the header says: a denser small sibling stands for its group."""
    pairs = [(Item(f"s{i}", 1, 2.0, f"g{i}"), Item(f"l{i}", 10, 1.0, f"g{i}")) for i in range(10)]
    items = [i for pair in pairs for i in pair]
    got = solve(items, 100)
    assert sum(i.worth for i in items if i.name in got) == 20
    assert (
        sum(large.worth for _, large in pairs) == 100
        and cost(items, [l.name for _, l in pairs]) == 100
    )


@given(instances(), st.data())
def test_raising_a_value_never_removes_its_unit_at_equal_costs(
    case: dict[str, Any], data: st.DataObject
) -> None:
    price = data.draw(st.integers(1, 20))
    items = [Item(i.name, price, i.value, i.group) for i in case["items"]]
    case = {**case, "budget": case["budget"] + price * len(case["locked"]), "items": items}
    before = solve(**case, hysteresis=0.5)
    assume(before)
    name = data.draw(st.sampled_from(before))
    gain = data.draw(st.floats(0, 5))
    raised = [Item(i.name, i.cost, i.value + gain, i.group) if i.name == name else i for i in items]
    assert name in solve(**{**case, "items": raised}, hysteresis=0.5)


def test_ties_go_to_the_active_one() -> None:
    a, b = Item("a", 5, 1.0, "g"), Item("b", 5, 1.0, "g")
    assert solve([a, b], 5, active=["b"]) == ["b"]
    c, d = Item("c", 5, 1.0, "g"), Item("d", 5, 1.0, "h")
    assert solve([c, d], 5, active=["d"]) == ["d"]


def test_hysteresis_is_in_units_of_utility_not_per_parameter() -> None:
    slightly, much = Item("slightly", 1000, -1e-5, "a"), Item("much", 1000, -3e-5, "b")
    got = solve([slightly, much], 5000, active=["slightly", "much"], hysteresis=0.02)
    assert got == ["slightly"]  # costs 0.01 and 0.03; both values are far above -0.02
    assert solve([slightly, much], 5000, hysteresis=0.02) == []  # who is not in does not get in


def test_a_sibling_that_was_never_audited_does_not_drive_an_active_unit_out() -> None:
    active, never = Item("active", 100, -1e-6, "g"), Item("never", 100, 0.0, "g")
    assert solve([active, never], 100, active=["active"], hysteresis=0.02) == ["active"]


def test_a_group_s_best_without_room_leaves_its_place_to_a_smaller_one() -> None:
    large, small = Item("large", 50, 2.0, "g"), Item("small", 5, 1.0, "g")
    assert solve([large, small], 10) == ["small"]


def test_locked_units_that_do_not_fit_are_refused() -> None:
    with pytest.raises(gw.GraftError, match="10 parameters do not hold the units that are locked"):
        solve([Item("a", 11, 1.0, "g")], 10, active=["a"], locked=["a"])


@given(instances(), st.integers(0, 6), st.integers(0, 6))
def test_candidates_are_legal_and_each_there_once(
    case: dict[str, Any], kept: int, swaps: int
) -> None:
    items, excludes = case["items"], case["excludes"]
    budget = max(case["budget"], cost(items, case["active"]))
    last = tuple(i.name for i in items if i.name in case["active"])
    history = [(), last[:1], last]
    found = candidates(items, history, budget, excludes, kept + 1, swaps)
    assert found[last] == "allocation"
    assert sum(o == "swap" for o in found.values()) <= swaps
    for names, origin in found.items():
        assert cost(items, names) <= budget, origin
        assert not any(set(excludes[n]) & set(names) for n in names)
        if origin == "swap":
            out, new = set(last) - set(names), set(names) - set(last)
            assert len(out) == len(new) == 1


def test_swaps_that_promise_most_come_first() -> None:
    items = [Item("a", 10, 1.0, "a"), Item("b", 10, 2.0, "b"), Item("c", 10, 9.0, "c")]
    items.append(Item("d", 11, 9.0, "d"))  # does not fit in the place of any
    found = candidates(items, [("a", "b")], 20, {}, kept=1, swaps=1)
    assert found == {("a", "b"): "allocation", ("b", "c"): "re-solve"}
    found = candidates(items, [("a", "b")], 20, {}, kept=1, swaps=2)
    assert found[("a", "c")] == "swap"


def test_the_order_of_candidates() -> None:
    items = [Item(n, c, v, n) for n, c, v in (("a", 5, 1.0), ("b", 5, 2.0), ("c", 9, 3.0))]
    history = [("a",), ("a",), ("b",)]
    rows = rank({("c",): 0.5, ("b",): 0.5, ("a",): 0.5, (): 0.4}, items, history)
    assert [r["set"] for r in rows] == [["a"], ["b"], ["c"], []]  # often chosen, then cheap
    rows = rank({("b",): 0.5, ("a",): 0.5}, items, [])
    assert [r["set"] for r in rows] == [["b"], ["a"]]  # what it promises
    assert rank({("a",): 0.1, ("c",): 0.2}, items, history)[0]["set"] == ["c"]  # the score first
