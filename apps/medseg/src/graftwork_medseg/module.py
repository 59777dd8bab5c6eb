"""The LightningModule: a segmentation network, its loss, sliding-window prediction and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from graftwork.errors import GraftError

from . import fewshot, metrics
from .data import Volume
from .losses import dice_ce
from .network import NetworkConfig, build, load_pretrained
from .nifti import write_mask


def find_head(network: nn.Module) -> str:
    """Dotted name of the last convolution: where the class scores come from.

    Raises GraftError when the network has none.
    """
    found = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    ]
    if not found:
        raise GraftError(
            f"{type(network).__name__} has no convolution that could give class scores"
        )
    return found[-1]


def input_channels(network: nn.Module) -> int:
    """How many channels the first 3D convolution takes."""
    return int(next(m for m in network.modules() if isinstance(m, nn.Conv3d)).in_channels)


class Segmenter(LightningModule):
    """A segmentation network; the graft sits on `network`.

    Args:
        network: class name in monai.networks.nets and its arguments; null: as the weights file says.
        weights: safetensors file with the pretrained network; null: the shipped base, or random weights
            when `network` is given.
        roi: window of the sliding-window prediction, voxels of the working grid.
        overlap: overlap of neighbouring windows, 0 to below 1.
        rate: peak learning rate of whatever trains inside the network.
        head_rate: the same for the last convolution, whose new rows start at zero.
        tolerance_mm: tolerance of the NSD.
    """

    def __init__(
        self,
        network: NetworkConfig | None = None,
        weights: str | None = None,
        roi: Sequence[int] = fewshot.ROI,
        overlap: float = 0.25,
        rate: float = fewshot.PLAN.rate,
        head_rate: float = fewshot.HEAD_RATE,
        tolerance_mm: float = 2.0,
    ) -> None:
        super().__init__()
        if network is not None and weights is None:
            self.network, self.base_classes, self.config = build(network), (), network
        else:
            pretrained = load_pretrained(weights, network)
            self.network, self.base_classes = pretrained.model, pretrained.classes
            self.config = pretrained.config
        self.network = self.network.to(memory_format=torch.channels_last_3d)
        if not 0 <= overlap < 1:
            raise GraftError(f"model.overlap {overlap} must be at least 0 and below 1")
        for name, value in (("rate", rate), ("head_rate", head_rate)):
            if not 0 < value < float("inf"):
                raise GraftError(f"model.{name} {value} must be a positive number")
        self.window = SlidingWindowInferer(
            tuple(roi), sw_batch_size=4, overlap=overlap, mode="gaussian"
        )
        self.rate, self.head_rate, self.tolerance_mm = rate, head_rate, tolerance_mm
        self.head = find_head(self.network)
        self.classes: tuple[str, ...] = tuple(self.base_classes)
        self.output: Path | None = None  # where predict writes; the command line sets it
        self.scores: dict[str, dict[str, metrics.Score]] = {}
        self.written: list[Path] = []

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, C, x, y, z) of a batch of patches."""
        scores = self.network(x.contiguous(memory_format=torch.channels_last_3d))
        # Some MONAI networks return deep-supervision outputs in training, the main one first.
        return scores[0] if isinstance(scores, list | tuple) else scores

    def new_rows(self, classes: Sequence[str]) -> int:
        """How many classes the network's last convolution lacks.

        Raises GraftError when it has more outputs than there are classes.
        """
        have = self.network.get_submodule(self.head).out_channels
        if have > len(classes):
            raise GraftError(
                f"the network tells {have} classes apart, the data names {len(classes)}: "
                f"{', '.join(classes)}; name all of the network's classes in the data's labels"
            )
        return len(classes) - int(have)

    def segment(self, volume: Volume) -> Any:
        """The mask of one case on its file's grid, (X, Y, Z) uint8."""
        x = volume.image[None].to(self.device)
        with torch.inference_mode():
            logits = self.window(x, self.forward)[0]
        return volume.placement.restore(logits)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Dice plus cross-entropy of a batch of patches."""
        x, y = batch
        scores = self(x)
        if int(y.max()) >= scores.shape[1]:
            raise GraftError(
                f"the labels go up to {int(y.max())}, the network tells {scores.shape[1]} classes apart: "
                "train with a graft, which adds the missing output rows"
            )
        loss = dice_ce(scores, y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.scores = {}

    def on_test_epoch_start(self) -> None:
        self.scores = {}

    def _measure(self, volume: Volume) -> None:
        if volume.truth is None:
            raise GraftError(f"case {volume.name} has no label to measure against")
        self.scores[volume.name] = metrics.score_case(
            self.segment(volume), volume.truth, self.classes, volume.spacing, self.tolerance_mm
        )

    def validation_step(self, volume: Volume, _index: int) -> None:
        """Score one whole case."""
        self._measure(volume)

    def test_step(self, volume: Volume, _index: int) -> None:
        """Score one whole case."""
        self._measure(volume)

    def _log_scores(self, group: str) -> None:
        cases = list(self.scores.values())
        if not cases:
            return
        for name in (None, *self.classes[1:]):
            means = metrics.average(cases, name)
            tag = f"{group}/{name}" if name else group
            for metric in ("dice", "hd95", "nsd"):
                self.log(f"{tag}_{metric}", means[metric], batch_size=1)
        empties = metrics.average(cases)
        for kind in ("empty_both", "empty_one"):
            self.log(f"{group}_{kind}", float(empties[kind]), batch_size=1)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("validate")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def predict_step(self, volume: Volume, _index: int) -> str:
        """Write one mask on its image's own grid; returns the case's name."""
        mask = self.segment(volume)
        if volume.like is not None and self.output is not None:
            target = self.output / f"{volume.name}.nii.gz"
            self.written.append(write_mask(target, mask, volume.like))
        return volume.name

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle rate; the last convolution has its own, larger rate."""
        head, body = [], []
        prefix = f"network.{self.head}."
        for name, p in self.named_parameters():
            if p.requires_grad:
                (head if name.startswith(prefix) else body).append(p)
        groups = [
            {"params": ps, "lr": rate}
            for ps, rate in ((body, self.rate), (head, self.head_rate))
            if ps
        ]
        if not groups:
            raise GraftError("nothing trains: name a graft with --graft")
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [g["lr"] for g in groups],
            total_steps=max(2, int(self.trainer.estimated_stepping_batches)),
            pct_start=0.15,
            cycle_momentum=False,
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def scores_json(self) -> dict[str, Any]:
        """The last scores as plain values, by case and class."""
        return {name: {k: asdict(s) for k, s in case.items()} for name, case in self.scores.items()}
