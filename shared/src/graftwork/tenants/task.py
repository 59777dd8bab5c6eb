"""One tenant's job: an adapter, data, a loss and an optimizer of its own, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graftwork.beside import NewRows
from graftwork.errors import GraftError
from graftwork.handle import Graft
from graftwork.methods.base import Method
from graftwork.sites import Pattern
from graftwork.tenants.source import Data, Source
from graftwork.tenants.streams import Stream


def _adamw(graft: Graft) -> torch.optim.Optimizer:
    return torch.optim.AdamW(graft.parameters(), lr=1e-4)


@dataclass(frozen=True)
class Task:
    """What one tenant asks for.

    Args:
        name: of the task and of its graft.
        data: batches, or a function that makes them from the task's own generator. A batch is a pair (inputs, target)
            or a dict whose `"labels"` are the target; every tensor's first axis is the batch's rows. It is gone
            through again when it ends, if `steps` asks for more.
        loss: of the task's rows of the model's output and the target, a scalar. It is called with this task's graft
            alone switched on, so a head that the output still has to pass may be called in it.
        method: of the graft; `None`: the model has a graft of this name already.
        sites, overrides, also_train, any_rank: as `graftwork.graft` takes them.
        optimizer: makes the optimizer from the graft.
        schedule: makes the schedule from the optimizer; it steps once a step.
        clip: largest norm of the task's own gradient; `None` leaves it as it is.
        accumulate: batches that make a step; their losses are averaged.
        steps: optimizer steps after which the task is done; `None`: when its data end. Batches that do not fill a step
            are not used.
        seed: of the graft's start, of the generator that `data` is given, and of the stream that dropout draws from.
        own_rows: where several processes train, `data` give each process rows of its own, as many batches as the
            others; without, every process draws the same batches and takes its share of their rows.
        weight: of a target: over how much its loss is a mean, such as the tokens that count, where several processes
            have parts of a batch; `None`: over its rows.

    Raises:
        GraftError: a value out of range, by its name.
    """

    name: str
    data: Data
    loss: Callable[[Tensor, Any], Tensor]
    method: Method | None = None
    sites: Iterable[Pattern] | Pattern | None = None
    overrides: Mapping[str, Mapping[str, Any] | Method] | None = None
    also_train: Iterable[str | NewRows] | str | NewRows = ()
    optimizer: Callable[[Graft], torch.optim.Optimizer] = _adamw
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None
    clip: float | None = None
    accumulate: int = 1
    steps: int | None = None
    seed: int = 0
    own_rows: bool = False
    weight: Callable[[Any], float] | None = None
    any_rank: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise GraftError(f"Task.name must be a word, not {self.name!r}")
        for word in ("accumulate", "steps"):
            value = getattr(self, word)
            optional = word == "steps" and value is None
            if not optional and (
                not isinstance(value, int) or isinstance(value, bool) or value < 1
            ):
                raise GraftError(f"Task.{word} of {self.name!r} must be 1 or more, not {value!r}")
        if self.clip is not None and not (self.clip > 0 and math.isfinite(self.clip)):
            raise GraftError(f"Task.clip of {self.name!r} must be above 0, not {self.clip!r}")
        for word in ("loss", "optimizer"):
            if not callable(getattr(self, word)):
                raise GraftError(f"Task.{word} of {self.name!r} must be a function")


@dataclass(eq=False)
class Tenant:
    """A task on a model, and how far it has come.

    Attributes:
        status: "running"; "done" (all steps taken, or its data ended); "failed" (dropped); "left" (taken off).
        step: optimizer steps taken; micro: batches of the present step that have their gradient.
        drawn: batches drawn so far; rows: rows of those that had their gradient, as they
            were joined: of a chunked batch its chunks.
        curve: (step, loss) for every step, the loss a mean over its batches.
        failures: what went wrong, one line each; `streak` of them in a row.
    """

    task: Task
    graft: Graft
    optimizer: torch.optim.Optimizer
    schedule: Any
    stream: Stream
    source: Source
    status: str = "running"
    step: int = 0
    micro: int = 0
    rows: int = 0
    streak: int = 0
    losses: list[float] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.graft.parameters() if p.requires_grad]

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def drawn(self) -> int:
        """Batches drawn so far."""
        return self.source.drawn

    def put_aside(self) -> list[Tensor | None]:
        """The gradients of the present step's earlier batches, which leave the parameters."""
        found = [p.grad for p in self.parameters]
        if any(g is not None for g in found):
            self.put_back([None] * len(found))
        return found

    def put_back(self, grads: Sequence[Tensor | None]) -> None:
        """The parameters' gradients are these."""
        for p, g in zip(self.parameters, grads, strict=True):
            p.grad = g

    def add(self, grads: Sequence[Tensor | None]) -> None:
        """Add what `put_aside` gave to the gradients that have come since."""
        pairs = [(p, g) for p, g in zip(self.parameters, grads, strict=True) if g is not None]
        both = [(g, p.grad) for p, g in pairs if p.grad is not None]
        if both:
            torch._foreach_add_([g for g, _ in both], [n for _, n in both])
        for p, g in pairs:
            p.grad = g

    def reset(self) -> None:
        """Forget the gradients of a step that is not complete."""
        for p in self.parameters:
            p.grad = None
        self.micro, self.losses = 0, []

    def fail(self, what: str) -> None:
        """Note a failure; the present step's gradients are dropped."""
        self.failures.append(f"step {self.step}: {what}")
        self.streak += 1
        self.reset()
