"""The LightningModule: a segmentation network, its loss, sliding-window prediction and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from graftwork import extra_loss
from graftwork.errors import GraftError
from graftwork.lightning import Allocation
from graftwork.lightning.processes import everyones

from .demo import task
from .fewshot.verdict import Verdict
from .images.agree import unstated
from .images.contract import Contract
from .images.organs import Organs
from .images.volume import Volume
from .losses import dice_ce
from .networks.bases import load_base
from .networks.network import NetworkConfig, build, find_head
from .prediction import calibration, maps, metrics
from .prediction.results import Results
from .prediction.window import Windows, forward_bytes


def input_channels(network: nn.Module) -> int:
    """How many input channels a network takes, by its first convolution."""
    kinds = nn.Conv2d | nn.Conv3d
    first = next((m for m in network.modules() if isinstance(m, kinds)), None)
    return int(first.in_channels) if first is not None else 1


class Segmenter(LightningModule):
    """A segmentation network; the graft sits on `network`.

    Args:
        network: class name in monai.networks.nets and its arguments; null: as the base says.
        base: whose network is grafted: a shipped checkpoint's name, a file or a folder, see `bases`; null:
            the shipped base, or random weights when `network` is given.
        roi: window of the sliding-window prediction, voxels of the working grid; null: the patch size that
            the base was trained at.
        overlap: overlap of neighbouring windows, 0 to below 1.
        rate: peak learning rate of whatever trains inside the network.
        head_rate: the same for the last convolution, whose new rows start at zero.
        tolerance_mm: tolerance of the NSD.
    """

    def __init__(
        self,
        network: NetworkConfig | None = None,
        base: str | None = None,
        roi: Sequence[int] | None = None,
        overlap: float = 0.25,
        rate: float = task.PLAN.rate,
        head_rate: float = task.HEAD_RATE,
        tolerance_mm: float = 2.0,
    ) -> None:
        super().__init__()
        self.source, self.fresh_head = base or "the shipped base", False
        self.contract: Contract | None  # what its images must become; None: the base does not say
        if network is not None and base is None:
            self.network, self.base_classes, self.config = build(network), (), network
            self.contract, self.source = (
                unstated(*["image"] * input_channels(self.network)),
                "model.network",
            )
        else:
            pretrained = load_base(base, network)
            self.network, self.base_classes = pretrained.model, pretrained.classes
            self.config, self.contract = pretrained.config, pretrained.contract
            self.fresh_head = pretrained.head is not None
            if "unread" in pretrained.meta:
                self.source += f" ({pretrained.meta['unread']})"
        if roi is None:
            roi = (self.contract.patch if self.contract else None) or task.ROI
        self.network = self.network.to(memory_format=torch.channels_last_3d)
        for name, value in (("rate", rate), ("head_rate", head_rate)):
            if not 0 < value < float("inf"):
                raise GraftError(f"model.{name} {value} must be a positive number")
        self.windows = Windows(tuple(roi), overlap)  # type: ignore[arg-type]
        self.rate, self.head_rate, self.tolerance_mm = rate, head_rate, tolerance_mm
        self.head = find_head(self.network)
        self.classes: tuple[str, ...] = tuple(self.base_classes)
        self._forward_bytes: dict[int, int] = {}  # by channels
        self.results: Results | None = None  # where predict writes; the command line sets it
        self.scores: dict[str, dict[str, metrics.Score]] = {}
        self.reliability: dict[str, dict[str, calibration.Reliability]] = {}
        self.verdict: Verdict | None = None  # what the site's own cases say of the graft
        self.chosen: dict[str, Any] | None = None  # record of the search that chose the sites
        self.organs: Organs | None = None  # what is learnt and scored, if asked for by name
        self.warnings: dict[str, list[str]] = {}  # by case: how it lies outside the training range

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
        if self.fresh_head and have != len(classes):
            raise GraftError(
                f"{self.source}: its last convolution starts anew, with {have} outputs, the data names "
                f"{len(classes)} classes: set model.network.args.out_channels to {len(classes)}"
            )
        if have > len(classes):
            raise GraftError(
                f"the network tells {have} classes apart, the data names {len(classes)}: "
                f"{', '.join(classes)}; name all of the network's classes in the data's labels"
            )
        return len(classes) - int(have)

    def ask(self, organs: Organs) -> None:
        """Learn and score `organs` alone; the other classes keep their outputs, and no opinion is trained in."""
        self.organs, self.classes = organs, organs.classes

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the classes that are scored."""
        return self.organs.asked if self.organs else self.classes[1:]

    def score(self, volume: Volume, mask: Any) -> dict[str, metrics.Score]:
        """Scores of a mask (X, Y, Z) of a labelled case."""
        return metrics.score_case(
            mask, volume.truth, self.classes, volume.spacing, self.tolerance_mm, self.scored
        )

    def compare(self, volume: Volume) -> None:
        """Note how a case lies outside the training range; see `Contract.warnings` for the rule."""
        if self.contract is not None and volume.observed is not None:
            found = self.contract.warnings(volume.observed)
            if found:
                self.warnings[volume.name] = found

    def maps_of(self, volume: Volume, wanted: maps.Wanted | None = None) -> maps.Maps:
        """The mask of one case on its file's grid, and what else is `wanted` there.

        Raises GraftError with the estimate when it would not fit into memory.
        """
        wanted = wanted or maps.Wanted()
        head = self.network.get_submodule(self.head)
        classes = max(int(head.out_channels), len(self.classes))
        case = (volume.image, volume.placement, self.windows, wanted)
        channels = volume.image.shape[0]
        if channels not in self._forward_bytes:
            shape = (self.windows.batch, channels, *self.windows.roi)
            self._forward_bytes[channels] = forward_bytes(self.network, shape)
        forward = self._forward_bytes[channels]
        maps.refuse_too_large(volume.name, *case, classes, forward, self.device)
        return maps.predict(self.forward, *case, self.device)

    def segment(self, volume: Volume) -> Any:
        """The mask of one case on its file's grid, (X, Y, Z) uint8."""
        return self.maps_of(volume).mask

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Dice plus cross-entropy of a batch of patches, and what the grafts' methods add to it."""
        x, y = batch
        with extra_loss(self) as extra:
            scores = self(x)
            added = extra()
        if int(y.max()) >= scores.shape[1]:
            raise GraftError(
                f"the labels go up to {int(y.max())}, the network tells {scores.shape[1]} classes apart: "
                "train with a graft, which adds the missing output rows"
            )
        known = None
        if self.organs is not None:
            known = torch.tensor(self.organs.known).expand(len(y), -1).to(y.device)
        loss = dice_ce(scores, y, known)
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        return loss + added

    def on_validation_epoch_start(self) -> None:
        self.scores, self.reliability = {}, {}

    def on_test_epoch_start(self) -> None:
        self.scores, self.reliability = {}, {}

    def _measure(self, volume: Volume) -> None:
        if volume.truth is None:
            raise GraftError(f"case {volume.name} has no label to measure against")
        found = self.maps_of(volume, maps.Wanted(confidence=True))
        self.scores[volume.name] = self.score(volume, found.mask)
        self.reliability[volume.name] = calibration.of_case(
            found.confidence, found.mask, volume.truth
        )

    def validation_step(self, volume: Volume, _index: int) -> None:
        """Score one whole case."""
        self._measure(volume)

    def test_step(self, volume: Volume, _index: int) -> None:
        """Score one whole case."""
        self.compare(volume)
        self._measure(volume)

    def _log_scores(self, group: str) -> None:
        # of several processes each measured its cases; one that was dealt out twice counts once
        for theirs, reliability in everyones((self.scores, self.reliability)):
            self.scores |= theirs
            self.reliability |= reliability
        cases = list(self.scores.values())
        if not cases:
            return
        for name in (None, *self.scored):
            means = metrics.average(cases, name)
            tag = f"{group}/{name}" if name else group
            for metric in ("dice", "hd95", "nsd"):
                self.log(f"{tag}_{metric}", means[metric], batch_size=1, sync_dist=True)
        empties = metrics.average(cases)
        for kind in ("empty_both", "empty_one"):
            self.log(f"{group}_{kind}", float(empties[kind]), batch_size=1, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("validate")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def predict_step(self, volume: Volume | None, _index: int) -> Any:
        """Hand one case to `results`, which writes it, and return its name; without them, its mask.

        None is a case that could not be read; `results` has noted why.
        """
        if volume is not None:
            self.compare(volume)
        if self.results is None:
            assert volume is not None
            return self.segment(volume)
        if volume is None:
            return ""
        self.results.predict(volume, self.maps_of)
        return volume.name

    def _allocation(self) -> Allocation | None:
        trainer = self._trainer
        found = (c for c in (trainer.callbacks if trainer else ()) if isinstance(c, Allocation))
        return next(found, None)

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle rate; the last convolution has its own, larger rate.

        Units of a search get groups of their own, whose rates the search sets.
        """
        head, body = [], []
        prefix = f"network.{self.head}."
        search = allocation.search if (allocation := self._allocation()) else None
        units = search.groups(self.rate) if search else []
        own = {id(p) for group in units for p in group["params"]}
        for name, p in self.named_parameters():
            if p.requires_grad and id(p) not in own:
                (head if name.startswith(prefix) else body).append(p)
        groups = [
            {"params": ps, "lr": rate}
            for ps, rate in ((body, self.rate), (head, self.head_rate))
            if ps
        ] + units
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

    @property
    def written(self) -> list[Path]:
        """The files that predict wrote."""
        return self.results.written if self.results else []

    def scores_json(self) -> dict[str, Any]:
        """The last scores as plain values, by case and class."""
        return {name: {k: asdict(s) for k, s in case.items()} for name, case in self.scores.items()}
