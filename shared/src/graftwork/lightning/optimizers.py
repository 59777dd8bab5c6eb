"""The optimizer and the schedule that a config names, as a module's `configure_optimizers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule

from graftwork.optim.pairs import Trained
from graftwork.optim.rates import check_schedule, set_rates


def configured(
    optimizer_for: Callable[..., Any], schedule_for: Callable[..., Any] | None
) -> Callable[[LightningModule], Any]:
    """A `configure_optimizers`: everything that trains, at the rates that methods ask for, the schedule by the step."""

    def configure_optimizers(module: LightningModule) -> Any:
        optimizer = optimizer_for(Trained(module))
        set_rates(optimizer, module)
        if schedule_for is None:
            return optimizer
        before = [group["lr"] for group in optimizer.param_groups]
        schedule = schedule_for(optimizer)
        check_schedule(optimizer, before)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    return configure_optimizers
