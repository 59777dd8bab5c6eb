"""What happens to one task leaves the others' bits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.tenants import Runner
from tests.tenants.tenants_kit import (
    Groups,
    alone,
    batches,
    bits,
    mse,
    net,
    relative,
    state,
    task,
)


def after(
    turn: int, then: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss that becomes another one at some call."""
    calls = itertools.count()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return then(output, target) if next(calls) == turn else mse(output, target)

    return loss


def explode(error: Exception) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        mse(output, target).backward()  # something has been done before it fails
        raise error

    return loss


def poisoned(output: Tensor, target: Tensor) -> Tensor:
    return mse(output, target) * torch.nan


def steep(output: Tensor, target: Tensor) -> Tensor:
    """Finite, with a gradient that is not."""
    return mse(output, target) + (output - output).abs().sqrt().sum()


FAULTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "NaN": (poisoned, "running"),
    "gradient": (steep, "running"),
    "memory": (explode(torch.OutOfMemoryError("out of memory")), "running"),
    "error": (explode(ValueError("bad label")), "failed"),
    "no scalar": (lambda output, target: output, "failed"),
}
OTHERS = ("lora", "dropped", "ia3", "norms", "adapter")


@pytest.mark.parametrize("kind", FAULTS)
def test_a_loss_that_fails_leaves_the_others_bits(kind: str) -> None:
    """Compared with a run in which that same batch went well, up to the end of the round."""
    broken, status = FAULTS[kind]
    runs = []
    for loss in (mse, after(4, broken)):
        bad = task("rslora", loss=loss, accumulate=1)
        runner = Runner(net(), [*(task(n) for n in OTHERS), bad])
        runner.run(rounds=5)
        runs.append(runner)
    well, ill = runs
    for name in OTHERS:
        assert state(well, name) == state(ill, name), name
    bad = ill.tenants["rslora"]
    assert bad.status == status and len(bad.failures) == 1 and bad.step == 4
    # its own weights are those before the failure
    graft, _ = alone(task("rslora", accumulate=1), 4)
    assert relative(bad.graft.parameters(), graft.parameters()) < 1e-10
    ill.run(rounds=3)
    assert bad.step == (7 if status == "running" else 4)


@pytest.mark.parametrize("kind", ["NaN", "gradient"])
def test_a_fused_step_that_must_not_be_taken_skips_itself(kind: str) -> None:
    """Such a step is issued before its loss is known; weights and moments stay what they were."""

    def fused(graft: gw.Graft) -> torch.optim.Optimizer:
        return torch.optim.AdamW(graft.parameters(), lr=1e-2, fused=True)

    def made(loss: Any) -> Runner:
        bad = task("rslora", loss=loss, accumulate=1, optimizer=fused, clip=0.1)
        return Runner(net(), [task("lora", optimizer=fused), bad])

    well, ill = made(mse), made(after(4, FAULTS[kind][0]))
    well.run(rounds=4)
    ill.run(rounds=4)
    before = bits(ill.state_of("rslora"))
    assert before == bits(well.state_of("rslora"))
    ill.run(rounds=1)
    now = bits(ill.state_of("rslora"))
    for part in ("tensors", "optimizer", "schedule", "step", "micro", "curve"):
        assert now[part] == before[part], part
    well.run(rounds=1)
    assert state(well, "lora") == state(ill, "lora")
    ill.run(rounds=2)
    assert ill.tenants["rslora"].step == 6 and not hasattr(
        ill.tenants["rslora"].optimizer, "found_inf"
    )


@pytest.mark.parametrize("groups", [None, "each alone"])
@pytest.mark.parametrize("kind", [*FAULTS, "data", "leave", "remove", "optimizer", "rate 0"])
def test_the_others_bits_are_those_of_a_run_without_it(kind: str, groups: str | None) -> None:
    """Each hybrid task of one: bit for bit. In a shared pass the products have other shapes: to rounding."""
    names = [*OTHERS, "rslora"]

    def plan(running: list[Any]) -> Groups:
        here = tuple(t.name for t in running)
        return Groups(tuple((n,) for n in here) if groups else (here,))

    def ends(rows: int) -> Callable[[torch.Generator], Iterator[Any]]:
        def make(generator: torch.Generator) -> Iterator[Any]:
            yield from itertools.islice(batches(rows, 8)(generator), 3)
            raise OSError("a bad file")

        return make

    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise RuntimeError("no step")

    bad = task("rslora", accumulate=1)
    if kind in FAULTS:
        bad = replace(bad, loss=after(3, FAULTS[kind][0]))
    elif kind == "data":
        bad = replace(bad, data=ends(2))
    elif kind == "optimizer":
        bad = replace(bad, optimizer=lambda g: Broken(g.parameters()), schedule=None)
    elif kind == "rate 0":
        bad = replace(
            bad, optimizer=lambda g: torch.optim.SGD(g.parameters(), lr=0.0), schedule=None
        )
    without = Runner(net(), [task(n) for n in OTHERS], plan=plan)
    without.run(rounds=8)
    beside = Runner(net(), [*(task(n) for n in OTHERS), bad], plan=plan)
    beside.run(rounds=3)
    if kind in ("leave", "remove"):
        beside.leave("rslora", remove=kind == "remove")
    beside.run(rounds=5)
    assert len(names) == 6 and all(t.step >= 4 for t in beside.running if t.name in OTHERS)
    for name in OTHERS:
        if groups:
            assert state(beside, name) == state(without, name), name
        pair = [r.tenants[name].graft.parameters() for r in (beside, without)]
        assert relative(*pair) < 1e-10, name
    assert ("rslora" in gw.grafts(beside.model)) == (kind != "remove")


def test_an_error_in_the_shared_pass_is_found_by_running_its_tasks_one_by_one() -> None:
    """A batch that the model itself cannot take, and memory that runs out with all rows together."""

    def body(model: nn.Module, x: Tensor) -> Tensor:
        if x.shape[0] > 4:
            raise torch.OutOfMemoryError("no room for so many rows")
        if bool((x == 99).any()):
            raise IndexError("no such token")
        out: Tensor = model(x)
        return out

    def broken(generator: torch.Generator) -> Iterator[Any]:
        for i, (x, y) in enumerate(batches(2, 8)(generator)):
            yield (torch.full_like(x, 99) if i == 3 else x), y

    tasks = [task("lora"), task("dropped"), task("dora", accumulate=2), task("rslora", data=broken)]
    runner = Runner(net(), tasks, body=body, check=False)
    with pytest.warns(UserWarning, match="run one by one"):
        runner.run(rounds=6)
    assert runner.tenants["rslora"].status == "failed"
    assert "no such token" in runner.tenants["rslora"].failures[0]
    for t in tasks[:3]:
        graft, _ = alone(t, 6 // t.accumulate)
        assert relative(runner.tenants[t.name].graft.parameters(), graft.parameters()) < 1e-10


def test_a_task_is_dropped_after_failures_in_a_row() -> None:
    runner = Runner(net(), [task("lora"), task("ia3", loss=poisoned)], patience=3)
    runner.run(rounds=5)
    bad = runner.tenants["ia3"]
    assert bad.status == "failed" and len(bad.failures) == 4 and bad.step == 0
    assert runner.tenants["lora"].step == 5
    assert [row["status"] for row in runner.table()] == ["running", "failed"]
