"""The heavy half of the test app."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import Dataset

from graftwork.errors import GraftError
from graftwork.lightning.cli import AppCLI
from graftwork.lightning.data import ResumableLoader, sample_generator
from graftwork.lightning.verbs import verb


class Points(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        x = torch.randn(4, generator=sample_generator(0, *place))
        return x, (x.sum() > 0).long()


class PointData(LightningDataModule):
    """Random points.

    Args:
        samples: how many.
        batch_size: at once.
        slow: seconds to wait for each sample.
    """

    def __init__(self, samples: int = 32, batch_size: int = 4, slow: float = 0.0) -> None:
        super().__init__()
        if samples < 1:
            raise GraftError(f"data.samples must be at least 1, not {samples}")
        self.samples, self.batch_size = samples, batch_size

    def _loader(self, shuffle: bool) -> ResumableLoader:
        return ResumableLoader(
            Points(self.samples), batch_size=self.batch_size, seed=0, shuffle=shuffle
        )

    def train_dataloader(self) -> ResumableLoader:
        return self._loader(True)

    def val_dataloader(self) -> ResumableLoader:
        return self._loader(False)

    test_dataloader = predict_dataloader = val_dataloader


class Classifier(LightningModule):
    """Two layers.

    Args:
        width: of the hidden layer.
        fail: raise in the first step.
    """

    def __init__(self, width: int = 8, fail: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fail = fail
        self.network = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.fail:
            raise RuntimeError("the step failed")
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0]).argmax(-1)


class TinyCLI(AppCLI):
    """Everything the base class gives, and one verb more."""

    module = Classifier
    data = PointData
    trainer_settings: ClassVar[dict[str, Any]] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "log_every_n_steps": 1,
    }
    checkpoint_every = 3

    @verb
    def count(self, to: int = 3) -> None:
        """Count to a number.

        Args:
            to: the last one.
        """
        print(*range(1, to + 1))
