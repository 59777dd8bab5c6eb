"""The heavy half of the benchmark's own side: module, data and command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import Dataset

import graftwork as gw
from benchmarks.fit.setting import base, read_tokens, setting
from benchmarks.fit.watch import Stopwatch
from graftwork.lightning.cli import AppCLI
from graftwork.lightning.data import ResumableLoader


class LanguageModel(LightningModule):
    """A decoder under the next-token loss.

    Args:
        setting: name of the sizes.
        chunked_loss: never hold the logits of all tokens at once.
    """

    def __init__(self, setting: str = "small", chunked_loss: bool = True) -> None:
        super().__init__()
        self.chunked_loss = chunked_loss
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network: Any = base(_setting(setting), device)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """The mean loss of a batch of token ids `(batch, tokens)`."""
        if self.chunked_loss:
            hidden = self.network.model(input_ids=batch).last_hidden_state
            loss = gw.linear_cross_entropy(hidden[:, :-1], self.network.lm_head, batch[:, 1:])
        else:
            loss = self.network(input_ids=batch, labels=batch).loss
        self.log("loss", loss)
        return loss


class Rows(Dataset[Tensor]):
    """Rows of a table of token ids; `ResumableLoader` asks by (epoch, index)."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        return self.ids[place[1]]


class TokenData(LightningDataModule):
    """Stored token ids, in their order.

    Args:
        file: written by `benchmarks.fit.setting.write_tokens`.
        batch: sequences of a batch.
    """

    def __init__(self, file: str, batch: int) -> None:
        super().__init__()
        self.file, self.batch = Path(file), batch

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(
            Rows(read_tokens(self.file)), batch_size=self.batch, shuffle=False, pin_memory=_cuda()
        )


class Watch(Callback):
    """The stopwatch in Lightning.

    Args:
        result: the JSON file.
    """

    def __init__(self, result: str) -> None:
        self.watch = Stopwatch(result)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch.begin(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.watch.losses.append(outputs["loss"].detach())
        self.watch.after(trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch.end()


class FitCLI(AppCLI):
    """Nothing beside what every app has."""

    module = LanguageModel
    data = TokenData
    allow = (Watch,)
    trainer_settings: ClassVar[dict[str, Any]] = {"accelerator": "auto"}


_setting = setting  # the module's argument of that name hides it


def _cuda() -> bool:
    return torch.cuda.is_available()
