"""One small resumable run, and a mother process that kills it: `python resume_run.py FOLDER SEED`.

The mother imports everything once and never trains. It forks a child for an uninterrupted run in FOLDER/whole, then
one child after the other for a run in FOLDER/killed, each ended by SIGKILL, and a last one that may finish.
Where the kills fall is drawn from SEED. What was done is printed as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

import graftwork as gw
from graftwork.lightning import checkpoint_io
from graftwork.lightning.curve import CurveLogger
from graftwork.lightning.data import ResumableLoader, sample_generator
from graftwork.lightning.graft_state import optimizer_by_name, parameter_names
from graftwork.lightning.output import settle_output
from graftwork.lightning.resume import ExactResume
from graftwork.lightning.step_checkpoint import StepCheckpoint

SEED, SAMPLES, EPOCHS = 7, 50, 22


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Fixed samples plus noise that is a function of (seed, epoch, sample)."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(SAMPLES, 1, 6, 6, generator=generator)
        self.y = (self.x.mean((1, 2, 3)) > 0).long()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, i = place
        noise = torch.randn(1, 6, 6, generator=sample_generator(SEED, epoch, i))
        return self.x[i] + 0.1 * noise, self.y[i]


class Net(LightningModule):
    """A frozen net with dropout and batch norm, a LoRA graft and a trained head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)),
            *(nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 2)),
        )
        gw.graft(self.network, gw.LoRA(rank=2, dropout=0.2), sites=["0", "5"], also_train=["7"])
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) / self.temperature

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        self.log("loss_epoch", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=200)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Tell(Callback):
    """Tells the mother before each batch where the run is."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        os.write(self.pipe, f"{trainer.current_epoch} {batch_idx}\n".encode())


def loaders(workers: int) -> tuple[ResumableLoader, ResumableLoader]:
    """Training and validation loaders."""
    train = ResumableLoader(Noisy(), batch_size=4, seed=SEED, num_workers=workers)
    return train, ResumableLoader(Noisy(), batch_size=25, seed=SEED, shuffle=False)


def die_in_write(folder: Path, step: str, count: int) -> None:
    """Arrange for a SIGKILL inside the `count`th checkpoint write: half-written, or not yet renamed."""
    done = 0

    def deadly(real: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal done
            done += 1
            if done == count:
                if step == "fsync":
                    part = next(folder.glob(".*.part"))
                    os.truncate(part, part.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return call

    fake = {**vars(os), step: deadly(getattr(os, step))}
    checkpoint_io.os = SimpleNamespace(**fake)  # type: ignore[attr-defined]


class Counting(Net):
    """The same with a schedule as long as the run: Lightning builds the loaders to count the steps."""

    def configure_optimizers(self) -> Any:
        [optimizer], [schedule] = super().configure_optimizers()
        steps = int(self.trainer.estimated_stepping_batches)
        schedule["scheduler"] = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, steps)
        return [optimizer], [schedule]


def run(
    folder: Path,
    *,
    workers: int = 2,
    epochs: int = 3,
    every: int = 7,
    net: type[Net] = Net,
    **options: Any,
) -> Trainer:
    """Start or continue the run in `folder` until its end."""
    keeper = StepCheckpoint(folder, every=every)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        accumulate_grad_batches=2,
        log_every_n_steps=1,
        logger=CurveLogger(folder),
        callbacks=[ExactResume(SEED), *options.pop("callbacks", ()), keeper],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    train, valid = loaders(workers)
    resume = keeper.path if keeper.path.exists() else None
    trainer.fit(net(), train, valid, ckpt_path=resume)
    return trainer


def final_state(trainer: Trainer) -> dict[str, Any]:
    """Graft, everything else that trains, and optimizer state by name."""
    module = trainer.lightning_module
    optimizer = trainer.optimizers[0]
    names = parameter_names(module)
    return {
        "weights": {names[id(p)]: p.detach() for p in module.parameters()},
        "buffers": dict(module.named_buffers()),
        "optimizer": optimizer_by_name(optimizer.state_dict(), optimizer, names),
        "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
    }


def child(folder: Path, kind: str = "") -> tuple[int, int]:
    """Fork a process that runs to its end; returns its id and a pipe that says where it is."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    os.close(read)
    if kind:
        die_in_write(folder, kind, count=1)
    trainer = run(folder, epochs=EPOCHS, callbacks=[Tell(write)])
    checkpoint_io.GraftCheckpointIO().save_checkpoint(
        final_state(trainer), folder / "final.safetensors"
    )
    os._exit(0)


def kill(folder: Path, kind: str, draw: random.Random) -> dict[str, Any]:
    """Start or continue the run and end it by SIGKILL.

    "any" kills 3 to 30 batches after the start, and up to 20 ms into the batch; "late" the same, but past an
    epoch's 13; "middle" only between batch 4 and 8 of one; "fsync" and "replace" inside the first checkpoint write.
    """
    pid, pipe = child(folder, kind if kind in ("fsync", "replace") else "")
    wait = draw.randint(16 if kind == "late" else 3, 30 if kind in ("any", "late") else 20)
    places: list[tuple[int, ...]] = []
    with os.fdopen(pipe) as lines:
        for line in lines:
            places.append(tuple(map(int, line.split())))
            due = len(places) >= wait and (
                kind in ("any", "late") or (kind == "middle" and 4 <= places[-1][1] <= 8)
            )
            if due:
                time.sleep(draw.uniform(0, 0.02))
                os.kill(pid, signal.SIGKILL)
                break
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    parts = len(list(folder.glob(".*.part")))
    return {"kind": kind, "killed": killed, "from": places[0], "to": places[-1], "parts": parts}


def main(target: Path, seed: int) -> None:
    """The mother."""
    draw = random.Random(seed)
    whole, killed = target / "whole", target / "killed"
    start = time.monotonic()
    first, _ = child(whole)
    assert os.waitpid(first, 0)[1] == 0
    kinds = ["fsync", "replace", "middle", "middle", *["any"] * 5]
    draw.shuffle(kinds)
    # with bad luck all others fall before a checkpoint, and nothing is ever resumed
    kinds.insert(draw.randrange(5), "late")
    kills = [kill(killed, kind, draw) for kind in kinds]
    last, _ = child(killed)
    assert os.waitpid(last, 0)[1] == 0
    print(json.dumps({"seed": seed, "seconds": time.monotonic() - start, "kills": kills}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    settle_output(quiet=True, verbose=False)
    main(Path(sys.argv[1]), int(sys.argv[2]))
