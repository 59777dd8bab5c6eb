"""Are tasks in one pass what they are alone, on the device at hand? Weights after steps, and bits beside a failure."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.speed.llama import LINEARS, decoder, twin
from benchmarks.tenants.training import hidden_states
from graftwork.tenants import Runner, Task
from graftwork_runs import Row

SITES = [f"*.{n}" for n in LINEARS]
#: by name, a method and how many rows a batch has
TASKS: dict[str, tuple[Any, int]] = {
    "LoRA 4": (gw.LoRA(4), 1),
    "LoRA 8, dropout 0.1": (gw.LoRA(8, alpha=16, dropout=0.1), 2),
    "rsLoRA 6": (gw.LoRA(6, rslora=True), 3),
    "DoRA 4": (gw.DoRA(4), 1),
    "IA3": (gw.IA3(), 2),
    "DiaBlo 8": (gw.DiaBlo(8), 1),
}
DTYPES = (torch.float64, torch.float32)
NOTES = [
    "isolation: the largest relative distance of a task's weights from a plain loop with that task alone, dropout on.",
    "isolation, bits: other tasks' weights and moments beside a task with a NaN loss, and beside the same without.",
]


def batches(rows: int, options: argparse.Namespace, dtype: torch.dtype) -> Any:
    """Endless batches from a task's generator."""

    def make(generator: torch.Generator) -> Iterator[Any]:
        while True:
            x = torch.randn(rows, options.tokens, options.hidden, generator=generator)
            x = x.to(options.device, dtype)
            yield x, x.flip(-1)

    return make


def loss(hidden: Tensor, target: Tensor) -> Tensor:
    """A mean squared error, in float32 or wider."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return nn.functional.mse_loss(hidden.to(wide), target.to(wide))


def task(
    name: str, options: argparse.Namespace, dtype: torch.dtype, own: Callable[..., Tensor] = loss
) -> Task:
    """One of `TASKS`."""
    method, rows = TASKS[name]
    return Task(
        name.replace(" ", "_").replace(",", "").replace(".", "_"),
        batches(rows, options, dtype),
        own,
        method,
        sites=SITES,
        optimizer=lambda g: torch.optim.AdamW(
            g.parameters(), lr=1e-3, fused=options.device == "cuda"
        ),
        clip=0.5,
        steps=10_000,
        seed=list(TASKS).index(name) + 1,
    )


def alone(model: Any, t: Task, steps: int, device: str) -> list[Tensor]:
    """The task's weights after a plain loop."""
    assert t.method is not None and callable(t.data)
    graft = gw.graft(model, t.method, sites=SITES, seed=t.seed)
    optimizer = t.optimizer(graft)
    drawn = iter(t.data(torch.Generator().manual_seed(t.seed)))
    torch.manual_seed(t.seed)
    for x, y in itertools.islice(drawn, steps):
        t.loss(hidden_states(model, x), y).backward()
        nn.utils.clip_grad_norm_(graft.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in graft.parameters()]


def figures(options: argparse.Namespace) -> list[Row]:
    """Distances and broken bits, in float64 and float32."""
    rows = []
    for dtype in DTYPES:
        base = decoder(options, dtype)
        case = f"isolation: {options.steps} steps, {str(dtype).removeprefix('torch.')}"
        runner = Runner(
            twin(base).train(), [task(n, options, dtype) for n in TASKS], body=hidden_states
        )
        runner.run(rounds=options.steps)
        for name in TASKS:
            t = task(name, options, dtype)
            found = list(runner.tenants[t.name].graft.parameters())
            solo = alone(twin(base).train(), t, options.steps, options.device)
            far = max(
                float((a.detach() - b).norm() / b.norm().clamp_min(1e-30))
                for a, b in zip(found, solo, strict=True)
            )
            rows.append(Row(case=case, variant=name, metric="relative distance", value=far))
        rows.append(
            Row(case=case, variant="bits", metric="tensors changed by a NaN", value=broken(base, options, dtype))
        )  # fmt: skip
    return rows


def broken(base: nn.Module, options: argparse.Namespace, dtype: torch.dtype) -> int:
    """How many tensors of other tasks differ between a run with and one without NaN in a task's loss."""
    last = next(iter(TASKS))

    def poisoned(hidden: Tensor, target: Tensor) -> Tensor:
        return loss(hidden, target) * torch.nan

    seen: list[list[Tensor]] = []
    for own in (loss, poisoned):
        tasks = [task(n, options, dtype) for n in TASKS if n != last]
        runner = Runner(
            twin(base).train(), [*tasks, task(last, options, dtype, own)], body=hidden_states
        )
        runner.run(rounds=2)
        found = []
        for t in tasks:
            state = runner.state_of(t.name)
            found += list(state["tensors"].values())
            for one in state["optimizer"]["state"].values():
                found += [v for v in one.values() if isinstance(v, Tensor)]
        seen.append(found)
    return sum(not torch.equal(a, b) for a, b in zip(*seen, strict=True))
