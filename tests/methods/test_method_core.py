"""CoRe's numbered invariants (of our reconstruction)."""

from __future__ import annotations

import copy
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_checks import D, blocks, check_lengths, check_places, h_of, moved
from method_by_hand_edits import gram_schmidt
from method_invariants import invariant
from torch import Tensor, nn

import graftwork as gw
from graftwork.algebra.linear import Linear

T, R = 3, 2


def core(task: int, **fields: Any) -> gw.CoRe:
    return gw.CoRe(R, tasks=T, task=task, **fields)


def basis(method: gw.CoRe, d: int = D) -> Tensor:
    zero = torch.zeros((), dtype=torch.float64)
    return method.seeded(Linear(out=d, in_=1), zero)["U"]


def projection(g: gw.Graft, site: str = "layers.0.") -> Tensor:
    """R of one block, by hand."""
    assert isinstance(g.method, gw.CoRe)
    return gram_schmidt(g.tensors()[site + "C"]) @ basis(g.method)


def trained(model: nn.Module, g: gw.Graft, steps: int = 8) -> None:
    optimizer = torch.optim.AdamW(g.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(h_of()) - 1).square().sum().backward()
        optimizer.step()


@invariant("core", 1)
@pytest.mark.parametrize("reads", ["all", "own"])
@pytest.mark.parametrize("where", ["all", "ends"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_start_is_the_base(reads: str, where: str, dtype: torch.dtype) -> None:
    base, x = blocks(dtype=dtype), h_of(dtype=dtype)
    for task in range(1, T + 1):
        model = copy.deepcopy(base)
        gw.graft(model, core(task, reads=reads, where=where))
        assert torch.equal(model(x), base(x))


@invariant("core", 2)
@pytest.mark.parametrize("reads", ["all", "own"])
def test_forward_is_lorefts_by_hand(reads: str) -> None:
    model, base, x = blocks(1), blocks(1), h_of()
    g = gw.graft(model, core(2, reads=reads))
    t = moved(g)
    r, w = projection(g), t["layers.0.W"]
    w = w @ basis(g.method) if reads == "own" else w
    h = base(x)
    want = h + (h @ w.T + t["layers.0.b"] - h @ r.T) @ r
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-12)
    with pytest.raises(gw.GraftError, match=r"core edits hidden states.*residual stream"):
        g.merge()
    cls, again = blocks(1), gw.CoRe(R, tasks=T, task=2, reads=reads, where="ends", first=1, last=0)
    gw.graft(cls, again).load_tensors(t)
    assert torch.equal(cls(x)[:, 1:], h[:, 1:])
    torch.testing.assert_close(cls(x)[:, :1], want[:, :1], rtol=0, atol=1e-12)


@invariant("core", 2)
def test_the_edited_positions() -> None:
    def ends(**fields: Any) -> gw.CoRe:
        return core(1, **{"where": "ends", **fields})

    check_places(ends)
    check_lengths(ends)


@invariant("core", 3)
@pytest.mark.parametrize("reads", ["all", "own"])
def test_projections_of_tasks_are_orthogonal_after_training(reads: str) -> None:
    model, base, x = blocks(1), blocks(1), h_of()
    grafts = []
    for task in (1, 2, 3):
        grafts.append(gw.graft(model, core(task, reads=reads), name=f"task{task}"))
        trained(model, grafts[-1])
    eye = torch.eye(R, dtype=torch.float64)
    rows = [projection(g) for g in grafts]
    for a, b in combinations(range(T), 2):
        torch.testing.assert_close(rows[a] @ rows[b].T, 0 * eye, rtol=0, atol=1e-12)
    for g, r in zip(grafts, rows, strict=True):
        torch.testing.assert_close(r @ r.T, eye, rtol=0, atol=1e-12)
        gw.activate(model, g.name)
        change = (model(x) - base(x)).detach()
        assert float(change.abs().max()) > 1e-2
        for other, q in zip(grafts, rows, strict=True):
            if other is not g:
                assert float((change @ q.T).abs().max()) < 1e-12


@invariant("core", 3)
@pytest.mark.parametrize("d", [12, 13, 30, 64])
def test_subspaces_are_disjoint_parts_of_one_orthogonal_matrix(d: int) -> None:
    parts = [basis(gw.CoRe(2, tasks=3, task=t), d) for t in (1, 2, 3)]
    joined = torch.cat(parts)
    assert joined.shape == (d // 3 * 3, d)
    assert torch.equal(joined @ joined.T, torch.eye(len(joined), dtype=torch.float64))
    again = basis(gw.CoRe(2, tasks=3, task=1, seed=1), d)
    assert not torch.equal(parts[0], again)
    assert bool((joined < 0).any()) and bool((joined > 0).any())


@invariant("core", 4)
def test_training_a_task_leaves_the_others_as_they_were() -> None:
    model, x = blocks(), h_of()
    first = gw.graft(model, core(1), name="one")
    trained(model, first)
    y, t = model(x), {k: v.clone() for k, v in first.tensors().items()}
    second = gw.graft(model, core(2), name="two")
    trained(model, second)
    assert not torch.equal(model(x), y)
    gw.activate(model, "one")
    assert torch.equal(model(x), y)
    assert all(torch.equal(v, t[k]) for k, v in first.tensors().items())


@invariant("core", 5)
@pytest.mark.parametrize("reads", ["own", "all"])
def test_edits_that_read_their_own_subspace_commute_and_add(reads: str) -> None:
    h = h_of()
    model = blocks(1)
    grafts = [gw.graft(model, core(t, reads=reads), name=f"task{t}") for t in (1, 2)]
    edits = []
    for g in grafts:
        p = {k.removeprefix("layers.0."): t for k, t in moved(g).items()}
        p["U"] = basis(g.method)
        edits.append(lambda z, g=g, p=p: z + g.method.edit(p, z))
    one, other = edits[1](edits[0](h)), edits[0](edits[1](h))
    both = h + (edits[0](h) - h) + (edits[1](h) - h)
    if reads == "all":
        assert float((one - other).abs().max()) > 1e-2
        return
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    torch.testing.assert_close(one, both, rtol=0, atol=1e-12)
    gw.activate(model, {"task1": 1.0, "task2": 1.0})
    behind = blocks(1)(h)
    torch.testing.assert_close(model(h), edits[1](edits[0](behind)), rtol=0, atol=1e-12)


@invariant("core", 6)
@pytest.mark.parametrize(("reads", "m"), [("all", D), ("own", D // T)])
def test_parameters_and_the_file(reads: str, m: int, tmp_path: Path) -> None:
    model, x = blocks(), h_of()
    g = gw.graft(model, core(3, reads=reads, seed=5))
    assert sum(p.numel() for p in g.parameters()) == 2 * (R * (D // T) + R * m + R)
    assert {n.rsplit(".", 1)[1] for n in g.tensors()} == {"C", "W", "b"}
    moved(g)
    gw.save(g, tmp_path / "task")
    fresh = blocks()
    gw.load(fresh, tmp_path / "task")
    assert torch.equal(fresh(x), model(x))
    spec = gw.inspect(tmp_path / "task")["graft"]
    assert len(spec["sites"][0]["seeded"]["sha256"]) == 64
    spec["method"]["config"]["seed"] = 6
    with pytest.raises(gw.GraftError, match="not the ones that the graft was trained with"):
        gw.graft_from_spec(blocks(), spec, tensors=g.tensors())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": 4, "tasks": 3}, r"CoRe\.task = 4 is above the number of tasks, 3"),
        ({"tied": False, "where": "ends"}, r"CoRe\.tied: a task has one edit"),
        ({"reads": "some"}, r"CoRe\.reads must be one of"),
        ({"tasks": 0}, r"CoRe\.tasks must lie in"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        gw.CoRe(**fields)


def test_more_ranks_than_dimensions_are_refused() -> None:
    gw.graft(blocks(), gw.CoRe(4, tasks=3))
    with pytest.raises(gw.GraftError, match=r"CoRe\.rank = 5 .*tasks = 3.*width .*12"):
        gw.graft(blocks(), gw.CoRe(5, tasks=3), sites=["layers.0"])
