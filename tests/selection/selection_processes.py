"""What a process of the tests of several does; it writes what it found to a file of its own."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import graftwork as gw
from graftwork.lightning import DataLayerSelection
from tests.selection.selection_helpers import B, Tokens, data, grafted, loss_of

HALF = B // 2


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = Tokens().double()
        gw.graft(self.network, gw.LoRA(2), sites=["blocks.*"], seed=0)
        self.seen: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch[0])
        return loss_of(self.network, *batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.05)


def fit(keep: int, batch: int, **options: Any) -> Module:
    """Two epochs over 12 samples; without options in one process."""
    module, (x, y) = Module(), data("tokens", 5, 12)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[DataLayerSelection(keep=keep, support_size=2)], **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=batch))
    return module


def by_hand(rank: int, wrapped: bool) -> dict[str, Any]:
    """One step on this process's half of a batch."""
    model, g = grafted("tokens")
    run = DistributedDataParallel(model) if wrapped else model
    gast = gw.GAST(g, 2, seed=4, processes=True)
    x, y = (t[rank * HALF : (rank + 1) * HALF] for t in data("tokens"))
    xs, ys = (t[rank * 2 : (rank + 1) * 2] for t in data("tokens", 2, 4))
    gast.support(loss_of(model, xs, ys))
    with gast.batch(HALF, 1):
        loss_of(run, x, y).backward()
    return {
        "gradients": {n: p.grad for n, p in g.named_parameters()},
        "picked": {n: c.picked for n, c in gast.chosen.items()},
        "scores": {n: c.scores for n, c in gast.chosen.items()},
    }


def uneven(rank: int) -> list[Any]:
    """Gradients of which one is in one process alone, and one in none."""
    from graftwork.selection.several import means

    params = [
        nn.Parameter(torch.zeros(2)),
        nn.Parameter(torch.zeros(3).double()),
        nn.Parameter(torch.zeros(1)),
    ]
    mine = [torch.full((2,), float(rank + 1)), torch.ones(3).double() if rank else None, None]
    return means(params, mine)


def main(rank: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0",
        TORCHELASTIC_RUN_ID="one", USE_LIBUV="0",
    )  # fmt: skip
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    found: dict[str, Any] = {f"by hand, {w}": by_hand(rank, w) for w in (False, True)}
    found["uneven"] = uneven(rank)
    for keep in (2, 3):
        module = fit(keep, 3, strategy="ddp", devices=2)
        found[f"fit, {keep}"] = {**gw.get(module.network).tensors(), "seen": torch.cat(module.seen)}
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
