"""Tenants in two processes over gloo: `python -m tests.tenants.two_ranks FOLDER [CASE ...]`.

The mother imports everything once and forks two workers, which form a process group and go through all cases. What
each finds is written to FOLDER/<number>.json. The comparison is with one runner in one process on the same batches.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.tenants import Runner, Task
from tests.tenants.ranks_kit import COUNT, forked, single
from tests.tenants.tenants_kit import METHODS, Groups, Net, adamw, bits, decay, mse, net, task

#: without what is drawn at random, which in two processes are other numbers
EXACT = ("lora", "ia3", "bitfit", "adapter", "norms", "rslora")


def weights(runner: Runner, name: str) -> list[Tensor]:
    return [p.detach().clone() for p in runner.tenants[name].parameters]


def apart(a: Runner, b: Runner, names: Any) -> float:
    """The largest relative distance of the tasks' weights and of their curves."""
    found = []
    for n in names:
        pairs = [*zip(weights(a, n), weights(b, n), strict=True)]
        found += [float((x - y).norm() / y.norm().clamp_min(1e-12)) for x, y in pairs]
        curves = [torch.tensor([v for _, v in r.tenants[n].curve]) for r in (a, b)]
        found.append(float((curves[0] - curves[1]).abs().max() / curves[1].abs().max()))
    return max(found)


def same(value: Any) -> bool:
    """Whether all processes have it, bit by bit."""
    found: list[Any] = [None] * COUNT
    dist.all_gather_object(found, bits(value))
    return found[0] == found[1]


def equal(folder: Path) -> dict[str, Any]:
    """Tasks of one to three rows, with clipping, schedules and accumulation, as in one process."""
    plan = Groups((EXACT[:2], EXACT[2:]))

    def trained() -> Runner:
        runner = Runner(net(), [task(n, steps=20) for n in EXACT], plan=plan)
        assert runner.run()
        return runner

    one, two = single(trained), trained()
    again = trained()
    return {
        "apart": apart(two, one, EXACT),
        "rows": [two.tenants[n].rows == one.tenants[n].rows for n in EXACT],
        "same": same([weights(two, n) for n in EXACT]),
        "again": all(bits(weights(two, n)) == bits(weights(again, n)) for n in EXACT),
    }


class Cycle(Groups):
    """A plan in which the first group has two turns a round."""

    def cycle(self) -> Iterator[tuple[str, ...]]:
        first, second = self.groups
        yield from (first, second, first)


def turns(folder: Path) -> dict[str, Any]:
    """Turns of unequal number, and a plan that goes by what each process measures."""
    names = ("lora", "ia3", "rslora")

    def plan(tenants: Any) -> Groups:
        running = [t.name for t in tenants]
        if len(running) < 3:
            return Groups((tuple(running),))
        order = running if dist.get_rank() == 0 else running[::-1]
        return Cycle((tuple(order[:1]), tuple(order[1:])))

    def trained() -> Runner:
        # by the number of turns it is the first process's plan that holds
        runner = Runner(net(), [task(n, steps=6, accumulate=1) for n in names], plan=plan)
        runner.run(rounds=2)
        found = [t.step for t in runner.tenants.values()]
        assert runner.run()
        return runner if found == [4, 2, 2] else Runner(net())

    two = trained()

    def alone(name: str) -> Runner:
        runner = Runner(net(), [task(name, steps=6, accumulate=1)])
        assert runner.run()
        return runner

    return {
        "apart": max(apart(two, single(lambda n=n: alone(n)), (n,)) for n in names),
        "same": same([weights(two, n) for n in names]),
    }


def _masked(output: Tensor, target: Tensor) -> Tensor:
    """A mean over the entries that count; a row may have none."""
    good = target.isfinite()
    return (output[good] - target[good]).square().mean()


def _counted(seed: int) -> list[Any]:
    draw = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(5):
        x = torch.randn(4, 3, 6, generator=draw, dtype=torch.float64)
        y = torch.randn(4, 3, 4, generator=draw, dtype=torch.float64)
        drop = torch.rand(4, 3, 4, generator=draw) < 0.6
        y[drop] = torch.nan
        y[1::2] = torch.nan if seed else y[1::2]  # nothing counts in one process's rows
        out.append((x, y))
    return out


def weighted(folder: Path) -> dict[str, Any]:
    """Losses that are means over other numbers of entries in each process."""
    counted = {"weight": lambda target: float(target.isfinite().sum())}

    def trained(**more: Any) -> Runner:
        tasks = [
            Task(
                f"t{i}", _counted(i), _masked, gw.LoRA(2), optimizer=adamw, seed=i, steps=10, **more
            )
            for i in range(2)
        ]
        runner = Runner(net(), tasks)
        assert runner.run()
        return runner

    one = single(trained)
    return {
        "apart": apart(trained(**counted), one, ("t0", "t1")),
        "by rows": apart(trained(), one, ("t0",)),
    }


class Broken:
    """Data of a process's own that fail or end at some batch in one process alone."""

    def __init__(self, rank: int, at: int, kind: str) -> None:
        self.rank, self.at, self.kind = rank, at, kind

    def __iter__(self) -> Iterator[Any]:
        draw = torch.Generator().manual_seed(dist.get_rank())
        for n in range(100):
            if dist.get_rank() == self.rank and n == self.at:
                if self.kind == "ends":
                    return
                raise OSError("the file is broken")
            x = torch.randn(1, 3, 6, generator=draw, dtype=torch.float64)
            yield x, x[..., :4]


class Breaks(torch.optim.SGD):
    """An optimizer that fails in one process alone."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        if dist.get_rank() == 1:
            raise torch.OutOfMemoryError("no room for a moment")
        return super().step(closure)


def _bad(kind: str, rank: int) -> Task:
    calls = {"n": 0}

    def loss(output: Tensor, target: Tensor) -> Tensor:
        calls["n"] += 1
        if dist.get_rank() == rank and calls["n"] == 3:
            if kind == "nan":
                return mse(output, target) * torch.nan
            if kind == "memory":
                raise torch.OutOfMemoryError("out of memory")
            if kind == "error":
                raise ValueError("bad label")
        return mse(output, target)

    more: dict[str, Any] = {"loss": loss, "accumulate": 1, "steps": 5}
    if kind in ("data", "ends"):
        more |= {"data": Broken(rank, 2, kind), "own_rows": True}
    if kind == "ends":
        more["steps"] = None
    if kind == "step":
        more["optimizer"] = lambda g: Breaks(g.parameters(), 1e-2)
    return task("rslora", **more)


def faults(folder: Path) -> dict[str, Any]:
    """What fails in one process fails in both, and the others' bits are those of a run without it."""
    others = ("lora", "dropped", "ia3")
    out: dict[str, Any] = {}

    def trained(bad: Task) -> Runner:
        runner = Runner(net(), [*(task(n, steps=8) for n in others), bad])
        assert runner.run()
        return runner

    well = trained(task("rslora", accumulate=1, steps=5))
    for kind in ("nan", "memory", "error", "data", "ends", "step"):
        for rank in (0, 1):
            ill = trained(_bad(kind, rank))
            t = ill.tenants["rslora"]
            out[f"{kind} {rank}"] = {
                "bits": all(bits(weights(well, n)) == bits(weights(ill, n)) for n in others),
                "same": same([weights(ill, n) for n in (*others, "rslora")])
                or (kind == "step" and t.status == "failed"),
                "alike": same([t.status, t.step, t.failures, [v for _, v in t.curve]]),
                "status": t.status,
                "step": t.step,
                "failures": t.failures,
            }
    return out


def saved(folder: Path) -> dict[str, Any]:
    """Stopped in the midst of a step, resumed in two processes and in one."""
    names = ("lora", "dropped", "ia3", "rslora")

    def made() -> Runner:
        return Runner(net(), [task(n, steps=6, accumulate=2) for n in names])

    whole = made()
    assert whole.run()
    half = made()
    half.run(rounds=5)
    half.save(folder / "half.pt")
    dist.barrier()
    on = made()
    on.load(folder / "half.pt")
    assert on.run()

    def alone() -> Runner:
        runner = made()
        runner.load(folder / "half.pt")
        assert runner.run()
        return runner

    one = single(alone)

    def from_one() -> None:
        runner = made()
        runner.run(rounds=5)
        if dist.get_rank() == 0:
            runner.save(folder / "one.pt")

    single(from_one)
    dist.barrier()
    more = made()
    more.load(folder / "one.pt")
    assert more.run()
    exact = tuple(n for n in names if n != "dropped")
    return {
        "bits": all(bits(weights(whole, n)) == bits(weights(on, n)) for n in names),
        "in one": apart(one, whole, exact),
        "from one": apart(more, whole, exact),
        "dropout moved": apart(more, whole, ("dropped",)),
        "same": same([weights(more, n) for n in names]),
    }


def joining(folder: Path) -> dict[str, Any]:
    """A task that joins with other weights starts as in the first process; one leaves; other tasks are refused."""
    runner = Runner(net(), [task("lora"), task("ia3")])
    runner.run(rounds=2)
    late = task("rslora", seed=50 + dist.get_rank())
    runner.join(late)
    begun = same(weights(runner, "rslora"))
    runner.leave("ia3", remove=True)
    runner.run(rounds=2)

    def refusal(call: Callable[[], Any]) -> str:
        try:
            call()
        except GraftError as error:
            return str(error)
        return ""

    other = net()
    with torch.no_grad():
        other.up.bias += dist.get_rank()
    return {
        "begun": begun,
        "same": same([weights(runner, n) for n in ("lora", "rslora")]),
        "steps": [t.step for t in runner.tenants.values()],
        "name": refusal(lambda: runner.join(task("norms" if dist.get_rank() else "bitfit"))),
        "left": sorted(gw.grafts(runner.model)),
        "base": refusal(lambda: Runner(other, [])),
        "no rows": _no_rows(),
    }


def _no_rows() -> list[str]:
    data = [(torch.zeros(2, 3, 6, dtype=torch.float64), torch.tensor(1.0))]
    runner = Runner(net(), [task("lora", data=data, steps=2), task("ia3", steps=2)])
    runner.run()
    return [runner.tenants["lora"].failures[0], runner.tenants["ia3"].status]


class Parts(nn.Module):
    """A net of which a task trains a part that only some rows reach."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.more = Net(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        large = x[:, 0, 0] > 0
        return torch.where(large[:, None, None], self.more(out), out) if bool(large.any()) else out


def reached(folder: Path) -> dict[str, Any]:
    """Gradients that one process has and the other has not."""
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0, 0, 0], x[1, 0, 0] = 1.0, -1.0
    data = [(x, x[..., :4]), (-x.abs(), x[..., :4])]

    def trained() -> Runner:
        torch.manual_seed(0)
        tasks = [
            Task("a", data, mse, gw.LoRA(2), optimizer=adamw, schedule=decay, steps=6),
            Task("b", data, mse, gw.LoRA(2), optimizer=adamw, steps=6, seed=1),
        ]
        runner = Runner(Parts().double(), tasks)
        assert runner.run()
        return runner

    one, two = single(trained), trained()
    return {"apart": apart(two, one, ("a", "b")), "same": same(weights(two, "a"))}


def stop(folder: Path) -> dict[str, Any]:
    """Ctrl-C in one process ends the round in both."""
    runner = Runner(net(), [task("lora"), task("ia3")])

    def press(r: Runner) -> None:
        if r.rounds == 3 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)

    whole = runner.run(progress=press)
    return {"whole": whole, "rounds": runner.rounds, "alike": same(runner.rounds)}


CASES = (equal, turns, weighted, faults, saved, joining, reached, stop)
assert set(EXACT) <= set(METHODS)


def worker(folder: Path, rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=COUNT)
    warnings.simplefilter("ignore")
    chosen = sys.argv[2:] or [case.__name__ for case in CASES]
    found = {case.__name__: case(folder) for case in CASES if case.__name__ in chosen}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    raise SystemExit(forked(COUNT, lambda rank, port: worker(place, rank, port)))
