"""Exact resume: after a kill, the continued run is the uninterrupted one, bit for bit."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from graftwork.errors import GraftError
from graftwork.lightning.checkpoint_io import GraftCheckpointIO, load_checkpoint
from graftwork.lightning.data import mixed_seed, world
from graftwork.lightning.epoch_means import add_logged, collect, restore_metrics
from graftwork.lightning.graft_state import (
    handles,
    optimizer_by_name,
    optimizer_by_number,
    parameter_names,
    unpack,
)
from graftwork.lightning.processes import everyones, mean


class ExactResume(Callback):
    """Makes Lightning's checkpoints adapter-only and complete.

    Lightning itself restores steps, optimizers and schedules. This adds the grafts instead of the base,
    optimizer state by parameter name, the random generators, gradients of an unfinished accumulation,
    the means of an unfinished epoch, and the loggers' positions (`CurveLogger` cuts its file back).
    The position inside the epoch is the loader's (`ResumableLoader`).

    At each batch the global generators are set to a function of (seed, epoch, batch), so dropout does
    not depend on what ran between two batches: loaders being built, a validation that is not repeated.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._loaded: dict[str, Any] | None = None
        self._epoch_so_far: dict[str, Any] | None = None
        self._validate_every: int | float | None = None

    # -- writing ----------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the checkpoint format in place."""
        trainer.strategy.checkpoint_io = GraftCheckpointIO(pl_module)
        # Lightning would ask for the base's tensors, which no file holds; `unpack` is the strict check
        pl_module.strict_loading = False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Complete the checkpoint."""
        names = parameter_names(pl_module)
        loops = checkpoint["loops"]["fit_loop"]
        checkpoint["between_batches"] = settle(loops)
        done = loops["epoch_loop.batch_progress"]["current"]["processed"]
        checkpoint["optimizer_states"] = [
            optimizer_by_name(state, optimizer, names)
            for state, optimizer in zip(
                checkpoint["optimizer_states"], trainer.optimizers, strict=True
            )
        ]
        checkpoint["random"] = {"seed": self.seed, **_random_state()}
        checkpoint["loggers"] = [log.state_dict() for log in _stateful_loggers(trainer)]
        checkpoint["epoch_so_far"] = everyones(_on_cpu(collect(trainer, pl_module)))
        # at a batch's start Lightning knows already that it is the last; its step is still to come
        stepped = trainer.is_last_batch and not checkpoint["between_batches"]
        if done % trainer.accumulate_grad_batches != 0 and not stepped:
            # of several processes each holds its own part until the step; from the mean all come to the same step
            checkpoint["gradients"] = {
                names[id(p)]: mean(p.grad) for p in pl_module.parameters() if p.grad is not None
            }

    # -- reading ----------------------------------------------------------------------------------

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """When training goes on: cut the curve back, and keep the rest for the hooks below.

        Raises:
            GraftError: the checkpoint does not fit the run.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if "random" not in checkpoint:
            raise GraftError(
                "checkpoint: written without ExactResume; training cannot be resumed from it"
            )
        if checkpoint["random"]["seed"] != self.seed:
            raise GraftError(
                f"checkpoint: the run's seed was {checkpoint['random']['seed']}, now it is {self.seed}; "
                "resume with the same seed_everything"
            )
        self._loaded = checkpoint
        loggers = _stateful_loggers(trainer)
        if len(loggers) != len(checkpoint["loggers"]):
            raise GraftError(
                f"checkpoint: written with {len(checkpoint['loggers'])} curve loggers, now there are {len(loggers)}"
            )
        for log, state in zip(loggers, checkpoint["loggers"], strict=True):
            log.load_state_dict(state)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Number the optimizer states for Lightning, which restores them right after this hook."""
        if self._loaded is None:
            if trainer.ckpt_path:
                raise GraftError(
                    f"checkpoint {trainer.ckpt_path}: it holds weights only; training cannot be resumed from it"
                )
            return
        saved, names = self._loaded["optimizer_states"], parameter_names(pl_module)
        if len(saved) != len(trainer.optimizers):
            raise GraftError(
                f"checkpoint: written with {len(saved)} optimizers, now there are {len(trainer.optimizers)}"
            )
        self._loaded["optimizer_states"] = [
            optimizer_by_number(state, optimizer, names)
            for state, optimizer in zip(saved, trainer.optimizers, strict=True)
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore generators and gradients, after Lightning has built its loaders."""
        if self._loaded is None:
            return
        checkpoint, self._loaded = self._loaded, None
        _place_loaders(trainer.fit_loop)
        _restore_random(checkpoint["random"])
        rank, count = world()
        saved = checkpoint["epoch_so_far"]
        saved = saved if isinstance(saved, list) else [saved]  # as it was before there were several
        if len(saved) == count:
            self._epoch_so_far = saved[rank]
            restore_metrics(self._epoch_so_far, pl_module)
        elif checkpoint["between_batches"]:
            rank_zero_warn(
                f"checkpoint: written by {len(saved)} processes, resumed by {count}; the means of the epoch count from "
                "here on"
            )
        if checkpoint["between_batches"]:
            # between two batches Lightning takes a validation for due whenever one was due before the
            # checkpoint, skips it, and counts that as a step: no validation is due until a batch ran
            self._validate_every = trainer.val_check_batch
            trainer.val_check_batch = float("inf")
        if "gradients" in checkpoint:
            names = parameter_names(pl_module)
            for p in pl_module.parameters():
                grad = checkpoint["gradients"].get(names[id(p)])
                p.grad = None if grad is None else grad.to(p.device)

    # -- running ----------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Key the generators."""
        if self._validate_every is not None:
            trainer.val_check_batch, self._validate_every = self._validate_every, None
        self._key("train", trainer, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Continue the means of the interrupted epoch."""
        if self._epoch_so_far is not None:
            add_logged(self._epoch_so_far, trainer)
            if not self._epoch_so_far["logged"] or trainer.is_last_batch:
                self._epoch_so_far = None

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Key the generators."""
        self._key("validate", trainer, batch_idx, dataloader_idx)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Key the generators."""
        self._key("test", trainer, batch_idx, dataloader_idx)

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Key the generators."""
        self._key("predict", trainer, batch_idx, dataloader_idx)

    def _key(self, stage: str, trainer: Trainer, *place: int) -> None:
        _seed_all(mixed_seed(stage, self.seed, trainer.global_rank, trainer.current_epoch, *place))


@contextlib.contextmanager
def keyed(seed: int) -> Iterator[None]:
    """All global generators at `seed` inside the block; afterwards as they were before."""
    before = _random_state()
    _seed_all(seed)
    try:
        yield
    finally:
        _restore_random(before)


def restore(module: nn.Module, path: str | Path) -> nn.Module:
    """Put a checkpoint's grafts on a module without a trainer, for example to use a half-trained run.

    Args:
        module: the same module as in training, its base fresh or grafted alike.
        path: a checkpoint file.

    Returns:
        The module, in place.

    Raises:
        GraftError: not a checkpoint of ours, or it does not fit.
    """
    unpack(load_checkpoint(path), module)
    return module


def grafted(module: nn.Module) -> bool:
    """Whether any part of the module carries a graft."""
    return bool(handles(module))


def settle(fit_loop: dict[str, Any]) -> bool:
    """Turn a loop state saved at the start of a batch into that between two batches; whether it was one.

    At the start of a batch Lightning has counted it as ready and the loader has handed it out, but nothing
    has been computed: it belongs to the resumed run.
    """
    progress = fit_loop["epoch_loop.batch_progress"]
    current, total = progress["current"], progress["total"]
    if not current["ready"] == current["processed"] + 1 == current["started"] + 1:
        return False
    for counter in (current, total):
        counter["ready"] -= 1
    progress["is_last_batch"] = False
    for loader in fit_loop["state_dict"].get("combined_loader", ()):
        if "batches" in loader:
            loader["batches"] -= 1
    return True


def _place_loaders(loop: Any) -> None:
    """Put the training loaders where the checkpoint says, unless Lightning has done so.

    Lightning does so when it builds the loaders, and never again. A module that asks for
    `trainer.estimated_stepping_batches` in `configure_optimizers` has them built before the checkpoint is
    read: the epoch would begin anew with its first batch.
    """
    states, loop._combined_loader_states_to_load = loop._combined_loader_states_to_load, []
    if states:
        loop._combined_loader._load_state_dicts(states)
        iter(loop._data_fetcher)  # the old iterator stands at the first batch


def _on_cpu(value: Any) -> Any:
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.detach().cpu(), value)


def _stateful_loggers(trainer: Trainer) -> list[Any]:
    return [log for log in trainer.loggers if hasattr(log, "state_dict")]


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed notes the stack for each kind of device that has not been used yet: milliseconds of
    # every step deep inside a trainer
    torch.default_generator.manual_seed(seed)
    used = [device for device in (torch.cuda, torch.xpu) if device.is_initialized()]
    if _other_devices() and not used:
        torch.manual_seed(seed)
    for device in used:
        device.manual_seed_all(seed)


@functools.cache
def _other_devices() -> bool:
    """Whether there is anything but a CPU."""
    return torch.accelerator.is_available()


def _random_state() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "words": np.array(words, np.uint32), "gauss": gauss},
        "numpy": {
            "kind": kind,
            "keys": keys,
            "rest": [int(position), int(has_gauss), float(cached)],
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_random(state: dict[str, Any]) -> None:
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(map(int, python["words"])), python["gauss"]))
    np.random.set_state((numpy["kind"], numpy["keys"], *numpy["rest"]))
    torch.set_rng_state(state["torch"])
    # another number of devices is another run; the batches' keyed seeds do not depend on it
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
