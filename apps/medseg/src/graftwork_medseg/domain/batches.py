"""Batches and test cases of the domain bases, by plan: what `train_domain` trains and measures on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftwork.errors import GraftError

from ..demo.sim import generator
from ..images.contract import Observed, Ranges
from ..images.folder import read_case, read_dataset
from ..images.nifti import spacing_of
from ..images.prepare import prepare
from ..prediction import metrics
from . import openkbp, synth
from .augment import Augment, cut, middle_of_patch
from .content import content_hash
from .openkbp import Case
from .plans import Plan

Batch = tuple[Tensor, Tensor, Tensor | None]  # image, label, known classes


@dataclass
class Scored:
    """A group of test cases: their scores, and how many organs could not be scored."""

    group: str
    cases: list[dict[str, metrics.Score]]
    unannotated: dict[str, int]
    empty: dict[str, int]


Predict = Callable[[Tensor], Tensor]  # image (1, C, x, y, z) on the device to class scores


class OpenKBP:
    """Patches of the source site's training patients, and its validation and test patients.

    Args:
        folder: as `data_cards/prepare.py openkbp` writes it; the shifted site's files are not opened.
        device: where the volumes stay.
        limit: take the first so many patients of each group.
        threads: that read files.
    """

    augment = Augment()  # no mirror: left and right parotid have names of their own

    def __init__(
        self, plan: Plan, folder: Path, device: str, limit: int | None, threads: int = 8
    ) -> None:
        self.plan, self.device = plan, device
        split = openkbp.split_source(openkbp.annotations(folder))
        if not split["train"] or not split["test"]:
            raise GraftError(f"{folder}: partial.json lists too few cases of the source site")
        self.split = {group: names[:limit] for group, names in split.items()}
        organs = plan.classes[1:]
        self.groups = {
            group: openkbp.load(folder, names, organs, threads=threads)
            for group, names in self.split.items()
        }
        half = torch.float16 if device.startswith("cuda") else torch.float32
        train = self.groups["train"]
        self.images = [case.image.to(device, half) for case in train]
        self.labels = [case.label.to(device) for case in train]
        self.known = torch.tensor([case.known for case in train])
        self.inside = [_voxels_by_class(case.label, len(plan.classes)) for case in train]

    def summary(self) -> str:
        """One line on what was read."""
        return ", ".join(f"{len(cases)} {group}" for group, cases in self.groups.items())

    def draw(self, seed: int, step: int, batch: int) -> Batch:
        """Batch number `step`: (N, 1, *patch), (N, *patch) and known (N, C); half around an organ."""
        draw = generator("domain", self.plan.name, seed, step)
        chosen = torch.randint(len(self.images), (batch,), generator=draw).tolist()
        xs, ys = [], []
        for i in chosen:
            shape, inside = self.labels[i].shape, self.inside[i]
            if inside and torch.rand((), generator=draw) < 0.5:
                voxels = inside[int(torch.randint(len(inside), (), generator=draw))]
                at = voxels[int(torch.randint(len(voxels), (), generator=draw))].tolist()
            else:
                at = (torch.rand(3, generator=draw) * torch.tensor(shape)).tolist()
            centre = middle_of_patch(at, shape, self.plan.patch)
            matrix = self.augment.matrix(draw)
            x, y = cut(self.images[i], self.labels[i], centre, self.plan.patch, matrix)
            xs.append(x)
            ys.append(y)
        noise = int(torch.randint(2**62, (), generator=draw))
        x = self.augment.shade(torch.stack(xs), draw, noise)
        return x, torch.stack(ys), self.known[chosen].to(self.device)

    def score(self, predict: Predict) -> Iterator[Scored]:
        """Score validation and test patients, each on its file's own grid."""
        for group in ("validation", "test"):
            names = self.plan.classes[1:]
            out = Scored(group, [], dict.fromkeys(names, 0), dict.fromkeys(names, 0))
            for case in self.groups[group]:
                mask = case.restore(predict(case.image[None].to(self.device))[0].float().cpu())
                out.cases.append(
                    score_known(mask, case, self.plan.classes, out, self.plan.tolerance_mm)
                )
            yield out

    def ranges(self) -> Ranges:
        """Voxel sizes and extents of the training files, mm; their axes are RAS."""
        return Ranges.of(
            [
                Observed(_triple(case.spacing), _triple(case.spacing * case.truth.shape))
                for case in self.groups["train"]
            ]
        )

    def content(self) -> dict[str, str]:
        """One hash over the decoded content of every case that was read, by group."""
        return {
            f"openkbp {group}": joined({case.name: case.content for case in cases})
            for group, cases in self.groups.items()
        }


def score_known(
    mask: Any, case: Case, classes: Sequence[str], counts: Scored, tolerance_mm: float = 2.0
) -> dict[str, metrics.Score]:
    """Scores of the organs that are annotated and present in a case; the others are counted."""
    out = {}
    for k, organ in enumerate(classes[1:], 1):
        if not case.known[k]:
            counts.unannotated[organ] += 1
        elif not (case.truth == k).any():
            counts.empty[organ] += 1
        else:
            out[organ] = metrics.score(mask == k, case.truth == k, case.spacing, tolerance_mm)
    return out


def _voxels_by_class(label: Tensor, classes: int) -> list[Tensor]:
    found = [(label == k).nonzero() for k in range(1, classes)]
    return [voxels for voxels in found if len(voxels)]


class SynthHippocampus:
    """Synthetic images around hippocampi, drawn anew for every step, and synthetic test subjects.

    Args:
        folder: as `data_cards/prepare.py synthseg` writes it.
        device: where the label maps stay and the images are drawn.
        limit: take the first so many subjects of each group.
        real: a folder of measured hippocampus volumes (Decathlon layout) to score at the end, or None.
        real_names: which of its cases; None: all.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        device: str,
        limit: int | None,
        real: Path | None = None,
        real_names: Sequence[str] | None = None,
    ) -> None:
        self.plan, self.device = plan, device
        files = synth.subjects(folder)
        self.maps = {g: synth.read_maps(paths[:limit], device) for g, paths in files.items()}
        self.real, self.real_names, self.limit = real, real_names, limit
        self.real_content: dict[str, str] = {}
        if real is not None:
            read_dataset(real)  # a wrong folder is told before the training

    def summary(self) -> str:
        """One line on what was read."""
        return ", ".join(f"{len(m.names)} {group} hippocampi" for group, m in self.maps.items())

    def draw(self, seed: int, step: int, batch: int) -> Batch:
        """Batch number `step`: (N, 1, *SIZE) and (N, *SIZE)."""
        maps = self.maps["train"]
        chosen = torch.randint(
            len(maps.names), (batch,), generator=generator("synth batch", seed, step)
        )
        drawn = [synth.example(maps, int(i), "train", seed, step, k) for k, i in enumerate(chosen)]
        return torch.stack([d[0] for d in drawn]), torch.stack([d[1] for d in drawn]), None

    def score(self, predict: Predict) -> Iterator[Scored]:
        """Score four synthetic images of each test hippocampus, then the measured ones if a folder is given."""
        organ = self.plan.classes[1]
        maps, cases, tolerance = self.maps["test"], [], self.plan.tolerance_mm
        for i in range(len(maps.names)):
            for k in range(4):
                image, truth, box = synth.example(maps, i, "test", i, k)
                mask = predict(image[None, :, *box])[0].argmax(0).cpu().numpy()
                wanted = truth[box].cpu().numpy()
                cases.append(
                    {organ: metrics.score(mask == 1, wanted == 1, (1.0, 1.0, 1.0), tolerance)}
                )
        yield Scored("synthetic test", cases, {organ: 0}, {organ: 0})
        if self.real is not None:
            yield self._score_real(predict)

    def _score_real(self, predict: Predict) -> Scored:
        assert self.real is not None
        organ, dataset, cases = self.plan.classes[1], read_dataset(self.real), []
        wanted = [
            c for c in dataset.training if self.real_names is None or c.name in self.real_names
        ]
        if not wanted:
            raise GraftError(f"{self.real}: dataset.json lists none of the cases to score")
        for files in wanted[: self.limit]:
            channels, label, header = read_case(files, len(dataset.classes))
            assert label is not None
            x, placement, _ = prepare(channels, header.affine, self.plan.contract())
            x = x[None].to(self.device)
            mask = placement.restore(predict(x)[0].float().cpu())
            self.real_content[files.name] = content_hash(channels[0], header.affine) + (
                content_hash(label, header.affine)
            )
            cases.append(
                {
                    organ: metrics.score(
                        mask == 1, label > 0, spacing_of(header.affine), self.plan.tolerance_mm
                    )
                }
            )
        return Scored("measured MR", cases, {organ: 0}, {organ: 0})

    def ranges(self) -> None:
        """The contract knows no ranges: what was drawn is not what will come."""

    def content(self) -> dict[str, str]:
        """One hash over the decoded content of every file that was read, by group."""
        found = {f"synthseg {group}": joined(m.content) for group, m in self.maps.items()}
        if self.real_content:
            found["hippocampus measured"] = joined(self.real_content)
        return found


def joined(contents: dict[str, str]) -> str:
    """SHA-256 of named content hashes, in the order of the names."""
    text = "\n".join(f"{name} {contents[name]}" for name in sorted(contents))
    return hashlib.sha256(text.encode()).hexdigest()


def _triple(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
