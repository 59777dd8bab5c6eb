"""A job's own optimizer and schedule, from its config or its module, on its graft alone."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType, SimpleNamespace
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import Optimizer

from graftwork.errors import GraftError
from graftwork.handle import Graft, grafts
from graftwork.lightning.cli import AppCLI
from graftwork.lightning.optimizers import configured


class Optimizing:
    """Makes both, once, as `Task` asks for them one after the other.

    Args:
        name: of the job.
        cli: of the job.
        model: the shared backbone.
        steps: optimizer steps of the whole job, for schedules that need to know.
    """

    def __init__(self, name: str, cli: AppCLI, model: nn.Module, steps: int) -> None:
        self.name, self.cli, self.model, self.steps = name, cli, model, steps
        self._schedule: Any = None

    def optimizer(self, graft: Graft) -> Optimizer:
        """Of everything that trains in this graft.

        Raises:
            GraftError: several optimizers, or a schedule that does not go by the step.
        """
        cli, module = self.cli, self.cli.model
        if type(module).configure_optimizers is LightningModule.configure_optimizers:
            made = configured(
                cli._get(cli.config_init, "optimizer"), cli._get(cli.config_init, "lr_scheduler")
            )
            configure: Callable[[], Any] = MethodType(made, module)
        else:
            configure = module.configure_optimizers
        others = [
            p
            for name, other in grafts(self.model).items()
            if name != graft.name
            for p in other.parameters()
            if p.requires_grad
        ]
        module.__dict__["_trainer"] = SimpleNamespace(
            estimated_stepping_batches=self.steps,
            max_steps=self.steps,
            max_epochs=-1,
            callbacks=[],
            accumulate_grad_batches=1,
        )
        try:
            for p in others:
                p.requires_grad_(False)
            optimizer, self._schedule = _parted(configure(), self.name)
        finally:
            module.__dict__["_trainer"] = None
            for p in others:
                p.requires_grad_(True)
        return optimizer

    def schedule(self, optimizer: Optimizer) -> Any:
        """The schedule that came with it."""
        return self._schedule if self._schedule is not None else _Still()


class _Still:
    """No schedule."""

    def step(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def _parted(made: Any, name: str) -> tuple[Optimizer, Any]:
    """Lightning's forms of an answer as (optimizer, schedule or None)."""
    schedules: Any = []
    if isinstance(made, dict):
        schedules = [made["lr_scheduler"]] if "lr_scheduler" in made else []
        made = made["optimizer"]
    elif isinstance(made, tuple | list) and len(made) == 2 and isinstance(made[0], list | tuple):
        made, schedules = made
    if isinstance(made, list | tuple) and len(made) == 1:
        made = made[0]
    if not isinstance(made, Optimizer):
        raise GraftError(
            f"job {name!r}: its configure_optimizers returns no single optimizer; a shared run steps one for each job"
        )
    if not schedules:
        return made, None
    if len(schedules) > 1:
        raise GraftError(f"job {name!r}: several schedules; a shared run steps one for each job")
    (one,) = schedules
    if not isinstance(one, dict):
        one = {"scheduler": one}
    interval, every = one.get("interval", "epoch"), one.get("frequency", 1)
    if interval != "step" or every != 1:
        raise GraftError(
            f"job {name!r}: its schedule goes by the {interval}, every {every}; a shared run steps it with the "
            'optimizer: give interval "step" and frequency 1'
        )
    return made, one["scheduler"]
