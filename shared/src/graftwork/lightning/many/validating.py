"""Every job's validation loss now and then while all train: its own data and `validation_step`, its graft alone on.

What the step logs is averaged over the batches by their `batch_size`, as Lightning does at an epoch's end; what the
module's `on_validation_epoch_end` logs stands beside it. Nothing of a job's training moves: no weight, no random
stream, no place in its data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.utilities.data import extract_batch_size

from graftwork.errors import GraftError
from graftwork.handle import activate, active
from graftwork.lightning.many.built import Built, Shared
from graftwork.lightning.many.steps import hearing
from graftwork.tenants.backbone import describe
from graftwork.tenants.ranks import Ranks
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
            found, fault = self._measured(b, runner.ranks)
            if not fault and not found:
                fault = "nothing was logged"
            if fault:
                self.notes[name] = f"step {t.step}: not validated any more: {fault}"
                continue
            curves = self.curves.setdefault(name, {})
            for key, value in found.items():
                curves.setdefault(key, []).append((t.step, value))

    def last(self, name: str) -> dict[str, float]:
        """A job's latest figures."""
        return {k: curve[-1][1] for k, curve in self.curves.get(name, {}).items() if curve}

    @torch.no_grad()
    def _measured(self, b: Built, ranks: Ranks | None) -> tuple[dict[str, float], str]:
        """What was logged, and what went wrong in any process."""
        name, module, model = b.job.name, b.cli.model, self.shared.model
        logged = _Logged()

        def steps() -> None:
            module.on_validation_epoch_start()
            for number, given in enumerate(self._loaders[name]):
                logged.batch = b.steps.moved(given)
                with self.shared.context():
                    module.validation_step(logged.batch, number)

        def attempt(call: Callable[[], object]) -> str:
            fault = ""
            try:
                call()
            except Exception as error:  # a job's validation may raise anything
                fault = describe(error)
            # the end of an epoch may wait for all processes, so all must know before
            return fault if ranks is None else next((f for f in ranks.everyones(fault) if f), "")

        device = next(model.parameters()).device
        on, training = active(model), {m: m.training for m in module.modules()}
        try:
            activate(model, name)
            module.eval()
            stream = Stream(int(b.cli._setting("seed_everything")))
            with stream.on(device), hearing(module, logged.add):
                fault = attempt(steps)
                if fault:
                    return {}, fault
                found = logged.means(ranks)
                seen = {k: torch.tensor(v) for k, v in found.items()}
                module.__dict__["_trainer"] = SimpleNamespace(callback_metrics=seen)
                fault = attempt(module.on_validation_epoch_end)
                found |= logged.means(ranks)
        finally:
            module.__dict__["_trainer"] = None
            for m, mode in training.items():
                m.training = mode
            activate(model, on or None)
        return ({}, fault) if fault else ({k: v for k, v in found.items() if isfinite(v)}, "")


class _Logged:
    """Sums of what a module logs, by name: value x weight, and weight."""

    def __init__(self) -> None:
        self.batch: Any = None
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, key: str, value: Any, *args: Any, **options: Any) -> None:
        """As `LightningModule.log`."""
        weight = float(options.get("batch_size") or extract_batch_size(self.batch))
        total, weights = self._sums.get(key, (0.0, 0.0))
        self._sums[key] = total + weight * float(value), weights + weight

    def means(self, ranks: Ranks | None) -> dict[str, float]:
        """Over all processes; the sums begin anew."""
        mine, self._sums = self._sums, {}
        out: dict[str, tuple[float, float]] = {}
        for part in [mine] if ranks is None else ranks.everyones(mine):
            for key, (total, weight) in part.items():
                before = out.get(key, (0.0, 0.0))
                out[key] = before[0] + total, before[1] + weight
        return {k: total / weight for k, (total, weight) in out.items()}
