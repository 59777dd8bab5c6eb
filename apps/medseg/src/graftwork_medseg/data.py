"""Data modules: simulated scans (the embedded default), a folder with dataset.json, or bare image files."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from graftwork.errors import GraftError
from graftwork.lightning.data import ResumableLoader

from .demo import sim, task
from .fewshot import shots
from .images.agree import UNSTATED, Options, agree, unstated
from .images.contract import Contract, Intensity, Observed, Triple
from .images.folder import CaseFiles, read_case, read_dataset
from .images.organs import Organs, sided
from .images.patches import Patches
from .images.scans import find_scans, scan_name
from .images.volume import Volume, load, simulated

Spacing = float | Triple | Literal["own"] | None  # as a config says it


@dataclass(frozen=True)
class Input:
    """A case that is still to be read: its name, its image files (none when simulated), and its reader."""

    name: str
    files: tuple[Path, ...]
    read: Callable[[], Volume]


class _Lazy(Dataset[Volume]):
    """Whole cases, read when asked for: a test set need not fit into memory."""

    def __init__(self, readers: Sequence[Callable[[], Volume]]) -> None:
        self.readers = readers

    def __len__(self) -> int:
        return len(self.readers)

    def __getitem__(self, index: int) -> Volume:
        return self.readers[index]()


def _observed(volumes: Iterable[Volume]) -> list[Observed]:
    return [v.observed for v in volumes if v.observed is not None]


def _only(batch: list[Volume]) -> Volume:
    return batch[0]


def one_by_one(readers: Sequence[Callable[[], Any]]) -> Any:
    """A loader of whole cases, each read when its turn comes."""
    return DataLoader(_Lazy(readers), batch_size=1, collate_fn=_only)


class VolumeData(LightningDataModule):
    """What every data module of medseg shares: patches to train on, whole cases to measure on.

    Args:
        roi: patch size in voxels of the working grid; null: as the base was trained, where its contract says.
        batch_size: patches per step.
        patches_per_epoch: patches that count as one epoch.
        num_workers: processes that cut patches.
        seed: of the patches and their order.
    """

    classes: ClassVar[tuple[str, ...]] = ()
    options = Options()  # what the user asked of the preprocessing
    groups: dict[str, list[Any]]  # cases by group: train, validate, test, predict
    contract: Contract = UNSTATED  # what the images are prepared by; see `take_on`
    fallback: Contract | None = UNSTATED  # for a network that states no contract
    organs: Organs | None = None  # what of the labels is learnt, where it is asked for by name
    around = 0.0  # share of the patches that are centred on a class
    mirror = True  # mirror half of them left-right

    def __init__(
        self,
        roi: Sequence[int] | None = None,
        batch_size: int = task.BATCH,
        patches_per_epoch: int = 20,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if roi is not None and (len(roi) != 3 or min(roi) < 8):
            raise GraftError(f"data.roi {list(roi)} must be three sizes of at least 8 voxels")
        if batch_size < 1 or patches_per_epoch < batch_size:
            raise GraftError(
                f"data.patches_per_epoch {patches_per_epoch} must be at least data.batch_size "
                f"{batch_size}, and both positive"
            )
        self._roi = tuple(roi) if roi else None
        self.roi = self._roi or task.PATCH
        self.batch_size, self.patches_per_epoch = batch_size, patches_per_epoch
        self.num_workers, self.seed = num_workers, seed
        self._observed: list[Observed] = []  # of the training cases, once they are read

    def readers(self, group: str) -> list[Callable[[], Volume]]:
        """Functions that read the cases of `group`: train, validate, test or predict."""
        raise NotImplementedError

    def inputs(self, group: str) -> list[Input]:
        """The cases of `group` by name, before any is read."""
        return [Input(f"{group}-{i}", (), read) for i, read in enumerate(self.readers(group))]

    def labelled(self) -> list[str]:
        """Names of the training and validation cases, in the order of `leave_out`."""
        return [one.name for group in ("train", "validate") for one in self.inputs(group)]

    def leave_out(self, index: int) -> VolumeData:
        """A data module that trains on all labelled cases but one, and validates on that one."""
        cases = [*self.groups["train"], *self.groups["validate"]]
        fold = copy.copy(self)
        fold.groups = {
            **self.groups,
            "train": cases[:index] + cases[index + 1 :],
            "validate": [cases[index]],
        }
        fold._observed = []
        return fold

    def take_on(self, known: Contract | None, source: str, *, free: bool, graft: bool) -> None:
        """Prepare the images by the contract of what was loaded from `source`; see `agree`."""
        self.roi = self._roi or (known.patch if known else None) or task.PATCH
        self.contract = agree(
            known or self.fallback, self.options, source, free=free, graft=graft, patch=self.roi
        )

    def observed(self) -> list[Observed]:
        """What the training cases are like; they are read unless training has read them."""
        return self._observed or _observed(read() for read in self.readers("train"))

    def train_dataloader(self) -> Any:
        volumes = [read() for read in self.readers("train")]
        self._observed = _observed(volumes)
        patches = Patches(
            volumes, self.roi, self.patches_per_epoch, self.seed, self.around, self.mirror
        )
        return ResumableLoader(
            patches,
            batch_size=self.batch_size,
            seed=self.seed,
            num_workers=self.num_workers,
            drop_last=True,
            persistent_workers=self.num_workers > 0,
        )

    def _whole(self, group: str) -> Any:
        return one_by_one(self.readers(group))

    def val_dataloader(self) -> Any:
        return self._whole("validate")

    def test_dataloader(self) -> Any:
        return self._whole("test")

    def predict_dataloader(self) -> Any:
        return self._whole("predict")


class SimulatedData(VolumeData):
    """Simulated subjects of one site on real anatomy: the embedded default. Nothing is downloaded.

    Args:
        site: simulated scanner, "a" or "b".
        train, validate, test: how many subjects each group has; they are drawn by a hash.
        options: see `VolumeData`.
    """

    classes = sim.CLASSES

    def __init__(
        self, site: str = "b", train: int = 5, validate: int = 2, test: int = 8, **options: Any
    ) -> None:
        super().__init__(**options)
        if site not in sim.SITES:
            raise GraftError(f"data.site {site!r}: choose one of {', '.join(sim.SITES)}")
        if min(train, validate, test) < 1:
            raise GraftError("data.train, data.validate and data.test must be at least 1")
        self.site = site
        self.options = Options(classes=self.classes, channels=("simulated T1",))
        self.groups = sim.split(task.POOL, train=train, validate=validate, test=test)
        self.groups["predict"] = self.groups["test"]

    def readers(self, group: str) -> list[Callable[[], Volume]]:
        return [
            lambda subject=task.FIRST + i: simulated(  # type: ignore[misc]
                self.site, subject, contract=self.contract
            )
            for i in self.groups[group]
        ]


class FolderData(VolumeData):
    """A folder of NIfTI files with an MSD or nnU-Net `dataset.json`.

    Args:
        path: the folder.
        spacing: working voxel size in mm, one number or one per axis, or "own", which keeps each image's
            own; null: as the network's contract says.
        intensity: rule that makes a channel's values the network's input, see `Intensity`; null: as the
            network's contract says.
        held_out: training cases kept for validation, chosen by a hash of their names; null: a fifth, at
            least one when there are two or more.
        allow_empty: accept labels without any foreground.
        around: share of the training patches that are centred on a voxel with a class; null: half where organs
            are asked for by name, none otherwise.
        mirror: mirror half of the patches left-right; null: unless a class name tells left from right.
        options: see `VolumeData`.
    """

    fallback = None

    def __init__(
        self,
        path: str,
        spacing: Spacing = None,
        intensity: Intensity | None = None,
        held_out: int | None = None,
        allow_empty: bool = False,
        around: float | None = None,
        mirror: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if around is not None and not 0 <= around <= 1:
            raise GraftError(f"data.around {around} must lie between 0 and 1")
        self.dataset = read_dataset(path)
        self.allow_empty = allow_empty
        self.classes = self.dataset.classes  # type: ignore[misc]
        self._around, self._mirror = around, mirror
        self._sample_by(self.classes)
        self.options = Options(spacing, intensity, self.dataset.channels, self.classes)
        self.take_on(unstated(*self.dataset.channels), "data", free=True, graft=False)
        cases = sorted(
            self.dataset.training, key=lambda c: hashlib.sha256(c.name.encode()).digest()
        )
        if held_out is None:
            held_out = max(1, len(cases) // 5) if len(cases) > 1 else 0
        if not 0 <= held_out < len(cases):
            raise GraftError(
                f"data.held_out {held_out}: the folder has {len(cases)} training cases, and at least "
                "one must be left to train on"
            )
        labelled = [c for c in self.dataset.test if c.label is not None]
        self.groups = {
            "train": cases[held_out:],
            "validate": cases[:held_out],
            "test": labelled,
            "predict": list(self.dataset.test or self.dataset.training),
        }

    def _sample_by(self, classes: Sequence[str]) -> None:
        default = 0.5 if self.organs else 0.0
        self.around = default if self._around is None else self._around
        self.mirror = not sided(classes) if self._mirror is None else self._mirror

    def ask(self, organs: Organs) -> None:
        """Learn and measure `organs` alone; the classes are the network's from now on."""
        self.organs, self.classes = organs, organs.classes  # type: ignore[misc]
        self.options = replace(self.options, classes=organs.classes)
        self._sample_by(organs.classes)

    def draw(self, count: int | None, fold: int) -> shots.Shots:
        """Train on `count` cases that show the asked organs and validate on one more; see `choose`."""
        assert self.organs is not None
        cases = {case.name: case for case in self.dataset.training}
        chosen = shots.choose(cases, self.organs.asked, self._shows(cases), count, fold)
        self.take(chosen.train, [chosen.audit] if chosen.audit else [])
        return chosen

    def _shows(self, cases: dict[str, CaseFiles]) -> Callable[[str], bool]:
        names, wanted = self.dataset.classes, set(self.organs.values() if self.organs else ())

        def shows(name: str) -> bool:
            _, label, _ = read_case(cases[name], len(names), allow_empty=True, names=names)
            return label is not None and wanted <= set(np.unique(label).tolist())

        return shows

    def take(
        self, train: Sequence[str], validate: Sequence[str], test: Sequence[str] | None = None
    ) -> None:
        """Put labelled cases into the groups, by name; None leaves the test group as it is.

        Raises GraftError for a name that the folder does not list.
        """
        known = {c.name: c for c in (*self.dataset.training, *self.dataset.test)}
        wanted = {"train": train, "validate": validate}
        if test is not None:
            wanted["test"] = test
        for group, names in wanted.items():
            absent = [n for n in names if n not in known]
            if absent:
                raise GraftError(f"{self.dataset.path}: dataset.json lists no case {absent[0]!r}")
            self.groups[group] = [known[n] for n in names]

    def readers(self, group: str) -> list[Callable[[], Volume]]:
        if group == "test" and not self.groups["test"]:
            raise GraftError(
                f"{self.dataset.path}: no labelled test case; list some as "
                '{"image", "label"} under "test" of dataset.json, or put labels into labelsTs/'
            )
        return [
            lambda case=case: load(  # type: ignore[misc]
                case,
                len(self.dataset.classes),
                self.contract,
                self.organs,
                allow_empty=self.allow_empty,
                names=self.dataset.classes,
            )
            for case in self.groups[group]
        ]

    def inputs(self, group: str) -> list[Input]:
        read = self.readers(group)
        return [
            Input(case.name, case.images, one)
            for case, one in zip(self.groups[group], read, strict=True)
        ]


class ImageFiles(VolumeData):
    """Bare images to predict, one channel each: NIfTI files, or DICOM series.

    Args:
        files: NIfTI files, folders whose .nii and .nii.gz files are all taken, or DICOM series: folders or
            zip archives.
        spacing: working voxel size in mm, one number or one per axis, or "own"; null: as the network's
            contract says.
        intensity: rule of the channel's values; null: as the network's contract says.
        series: SeriesInstanceUID to take where a DICOM folder holds several.
        labels: class names by value, background first; null: the network's own.
        options: see `VolumeData`.
    """

    fallback = None

    def __init__(
        self,
        files: Sequence[str],
        spacing: Spacing = None,
        intensity: Intensity | None = None,
        series: str | None = None,
        labels: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.files, self.series = find_scans(files), series
        self.classes = tuple(labels or ())  # type: ignore[misc]
        self.options = Options(spacing, intensity)
        self.take_on(UNSTATED, "data", free=True, graft=False)

    def inputs(self, group: str) -> list[Input]:
        if group != "predict":
            raise GraftError(
                f"data: bare image files have no labels, so they cannot serve {group!r}"
            )
        cases = [CaseFiles(scan_name(path), (path,), None) for path in self.files]
        return [
            Input(
                case.name,
                case.images,
                partial(
                    load,
                    case,
                    max(2, len(self.contract.classes)),
                    self.contract,
                    series=self.series,
                ),
            )
            for case in cases
        ]

    def readers(self, group: str) -> list[Callable[[], Volume]]:
        return [one.read for one in self.inputs(group)]
