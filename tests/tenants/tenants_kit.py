"""What the tenants' tests share: small models, tasks, and training alone by a plain loop."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.tenants import Runner, Segments, Task, mixed
from tests.core.core_helpers import stir


class Net(nn.Module):
    """Linear layers of unequal widths around a norm; rows are sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 10)
        self.norm = nn.LayerNorm(10)
        self.mid = nn.Linear(10, 9, bias=False)
        self.down = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.tanh(self.mid(self.norm(torch.relu(self.up(x))))))
        return out


def net(seed: int = 0) -> Net:
    """A `Net` in float64, in training mode."""
    torch.manual_seed(seed)
    return Net().double().train()


def batches(rows: int, seed: int, length: int = 3) -> Callable[[torch.Generator], Iterator[Any]]:
    """Endless batches from the task's own generator; `seed` gives the task's target function."""
    turn = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).double()

    def make(generator: torch.Generator) -> Iterator[Any]:
        while True:
            x = torch.randn(rows, length, 6, generator=generator, dtype=torch.float64)
            yield x, torch.sin(x @ turn)

    return make


def finite(count: int, rows: int = 1) -> list[Any]:
    """A few batches, the same ones every time."""
    return list(itertools.islice(batches(rows, 3)(torch.Generator().manual_seed(0)), count))


def mse(output: Tensor, target: Tensor) -> Tensor:
    """The mean squared error."""
    return nn.functional.mse_loss(output, target)


def adamw(graft: gw.Graft) -> torch.optim.Optimizer:
    """AdamW at a rate that moves in a few steps."""
    return torch.optim.AdamW(graft.parameters(), lr=1e-2)


def decay(optimizer: torch.optim.Optimizer) -> Any:
    """A schedule that changes at every step."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step / 20))


#: one task of each kind of change: factors with and without dropout, a gain, channels, blocks, a branch, a copied norm
METHODS: dict[str, Any] = {
    "lora": gw.LoRA(2),
    "dropped": gw.LoRA(3, alpha=5, dropout=0.3),
    "dora": gw.DoRA(2, dropout=0.1),
    "ia3": gw.IA3(),
    "bitfit": gw.BitFit(new_biases=True),
    "diablo": gw.DiaBlo(blocks=2, dropout=0.2),
    "adapter": gw.AdaptFormer(3),
    "norms": gw.NormAffine(),
    "rslora": gw.LoRA(4, rslora=True),
}


def task(name: str, **more: Any) -> Task:
    """The task of one method, with settings that differ from task to task."""
    i = list(METHODS).index(name)
    given: dict[str, Any] = {
        "data": batches(1 + i % 3, i),
        "loss": mse,
        "method": METHODS[name],
        "optimizer": adamw,
        "schedule": decay if i % 3 else None,
        "clip": 0.3 if i % 2 else None,
        "accumulate": 1 + i % 2,
        "steps": 1000,
        "seed": 10 + i,
    }
    return Task(name, **(given | more))


def alone(t: Task, steps: int, model: nn.Module | None = None) -> tuple[gw.Graft, Any]:
    """The same task by a plain loop, with its seed as torch's own: its graft and optimizer."""
    model = net() if model is None else copy.deepcopy(model)
    assert t.method is not None and callable(t.data)
    graft = gw.graft(model, t.method, sites=t.sites, name=t.name, seed=t.seed)
    optimizer = t.optimizer(graft)
    schedule = None if t.schedule is None else t.schedule(optimizer)
    drawn = iter(t.data(torch.Generator().manual_seed(t.seed)))
    torch.manual_seed(t.seed)
    for _ in range(steps):
        for _ in range(t.accumulate):
            x, y = next(drawn)
            (t.loss(model(x), y) / t.accumulate).backward()
        if t.clip is not None:
            nn.utils.clip_grad_norm_(graft.parameters(), t.clip)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        optimizer.zero_grad()
    return graft, optimizer


def bits(value: Any) -> Any:
    """Everything in nested lists and dicts, tensors as bytes, to be compared for equality."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().reshape(-1).view(torch.uint8)
        return (value.dtype, tuple(value.shape), flat.numpy().tobytes())
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [bits(v) for v in value]
    return value


@dataclass
class Groups:
    groups: tuple[tuple[str, ...], ...]


def state(runner: Runner, name: str) -> Any:
    """A task's weights, optimizer, schedule, streams and place in the data, bit by bit."""
    found = runner.state_of(name)
    return bits({k: v for k, v in found.items() if k not in ("failures", "streak")})


def relative(a: Any, b: Any) -> float:
    pairs = [(x.detach(), y.detach()) for x, y in zip(a, b, strict=True)]
    return max(float((x - y).norm() / y.norm().clamp_min(1e-12)) for x, y in pairs)


def grafted(model: nn.Module, methods: dict[str, Any], **more: Any) -> nn.Module:
    for i, (name, method) in enumerate(methods.items()):
        stir(gw.graft(model, method, name=name, seed=i, **more), 0.2, seed=i)
    return model


def grads(model: nn.Module, name: str) -> list[Tensor | None]:
    return [p.grad for p in gw.get(model, name).parameters()]


def clear(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad = None


def compare(model: nn.Module, segments: Segments, x: Tensor, tolerance: float = 1e-11) -> None:
    """Outputs, input gradients and every task's gradients against a loop over the tasks."""
    leaf = x.clone().requires_grad_()
    clear(model)
    with mixed(model, segments):
        y = model(leaf)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    (y * weights).sum().backward()
    found = {n: [None if g is None else g.clone() for g in grads(model, n)] for n in segments.tasks}
    got, leaf.grad = leaf.grad, None
    clear(model)
    for name in segments.tasks:
        gw.activate(model, name)
        rows = segments.take(leaf, name)
        out = model(rows)
        assert torch.allclose(out, segments.take(y, name), rtol=tolerance, atol=tolerance), name
        (out * segments.take(weights, name)).sum().backward()
        for a, b in zip(found[name], grads(model, name), strict=True):
            assert (a is None) == (b is None), name
            assert a is None or b is None or torch.allclose(a, b, rtol=1e-9, atol=tolerance), name
    for name in segments.tasks:
        assert torch.allclose(
            segments.take(got, name), segments.take(leaf.grad, name), rtol=1e-9, atol=tolerance
        )
