"""Running means and metrics of a half-finished epoch, so that its mean after a resume is that of the whole epoch.

Lightning keeps what `self.log(..., on_epoch=True)` accumulates in memory only. Its collection is private;
this file is the one place that knows it.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torchmetrics import Metric


def collect(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What has been accumulated in this training epoch: logged sums by key, metric states by module name."""
    logged = {
        key: {"value": item.value.clone(), "weight": getattr(item, "cumulated_batch_size", None)}
        for key, item in trainer.fit_loop.epoch_loop._results.items()
        if item.is_tensor and item.meta.on_epoch and not item.has_reset
    }
    return {"logged": logged, "metrics": {name: _states(m) for name, m in _metrics(module)}}


def restore_metrics(saved: dict[str, Any], module: LightningModule) -> None:
    """Put back the states of the module's torchmetrics."""
    for name, metric in _metrics(module):
        item = saved["metrics"].get(name)
        if item is not None:
            for state, value in item["states"].items():
                setattr(metric, state, value)
            metric._update_count = item["updates"]
            metric.to(module.device)


def add_logged(saved: dict[str, Any], trainer: Trainer) -> None:
    """Add the saved sums to those that have begun again; what was added leaves `saved`.

    A key comes into being when it is logged for the first time, so this runs after each batch until
    nothing is left. Adding the old sum to one new term is the same float as adding the term to the sum.
    """
    results = trainer.fit_loop.epoch_loop._results
    for key in [k for k in saved["logged"] if k in results and not results[k].has_reset]:
        item, old = results[key], saved["logged"].pop(key)
        before = old["value"].to(item.value.device)
        if item.meta.is_max_reduction or item.meta.is_min_reduction:
            item.value = item.meta.reduce_fx(before, item.value)
        else:
            item.value = before + item.value
        if old["weight"] is not None:
            item.cumulated_batch_size = (
                old["weight"].to(item.value.device) + item.cumulated_batch_size
            )
        item._computed = None


def _metrics(module: LightningModule) -> list[tuple[str, Metric]]:
    return [(name, m) for name, m in module.named_modules() if isinstance(m, Metric)]


def _states(metric: Metric) -> dict[str, Any]:
    return {
        "states": {s: getattr(metric, s) for s in metric._defaults},
        "updates": metric._update_count,
    }
