"""Votes, guards, and the sampler's promise that nobody waits for ever."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from graftwork.allocation.controller import Controller
from graftwork.allocation.knapsack import Item
from graftwork.allocation.sampler import Sampler

ITEM = Item("u", 1, 1.0, "g")


def run(wishes: list[bool], **options: int) -> list[bool]:
    """The state of one unit after each allocation, starting off."""
    controller, on, out = Controller(**options), False, []
    for wish in wishes:
        wanted = ["u"] if wish or controller.locked(["u"] if on else []) else []
        on = "u" in controller.decide([ITEM], ["u"] if on else [], wanted, 1, {}).on
        out.append(on)
    return out


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(0, 4))
def test_a_switch_needs_its_votes_in_a_row_and_leaves_a_guard(
    wishes: list[bool], votes: int, guard: int
) -> None:
    states = run(wishes, votes=votes, guard=guard)
    before = [False, *states]
    switched = [i for i in range(len(states)) if before[i] != states[i]]
    for i in switched:
        wish = states[i]
        assert wishes[i - votes + 1 : i + 1] == [wish] * votes and i >= votes - 1
    for a, b in itertools.pairwise(switched):
        assert b - a > guard  # nothing for `guard` allocations after a switch


def test_wishes_shorter_than_the_votes_and_alternating_ones_never_switch() -> None:
    assert not any(run([True, True, False] * 10))
    assert not any(run([True, False] * 10))
    assert run([True] * 3) == [False, False, True]
    on = [True] * 3
    assert all(run([*on, *[True, False, False] * 10])[2:])


def test_after_a_switch_nothing_for_three_allocations_and_no_votes_either() -> None:
    states = run([True] * 3 + [False] * 8)
    assert states == [False, False, True, *[True] * 5, False, False, False]
    assert run([True] * 3 + [False] * 8, votes=1) == [
        *[True] * 4,  # up at once, then guarded
        *[False] * 4,  # down, guarded; the wish says down
        *[False] * 3,
    ]
    assert run([True, *[False] * 3, True, False], votes=1)[1:4] == [True, True, True]


@st.composite
def episodes(draw: Any) -> tuple[list[Item], int, dict[str, set[str]], list[list[str]]]:
    items = [
        Item(
            f"u{i}", draw(st.integers(1, 9)), draw(st.floats(-1, 1)), f"g{draw(st.integers(0, 3))}"
        )
        for i in range(draw(st.integers(1, 6)))
    ]
    excludes = {a.name: {b.name for b in items if b.group == a.group and b is not a} for a in items}
    budget = draw(st.integers(1, 25))
    wanted = draw(
        st.lists(st.lists(st.sampled_from([i.name for i in items])), min_size=1, max_size=20)
    )
    return items, budget, excludes, wanted


@given(episodes(), st.integers(1, 3), st.integers(0, 3))
def test_the_set_in_force_always_fits(
    case: tuple[list[Item], int, dict[str, set[str]], list[list[str]]], votes: int, guard: int
) -> None:
    """Whatever is wanted, legal or not: budget, exclusions and guards hold after each allocation."""
    items, budget, excludes, wishes = case
    controller, on = Controller(votes, guard), []
    costs = {i.name: i.cost for i in items}
    for wanted in wishes:
        locked = controller.locked(on)
        before = set(on)
        on, up, down = controller.decide(items, on, [*wanted, *locked], budget, excludes)
        assert sum(costs[n] for n in on) <= budget
        assert not any(excludes[n] & set(on) for n in on)
        assert locked <= set(on)
        assert set(on) == (before | set(up)) - set(down)


def test_a_swap_happens_at_once_and_what_does_not_fit_waits_with_its_votes() -> None:
    a, b, c = Item("a", 5, 1.0, "g"), Item("b", 5, 2.0, "g"), Item("c", 4, 3.0, "h")
    excludes = {"a": {"b"}, "b": {"a"}, "c": set()}
    controller = Controller(votes=2, guard=2)
    for _ in range(2):
        got = controller.decide([a, b, c], ["a"], ["b"], 5, excludes)
    assert got == (["b"], ["b"], ["a"])
    for _ in range(3):
        got = controller.decide([a, b, c], ["b"], ["b", "c"], 5, excludes)
        assert got.on == ["b"]
    assert controller.votes["c"] == 3
    assert controller.decide([a, b, c], ["b"], ["b", "c"], 9, excludes).on == ["b", "c"]


def test_controller_state_survives_json() -> None:
    a, b = Controller(), Controller()
    for _ in range(3):
        a.decide([ITEM], [], ["u"], 1, {})
    b.load_state_dict(json.loads(json.dumps(a.state_dict())))
    assert b.guards == {"u": 3} and b.locked(["u"]) == {"u"} == a.locked(["u"])


@given(st.integers(1, 25), st.floats(0.01, 1), st.integers(1, 6), st.floats(0, 1), st.data())
def test_nobody_waits_longer_than_the_debt_and_a_queue(
    count: int, share: float, debt: int, active_share: float, data: st.DataObject
) -> None:
    names = [f"u{i}" for i in range(count)]
    sampler = Sampler(names, share, debt, active_share, seed=data.draw(st.integers(0, 9)))
    size = sampler.size
    assert size == min(count, max(1, math.ceil(share * count)))
    last = dict.fromkeys(names, -1)
    for audit in range(4 * (debt + math.ceil(count / size)) + 2):
        active = data.draw(st.sets(st.sampled_from(names), max_size=3))
        unsure = {n: data.draw(st.floats(0, 1)) for n in sorted(active)}
        drawn = sampler.draw(active, unsure)
        assert len(drawn) == len(set(drawn)) == size
        for name in drawn:
            last[name] = audit
        assert all(audit - at <= debt + math.ceil(count / size) for at in last.values())


def test_places_of_an_audit() -> None:
    names = [f"u{i}" for i in range(50)]
    sampler = Sampler(names, share=0.4, debt=1000, seed=3)
    active = set(names[:25])
    for audit in range(8):
        probes = dict(sampler.probes)
        unsure = {n: float(i) for i, n in enumerate(names)}
        drawn = sampler.draw(active, unsure)
        on = [n for n in drawn if n in active]
        assert (len(drawn), len(on)) == (20, 18)  # 90 % of the places
        if audit >= 3:  # half of them the least probed, the rest the most uncertain
            rare = sorted(probes[n] for n in active)[:9]
            assert sorted(probes[n] for n in on)[:9] == rare
            left = [n for n in active if n in on]
            assert {"u24", "u23"} <= set(left)
    assert (
        len(Sampler(names, 0.4, 1000, seed=4).draw((), {})) == 20
    )  # nobody is on: all places free
    assert len(Sampler(names, 0.4, 1000, seed=4).draw(names, {})) == 20


def test_the_first_audits_are_random_and_a_seed_repeats_them() -> None:
    names = [f"u{i}" for i in range(40)]
    unsure = {names[0]: 1.0}
    drawn = {s: Sampler(names, 0.1, 100, seed=s).draw(names, unsure) for s in range(6)}
    assert len({tuple(d) for d in drawn.values()}) > 3
    assert drawn[2] == Sampler(names, 0.1, 100, seed=2).draw(names, unsure)


def test_overdue_units_come_oldest_first() -> None:
    sampler = Sampler(["a", "b", "c", "d"], share=0.25, debt=2)
    sampler.audit = 10
    sampler.last = {"a": 6, "b": 9, "c": 4, "d": 5}
    assert [sampler.draw((), {}) for _ in range(3)] == [["c"], ["d"], ["a"]]


def test_sampler_state_survives_json() -> None:
    a = Sampler(["a", "b", "c"], 0.4, seed=5)
    for _ in range(4):
        a.draw(["a"], {"a": 0.1})
    b = Sampler(["a", "b", "c"], 0.4, seed=5)
    b.load_state_dict(json.loads(json.dumps(a.state_dict())))
    assert [a.draw(["a"], {}) for _ in range(9)] == [b.draw(["a"], {}) for _ in range(9)]
