"""Microbatches: no sample lost or run twice, never two global batches of an adapter in one, the distance kept."""

from __future__ import annotations

import copy
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork.tenants.schedule import Microbatch, Sample, check, microbatches

cases = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.lists(st.integers(1, 64), max_size=20), st.integers(1, 5)),
    min_size=1,
)


@given(
    case=cases,
    capacity=st.integers(64, 300),
    distance=st.integers(1, 4),
    multiple=st.sampled_from([1, 8, 64]),
)
def test_the_rules_hold(
    case: dict[str, tuple[list[int], int]], capacity: int, distance: int, multiple: int
) -> None:
    lengths = {t: n for t, (n, _) in case.items()}
    sizes = {t: b for t, (_, b) in case.items()}
    order = microbatches(lengths, sizes, capacity, distance=distance, multiple=multiple)
    check(order, lengths, sizes, distance=distance)

    seen = [(s.task, s.index) for m in order for s in m.samples]
    whole = [(t, i) for t in lengths for i in range(len(lengths[t]) // sizes[t] * sizes[t])]
    assert sorted(seen) == sorted(whole)
    for m in order:
        assert m.tokens(multiple) <= capacity
        for task in {s.task for s in m.samples}:
            assert len({s.batch for s in m.samples if s.task == task}) == 1
    for task, size in sizes.items():
        where = [[p for p, m in enumerate(order) for s in m.samples if (s.task, s.batch) == (task, j)]
                 for j in range(len(lengths[task]) // size)]  # fmt: skip
        for before, after in itertools.pairwise(where):
            assert min(after) >= max(before) + distance
        steps = [p for p, m in enumerate(order) for t in m.steps if t == task]
        assert steps == [max(places) for places in where]  # floor(samples / global batch) steps


def test_packing_saves_passes() -> None:
    lengths = {t: [10] * 8 for t in "abcd"}
    order = microbatches(lengths, dict.fromkeys(lengths, 2), 80)
    assert len(order) == 4  # 4 tasks x 2 samples x 10 tokens in each
    assert all(m.tokens() == 80 for m in order)


def test_the_check_sees_each_fault() -> None:
    lengths, sizes = {"a": [1, 1, 1, 1], "b": [1, 1]}, {"a": 2, "b": 2}
    good = microbatches(lengths, sizes, 100)
    check(good, lengths, sizes)

    def spoilt(change: object, match: str, **more: int) -> None:
        order = copy.deepcopy(good)
        change(order)  # type: ignore[operator]
        with pytest.raises(GraftError, match=match):
            check(order, lengths, sizes, **more)

    def merge(order: list[Microbatch]) -> None:
        order[0].samples += order.pop(1).samples

    spoilt(merge, "two global batches of 'a'")
    spoilt(lambda o: o[0].samples.pop(), "lost|out of order|before its global batch")
    spoilt(lambda o: o[1].samples.append(Sample("a", 1, 3, 1)), "too many")
    spoilt(lambda o: o.reverse(), "out of order")
    spoilt(lambda o: o[1].steps.append("b"), "before its global batch is done")
    spoilt(lambda o: None, "too early", distance=2)


def test_what_is_refused() -> None:
    with pytest.raises(GraftError, match=r"capacity: 10 tokens do not hold a sample of 11"):
        microbatches({"a": [11]}, {"a": 1}, 10)
    with pytest.raises(GraftError, match=r"capacity: 10 tokens"):
        microbatches({"a": [9]}, {"a": 1}, 10, multiple=16)
    with pytest.raises(GraftError, match="batch_sizes: 'a' has lengths or"):
        microbatches({"a": [1]}, {"b": 1}, 10)
    with pytest.raises(GraftError, match="batch_sizes: 'a' has 0"):
        microbatches({"a": [1]}, {"a": 0}, 10)
    for name in ("capacity", "distance", "multiple"):
        with pytest.raises(GraftError, match=name):
            microbatches({"a": [1]}, {"a": 1}, **{"capacity": 10, name: 0})
