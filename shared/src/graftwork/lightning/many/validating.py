"""Every job's validation loss now and then while all train: its own data and `validation_step`, its graft alone on.

What the step logs is averaged over the batches by their `batch_size`, as Lightning does at an epoch's end. Nothing of a
job's training moves: no weight, no random stream, no place in its data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.data import extract_batch_size

from graftwork.errors import GraftError
from graftwork.handle import activate, active
from graftwork.lightning.many.built import Built, Shared
from graftwork.lightning.many.steps import hearing
from graftwork.tenants.backbone import describe
from graftwork.tenants.runner import Runner
from graftwork.tenants.streams import Stream


class Validation:
    """Measures the jobs that are due after a round.

    Args:
        shared: the backbone and the jobs.
        every: steps of a job between two validations, one at its end besides; `None`: never.
        earlier: what an earlier part of the run told of its jobs.

    Attributes:
        curves: by job and by what its step logs, (step, value).
        notes: by job, why it is not validated any more.

    Raises:
        GraftError: a job that has no validation data, by its name.
    """

    def __init__(
        self, shared: Shared, every: int | None, earlier: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.shared, self.every = shared, every
        self.curves: dict[str, dict[str, list[tuple[int, float]]]] = {
            job["name"]: {k: [(int(s), float(v)) for s, v in c] for k, c in old.items()}
            for job in earlier
            if (old := job.get("validation"))
        }
        self.notes: dict[str, str] = {}
        self._loaders: dict[str, Any] = {}
        for b in shared.jobs if every is not None else ():
            data: Any = b.cli.datamodule
            loader = data.val_dataloader()
            if not hasattr(loader, "__iter__") or not hasattr(loader, "batch_size"):
                raise GraftError(
                    f"job {b.job.name!r}: validate_every: its data have no single validation loader"
                )
            self._loaders[b.job.name] = loader

    def resumed(self, runner: Runner) -> None:
        """Forget what was measured after the state that the run goes on from."""
        for name, curves in self.curves.items():
            now = runner.tenants[name].step
            self.curves[name] = {
                k: [(s, v) for s, v in curve if s <= now] for k, curve in curves.items()
            }

    def __call__(self, runner: Runner) -> None:
        """Measure whoever has come to a validation; all processes must call this."""
        if self.every is None:
            return
        for b in self.shared.jobs:
            name = b.job.name
            t = runner.tenants[name]
            ends = t.status == "done"
            if not t.step or name in self.notes or (t.step % self.every and not ends):
                continue
            had = [s for curve in self.curves.get(name, {}).values() for s, _ in curve]
            if t.step in had:
                continue
            found, fault = self._measured(b)
            if runner.ranks is not None:
                parts = runner.ranks.everyones((found, fault))
                fault = next((f for _, f in parts if f), "")
                found = _joined([p for p, _ in parts])
            if not fault and not found:
                fault = "its validation_step logs nothing"
            if fault:
                self.notes[name] = f"step {t.step}: not validated any more: {fault}"
                continue
            curves = self.curves.setdefault(name, {})
            for key, (total, weight) in found.items():
                curves.setdefault(key, []).append((t.step, total / weight))

    def last(self, name: str) -> dict[str, float]:
        """A job's latest figures."""
        return {k: curve[-1][1] for k, curve in self.curves.get(name, {}).items() if curve}

    @torch.no_grad()
    def _measured(self, b: Built) -> tuple[dict[str, tuple[float, float]], str]:
        """(sum of value x weight, sum of weights) of what the step logs, and what went wrong."""
        name, module, model = b.job.name, b.cli.model, self.shared.model
        sums: dict[str, tuple[float, float]] = {}
        batch: Any = None

        def log(key: str, value: Any, *args: Any, **options: Any) -> None:
            weight = float(options.get("batch_size") or extract_batch_size(batch))
            total, weights = sums.get(key, (0.0, 0.0))
            sums[key] = total + weight * float(value), weights + weight

        device = next(model.parameters()).device
        on, training = active(model), {m: m.training for m in module.modules()}
        try:
            activate(model, name)
            module.eval()
            with Stream(int(b.cli._setting("seed_everything"))).on(device), hearing(module, log):
                for number, given in enumerate(self._loaders[name]):
                    batch = b.steps.moved(given)
                    module.validation_step(batch, number)
        except Exception as error:  # a job's validation may raise anything
            return {}, describe(error)
        finally:
            for m, mode in training.items():
                m.training = mode
            activate(model, on or None)
        return sums, ""


def _joined(parts: Sequence[dict[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    out: dict[str, tuple[float, float]] = {}
    for part in parts:
        for key, (total, weight) in part.items():
            before = out.get(key, (0.0, 0.0))
            out[key] = before[0] + total, before[1] + weight
    return out
