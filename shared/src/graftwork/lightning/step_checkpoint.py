"""When to write the checkpoint of a run: at the start of a batch, when all that the last one caused is done."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from graftwork.lightning.checkpoint_io import sweep
from graftwork.lightning.primary import primary
from graftwork.lightning.processes import Agreement


class StepCheckpoint(Checkpoint):
    """Keeps `<folder>/last.ckpt` up to date, every `every` optimizer steps and at the end.

    A checkpoint that falls due with a batch is written just before the next one begins. Then the step's
    log lines, an epoch's end and a validation are behind it, so a resumed run neither repeats nor
    skips them.

    On the first Ctrl-C the batch is finished, the checkpoint written, and the run interrupted; a second
    Ctrl-C interrupts at once. Of several processes one that is interrupted stops all, one batch later, at the same one.

    Args:
        folder: where the file is kept.
        every: optimizer steps between two checkpoints.
    """

    def __init__(self, folder: str | Path, every: int = 100) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.every = every
        self._due = self._interrupted = False
        self._written = -1
        self._before: Any = None
        self._together: Agreement | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clear away what a killed run left."""
        if primary():
            sweep(self.path.parent)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C."""
        self._written = trainer.global_step
        self._together = Agreement() if trainer.world_size > 1 else None
        if threading.current_thread() is threading.main_thread():
            self._trainer = trainer
            self._before = signal.signal(signal.SIGINT, self._on_interrupt)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note that a checkpoint is due."""
        step = trainer.global_step
        if step != self._written and step % self.every == 0:
            self._due = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write if due."""
        stop = self._interrupted
        if self._together is not None:
            stop = self._together.ask(stop)
        if self._due or stop:
            self._due, self._written = False, trainer.global_step
            trainer.save_checkpoint(self.path)
        if stop:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the final state."""
        self._release()
        if self._together is not None:
            self._together.close()
        trainer.save_checkpoint(self.path)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give Ctrl-C back."""
        self._release()

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted or not self._trainer.training:
            raise KeyboardInterrupt
        self._interrupted = True
        if not primary():
            return
        print(
            "interrupted: writing the checkpoint (Ctrl-C again to stop at once)",
            file=sys.stderr,
            flush=True,
        )

    def _release(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
