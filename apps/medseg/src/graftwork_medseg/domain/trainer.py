"""The one training loop of the shipped base checkpoints: a budget, averaged weights, exact resume.

A run is a pure function of its batches, and batch number n of n alone: so a run that was stopped, by
Ctrl-C or by a lost machine, goes on from its checkpoint as if nothing had happened (bit for bit on one
device when the budget is a number of steps; a budget of time depends on the clock).
"""

from __future__ import annotations

import copy
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import GraftError

from ..files import publish

SAVE_EVERY = 60.0  # seconds between two checkpoints
SAY_EVERY = 10.0  # seconds between two lines
SYNC_EVERY = 10  # steps between two waits for the device: the clock must not run ahead of the work


@dataclass(frozen=True)
class Mode:
    """How the device computes: memory layout, and whether only deterministic kernels are used."""

    channels_last: bool = True
    deterministic: bool = True

    def apply(self, model: nn.Module, device: str) -> nn.Module:
        """Set torch's switches and move the model."""
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(self.deterministic, warn_only=True)
        torch.backends.cudnn.benchmark = not self.deterministic
        torch.backends.cudnn.deterministic = self.deterministic
        torch.backends.cudnn.allow_tf32 = True
        layout = torch.channels_last_3d if self.channels_last else torch.contiguous_format
        return model.to(device, memory_format=layout).train()


@dataclass(frozen=True)
class Budget:
    """How long to train: `steps`, or `seconds` of wall time. Raises GraftError unless one is positive."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.steps, self.seconds) if v is not None]
        if len(given) != 1 or not 0 < given[0] < math.inf:
            raise GraftError(
                f"train for a positive number of steps or of minutes, one of the two; not for steps "
                f"{self.steps}, seconds {self.seconds}"
            )

    def done(self, steps: int, seconds: float) -> float:
        """The share that is used up, 0 to 1."""
        share = steps / self.steps if self.steps else seconds / (self.seconds or 1)
        return min(1.0, share)


@dataclass(frozen=True)
class Cosine:
    """Rate of each parameter group over a budget: a linear warm-up in steps, then half a cosine to 0."""

    optimizer: torch.optim.Optimizer
    warmup: int = 200

    def __post_init__(self) -> None:
        for group in self.optimizer.param_groups:
            group.setdefault("peak", group["lr"])

    def __call__(self, step: int, done: float) -> None:
        """Set the rates for the step after `step` steps, with the share `done` of the budget used up."""
        factor = min(1.0, (step + 1) / self.warmup) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor


class Average:
    """An exponential moving average of a network's weights, kept as a network.

    torch's AveragedModel does the same and waits for the device in every step to read its counter.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, current: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        # The first steps weigh less: an average of few steps must not remember the random start.
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.model.parameters()), [p.detach() for p in current.parameters()], 1 - keep
        )
        for mine, theirs in zip(self.model.buffers(), current.buffers(), strict=True):
            mine.copy_(theirs)


class Run:
    """A training run: model, optimizer, steps and seconds so far, and the average of the weights.

    Args:
        model: on its device, in training mode.
        optimizer: over its parameters.
        budget: how long.
        average: decay of the exponential moving average of the weights; 0 keeps none.
        seconds: wall time already used up, such as for reading data.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        budget: Budget,
        *,
        average: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        self.model, self.optimizer, self.budget = model, optimizer, budget
        self.step, self.seconds = 0, seconds
        self.curve: list[tuple[int, float]] = []  # (steps, loss) at each wait for the device
        self.average = Average(model, average) if average else None

    def steps(
        self,
        draw: Callable[[int], Any],
        loss_of: Callable[[nn.Module, Any], Tensor],
        schedule: Callable[[int, float], None],
    ) -> Iterator[Tensor]:
        """Train until the budget is spent; yields the loss of each step, not waited for.

        `draw(n)` makes batch n; `loss_of(model, batch)` its loss (bfloat16 autocast on a GPU);
        `schedule(steps, share done)` is called after each step.
        """
        device = next(self.model.parameters()).device.type
        begun = time.perf_counter() - self.seconds
        while self.budget.done(self.step, self.seconds) < 1:
            batch = draw(self.step)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = loss_of(self.model, batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.step += 1
            if self.average is not None:
                self.average.update(self.model, self.step)
            self.seconds = time.perf_counter() - begun
            schedule(self.step, self.budget.done(self.step, self.seconds))
            yield loss.detach()

    def result(self) -> nn.Module:
        """The trained network: the averaged weights if an average was kept."""
        return self.model if self.average is None else self.average.model

    def save(self, path: str | Path, settings: dict[str, Any]) -> None:
        """Write a checkpoint, atomically; `settings` must be equal when it is read again."""
        state = {
            "settings": settings,
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
        }
        with publish(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: str | Path, settings: dict[str, Any]) -> None:
        """Go on from a checkpoint of `save`.

        Raises GraftError when the file is missing or damaged, or was written with other settings.
        """
        path = Path(path)
        if not path.is_file():
            raise GraftError(f"{path}: no checkpoint to resume from; leave out --resume")
        device = next(self.model.parameters()).device
        try:
            state = torch.load(path, map_location=device, weights_only=True)
            found = state["settings"]
        except Exception as error:
            raise GraftError(f"{path}: not a readable checkpoint: {error}") from error
        differ = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
        if differ:
            was = ", ".join(f"{k} {found.get(k)} (now {settings.get(k)})" for k in differ)
            raise GraftError(
                f"{path}: was trained with {was}; give the same, or leave out --resume"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
        self.step = state["step"]
        self.seconds += state["seconds"]
        self.curve = [(int(a), float(b)) for a, b in state["curve"]]


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets instead of raising; the second one raises as usual."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(_number: int, _frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def fit(
    run: Run,
    draw: Callable[[int], Any],
    loss_of: Callable[[nn.Module, Any], Tensor],
    schedule: Callable[[int, float], None],
    *,
    checkpoint: str | Path,
    settings: dict[str, Any],
    say: Callable[[str], None],
) -> bool:
    """Train `run` to the end of its budget, with progress lines and a checkpoint every minute.

    Returns False when Ctrl-C stopped it: the checkpoint is written then, and `Run.load` goes on from it.
    Raises GraftError when the loss is no longer finite.
    """
    said = saved = time.perf_counter()
    first, start = run.step, run.seconds
    with interruptible() as asked:
        for loss in run.steps(draw, loss_of, schedule):
            now = time.perf_counter()
            if run.step % SYNC_EVERY == 0 or asked.is_set() or run.step == first + 1:
                value = float(loss)
                if not math.isfinite(value):
                    raise GraftError(f"the loss is {value} at step {run.step}: lower the rate")
                run.curve.append((run.step, value))
            if now - said >= SAY_EVERY:
                said = now
                recent = [v for _, v in run.curve[-10:]]
                each = (run.seconds - start) / (run.step - first)
                share = run.budget.done(run.step, run.seconds)
                left = (
                    run.budget.seconds - run.seconds
                    if run.budget.seconds
                    else each * ((run.budget.steps or 0) - run.step)
                )
                say(
                    f"step {run.step}, {100 * share:.0f} %, loss {sum(recent) / len(recent):.4f}, "
                    f"{1000 * each:.0f} ms a step, {left:.0f} s left"
                )
            if asked.is_set() or now - saved >= SAVE_EVERY:
                saved = now
                run.save(checkpoint, settings)
            if asked.is_set():
                return False
    return True
