"""Rows, runs and tiles by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.tenants.segments import Run, Segments
from graftwork.tenants.tiles import Tiles


def test_runs_of_a_batch() -> None:
    segments = Segments.per_row(["a", "a", "", "b", "a"])
    assert segments.names == ("a", "", "b", "a") and segments.sizes == (2, 1, 1, 1)
    assert segments.tasks == ("a", "b") and segments.rows == 5
    assert segments.runs_of("a") == (Run("a", 0, 2), Run("a", 4, 5))
    assert segments.alone("a") == Segments(("a",), (3,))
    t = torch.arange(10).view(5, 2)
    assert segments.take(t, "a").tolist() == [[0, 1], [2, 3], [8, 9]]
    assert segments.take(torch.arange(10), "b").tolist() == [6, 7]  # two vectors a row
    assert segments.take(t.view(1, 5, 2), "b").tolist() == [[6, 7]]  # packed
    assert segments.take(t, "nobody here").shape == (0, 2)
    joined = Segments(("a", "b", "a", "a"), (1, 0, 2, 3))
    assert joined.runs == (Run("a", 0, 6),) and joined.tasks == ("a",)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 300)), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_every_vector_lies_in_one_tile_of_its_own_task(
    cases: list[tuple[int, int]], each: int
) -> None:
    segments = Segments(tuple(f"t{i}" for i, _ in cases), tuple(n for _, n in cases))
    members = ("t2", "t0", "t1")  # t3 takes no part
    tiles = Tiles(segments.runs, each, members)
    count = segments.rows * each
    whose = torch.full((count,), 3)
    for run in segments.runs:
        if run.name in members:
            whose[run.start * each : run.stop * each] = members.index(run.name)
    if tiles.index is not None and tiles.owner.numel() == 0:
        assert bool((whose == 3).all())
        return
    places = torch.arange(count) if tiles.index is None else tiles.index
    real = torch.ones(len(places), dtype=torch.bool) if tiles.real is None else tiles.real
    by_tile = places.view(-1, tiles.size)
    assert bool((whose[by_tile] == tiles.owner[:, None]).all())  # fillers too are the task's own
    counted = places[real]
    assert counted.unique().numel() == counted.numel()
    missing = torch.ones(count, dtype=torch.bool)
    missing[counted] = False
    assert bool((whose[missing] == 3).all())
    assert len(places) <= count + tiles.size * len(segments.runs)


def test_equal_runs_are_views_and_one_tile_each() -> None:
    runs = Segments(("a", "b", "c"), (2, 2, 2)).runs
    tiles = Tiles(runs, 512, ("a", "b", "c"))
    assert tiles.size == 1024 and tiles.index is None and tiles.one_each
    turned = Tiles(runs, 512, ("c", "b", "a"))
    assert turned.index is None and not turned.one_each and turned.owner.tolist() == [2, 1, 0]
    uneven = Tiles(Segments(("a", "b"), (1, 3)).runs, 512, ("a", "b"))
    assert uneven.size == 512 and uneven.owner.tolist() == [0, 1, 1, 1]
    odd = Tiles(Segments(("a", "b"), (101, 67)).runs, 1, ("a", "b"))
    assert odd.index is not None and odd.real is not None and int(odd.real.sum()) == 168


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 300)), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_each_member_gets_the_sum_of_its_own_tiles(cases: list[tuple[int, int]], each: int) -> None:
    """Whatever stands in the others' tiles, not a number included."""
    segments = Segments(tuple(f"t{i}" for i, _ in cases), tuple(n for _, n in cases))
    members = tuple(n for n in ("t2", "t0", "t1") if n in segments.tasks)
    if not members:
        return
    tiles = Tiles(segments.runs, each, members)
    parts = torch.randn(len(tiles.owner), 2, 3, dtype=torch.float64)
    for i in range(len(members)):
        broken = parts.clone()
        broken[tiles.owner != i] = torch.nan
        found = tiles.total(broken)
        assert found.shape == (len(members), 2, 3)
        assert torch.allclose(found[i], parts[tiles.owner == i].sum(0))


def test_uneven_tiles_are_added_up_one_by_one() -> None:
    tiles = Tiles(Segments(("a", "b", "c"), (900, 30, 60)).runs, 1, ("a", "b", "c"))
    assert not tiles.one_each and len(tiles.owner) > 2 * 3
    parts = torch.ones(len(tiles.owner), 1)
    assert tiles.total(parts).flatten().tolist() == tiles.owner.bincount().tolist()
