"""The desk behind the page: one network with its graft, and the cases seen in this session.

A case is segmented twice, by the base (the graft switched off) and by the graft. Its files lie in a
folder of its own, which goes with the session.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import graftwork as gw
from graftwork.errors import GraftError

from ..demo import sim, task
from ..images.agree import UNSTATED
from ..images.folder import CaseFiles
from ..images.nifti import Array, apply_orientation, io_orientation, spacing_of, write_mask
from ..images.prepare import prepare
from ..images.volume import Volume, load
from ..module import Segmenter, input_channels
from ..prediction import metrics

KEPT = 12  # cases of a session; the oldest goes first
BASE, ADAPTED, TRUTH = "base", "adapted", "truth"


@dataclass(frozen=True)
class Seen:
    """One case: its masks by name (base, adapted and, when it is known, truth) and where its files are.

    `millilitres` and `dice` are by mask and class; a class that a mask cannot hold is missing there.
    """

    id: str
    name: str
    slug: str  # what its downloads are called
    folder: Path
    image: str  # file name of the scan in the folder
    affine: Array
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    masks: Mapping[str, Array]  # (X, Y, Z) uint8 in file order
    voxels: Array  # (X, Y, Z) in file order
    orientation: Array
    simulated: bool
    seconds: float
    millilitres: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dice: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """Every file of the case that the page may send, by name."""
        masks = {f"{mask}.nii.gz": self.folder / f"{mask}.nii.gz" for mask in self.masks}
        return {self.image: self.folder / self.image, **masks}

    def upright(self, array: Array) -> Array:
        """An array of the file's grid in RAS order."""
        return np.asarray(apply_orientation(array, self.orientation))

    @property
    def spacing(self) -> list[float]:
        """Voxel size in mm along the axes in RAS order."""
        return [float(s) for s in spacing_of(self.affine)[np.argsort(self.orientation[:, 0])]]


class Desk:
    """Segments examples and uploads, and keeps what it made under `folder`.

    `base` is the name of the base's weights. `classes` are the graft's, background first; those that it
    does not name are numbered. Raises GraftError when the network wants more than one channel: the
    page takes one file per scan.
    """

    def __init__(
        self,
        model: Segmenter,
        graft: gw.Graft,
        passport: Mapping[str, Any],
        folder: Path,
        *,
        base: str,
        classes: tuple[str, ...] = (),
    ) -> None:
        self.model, self.graft, self.passport, self.folder = model, graft, passport, folder
        self.base = f"{base} ({model.config.name})"
        self.contract = model.contract or UNSTATED
        model.eval()
        channels = input_channels(model.network)
        if channels != 1:
            raise GraftError(
                f"demo --serve: the network takes {channels} channels, the page one file per scan; "
                "use medseg predict for it"
            )
        self.classes = _names(classes or model.base_classes, _outputs(model, graft))
        self.base_classes = _names(model.base_classes or classes, _base_outputs(model))
        self.cases: OrderedDict[str, Seen] = OrderedDict()

    def examples(self) -> dict[str, list[str]]:
        """Names of the simulated scans to choose from, by site; those that no graft of the demo saw."""
        subjects = task.subjects()["test"]
        return {site: [f"{site}-{subject:04d}" for subject in subjects] for site in ("b", "a")}

    def example(self, name: str) -> Seen:
        """Simulate the scan `name` and segment it. Raises GraftError for a name that is no example."""
        if not any(name in names for names in self.examples().values()):
            raise GraftError(f"example {name!r}: there is no such example; choose one of the list")
        site, subject = name.split("-")
        scan = sim.simulate(site, int(subject))
        voxels, truth = scan.image.numpy(), scan.label.numpy()
        like = nib.Nifti1Image(voxels, scan.affine)
        like.set_qform(scan.affine, 1)
        like.set_sform(scan.affine, 1)
        # Its truth has the simulation's classes: it says nothing about a graft for other ones.
        known = truth if self.classes == sim.CLASSES else None
        image, placement, observed = prepare([voxels], scan.affine, self.contract, scan.name)
        volume = Volume(scan.name, image, None, known, placement, like, observed)

        def keep(folder: Path) -> str:
            nib.save(like, folder / "image.nii.gz")
            return "image.nii.gz"

        return self._see(self.title(name), f"simulated-{name}", volume, voxels, keep, True)

    @staticmethod
    def title(example: str) -> str:
        """An example's name in words."""
        site, subject = example.split("-")
        return f"Site {site.upper()}, subject {subject}"

    def upload(self, image: Path, label: Path | None = None) -> Seen:
        """Segment a NIfTI file; `label` is its truth, if there is one.

        Raises GraftError for whatever `read_case` refuses.
        """
        name = image.name.removesuffix(".gz").removesuffix(".nii")
        case = CaseFiles(name, (image,), label)
        scan = load(case, len(self.classes), self.contract, allow_empty=True)
        assert scan.like is not None
        voxels = np.asarray(scan.like.dataobj, dtype=np.float32)

        def keep(folder: Path) -> str:
            kept = "image.nii.gz" if image.name.endswith(".gz") else "image.nii"
            shutil.copyfile(image, folder / kept)
            return kept

        return self._see(name, name, scan, voxels, keep, False)

    def close(self) -> None:
        """Delete every case."""
        for id in list(self.cases):
            self._forget(id)

    def _see(
        self,
        name: str,
        slug: str,
        scan: Volume,
        voxels: Array,
        keep: Callable[[Path], str],
        simulated: bool,
    ) -> Seen:
        begun = time.perf_counter()
        masks: dict[str, Array] = {ADAPTED: self.model.segment(scan)}
        with self.graft.off():
            masks[BASE] = self.model.segment(scan)
        seconds = time.perf_counter() - begun
        if scan.truth is not None:
            masks[TRUTH] = scan.truth
        id = secrets.token_urlsafe(9)
        folder = self.folder / id
        folder.mkdir()
        image = keep(folder)
        assert scan.like is not None
        for mask, values in masks.items():
            write_mask(folder / f"{mask}.nii.gz", values, scan.like)
        affine = scan.placement.affine
        seen = Seen(
            id, name, slug, folder, image, affine, tuple(voxels.shape), self.classes, masks, voxels,
            io_orientation(affine), simulated, seconds,
            self._millilitres(masks, affine), self._dice(masks),
        )  # fmt: skip
        self.cases[id] = seen
        while len(self.cases) > KEPT:
            self._forget(next(iter(self.cases)))
        return seen

    def _forget(self, id: str) -> None:
        shutil.rmtree(self.cases.pop(id).folder, ignore_errors=True)

    def holds(self, mask: str, k: int) -> bool:
        """Whether the mask can hold class `k`: the base knows only its own."""
        return mask != BASE or self.base_classes[k : k + 1] == self.classes[k : k + 1]

    def _millilitres(
        self, masks: Mapping[str, Array], affine: Array
    ) -> dict[str, dict[str, float]]:
        voxel = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
        return {
            mask: {c: float((array == k).sum()) * voxel for k, c in self._held(mask)}
            for mask, array in masks.items()
        }

    def _dice(self, masks: Mapping[str, Array]) -> dict[str, dict[str, float]]:
        truth = masks.get(TRUTH)
        if truth is None:
            return {}
        return {
            mask: {c: metrics.dice(masks[mask] == k, truth == k) for k, c in self._held(mask)}
            for mask in (BASE, ADAPTED)
        }

    def _held(self, mask: str) -> list[tuple[int, str]]:
        return [(k, c) for k, c in enumerate(self.classes) if k and self.holds(mask, k)]


def _names(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """`count` class names: those that are known, if they are as many, else numbers."""
    if len(names) >= count:
        return tuple(names[:count])
    return (*names, *(f"class {k}" for k in range(len(names), count)))


def _base_outputs(model: Segmenter) -> int:
    return int(model.network.get_submodule(model.head).out_channels)


def _outputs(model: Segmenter, graft: gw.Graft) -> int:
    rows = [b["new"] for b in graft.spec()["also_train"] if b["kind"] == "rows"]
    return _base_outputs(model) + sum(rows)
