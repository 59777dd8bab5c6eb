"""OpenKBP, head-and-neck CT with partial labels: who belongs to which site, and cases ready to train on.

The folder is the one that `data_cards/prepare.py` writes: `images/`, `labels/`, `dataset.json` and
`partial.json`, which says for each case the organs that were annotated, and the spacing.

- **Sites.** Upstream gives no hospital. In-plane spacing stands in for it: it follows the scanner and its
  protocol. Up to 4.1 mm is the source site (147 cases, nearly all 3.75 to 3.92), from 4.2 mm on the
  shifted site (96); the three cases between belong to neither.
- **Working grid.** RAS, 3 mm: the files have 3.9 x 3.9 x 2.5 (source) to 5.1 x 5.1 x 3 mm, so 2 mm would
  hold 3.4 times the voxels and no more detail, and 96 voxels of 3 mm span head and neck.
- **Window.** After resampling, -175 to 250 HU to [0, 1] (as FSEFT, Medical Image Analysis 103, 2025):
  brainstem and cord lie near 30 to 40, parotids at -40 to 25, larynx and oesophagus at -60 to 60; bone
  saturates and keeps its shape.
- **Crop.** The box of what is above -500 HU, two voxels wider: upstream zeroed the CT outside the body.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftwork.errors import GraftError

from ..fewshot.shots import by_hash
from ..images.contract import Intensity
from ..images.folder import CaseFiles, read_case, read_dataset
from ..images.nifti import Array, Placement, place, place_label, spacing_of
from ..images.prepare import after_resampling
from .content import content_hash

BASE_ORGANS = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Mandible")
NOVEL_ORGANS = ("Larynx", "Esophagus")
SOURCE_UP_TO, SHIFTED_FROM = 4.1, 4.2  # mm, in-plane
SPACING = 3.0
INTENSITY = Intensity("window", -175.0, 250.0)  # HU
BODY_ABOVE, BODY_MARGIN = -500.0, 2  # HU; voxels of the file


@dataclass(frozen=True)
class Annotation:
    """What `partial.json` says of a case: the organs annotated in it and the voxel size in mm."""

    organs: frozenset[str]
    spacing: tuple[float, float, float]

    @property
    def site(self) -> str | None:
        """source, shifted, or None for a spacing between the two."""
        if self.spacing[0] <= SOURCE_UP_TO:
            return "source"
        return "shifted" if self.spacing[0] >= SHIFTED_FROM else None


def annotations(folder: str | Path) -> dict[str, Annotation]:
    """Read `partial.json`: what is annotated in each case.

    Raises GraftError when the file is missing, is not JSON, or an entry lacks a field.
    """
    file = Path(folder) / "partial.json"
    if not file.is_file():
        raise GraftError(f"{file}: missing; rebuild the folder with data_cards/prepare.py openkbp")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: Annotation(
                frozenset(map(str, case["annotated"])),
                (float(case["spacing_mm"][0]), float(case["spacing_mm"][1]),
                 float(case["spacing_mm"][2])),
            )
            for name, case in found.items()
        }  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise GraftError(
            f"{file}: each case needs 'annotated' (organ names) and 'spacing_mm' (three numbers): "
            f"{error!r}"
        ) from error


def split_source(cases: dict[str, Annotation]) -> dict[str, list[str]]:
    """The source site's patients in train, validation and test: 70, 10 and 20 %, by a hash of the id."""
    order = by_hash((n for n, a in cases.items() if a.site == "source"), "openkbp base")
    test, validation = round(0.2 * len(order)), round(0.1 * len(order))
    return {
        "train": sorted(order[test + validation :]),
        "validation": sorted(order[test : test + validation]),
        "test": sorted(order[:test]),
    }


@dataclass
class Case:
    """A case on the working grid, cut to the body.

    `image` (1, x, y, z) float32 in [0, 1]; `label` (x, y, z) uint8 indices into ("background", *organs);
    `known` which of these classes are annotated. `truth` (X, Y, Z) and `spacing` are the file's own;
    `box` is where the body lies in it.
    """

    name: str
    image: Tensor
    label: Tensor
    known: tuple[bool, ...]
    truth: Array
    spacing: Array
    placement: Placement
    box: tuple[slice, ...]
    content: str  # hash of image and label files

    def restore(self, logits: Tensor) -> Array:
        """Class scores (C, x, y, z) on the working grid to a mask (X, Y, Z) on the file's grid."""
        mask = np.zeros(self.truth.shape, np.uint8)
        mask[self.box] = self.placement.restore(logits)
        return mask


def body_box(voxels: Array) -> tuple[slice, ...]:
    """The box of what is above `BODY_ABOVE`, `BODY_MARGIN` wider; the whole volume if nothing is."""
    body = voxels > BODY_ABOVE
    if not body.any():
        return tuple(slice(0, n) for n in voxels.shape)
    box = []
    for axis in range(3):
        line = np.flatnonzero(body.any(tuple(k for k in range(3) if k != axis)))
        low, high = int(line[0]) - BODY_MARGIN, int(line[-1]) + 1 + BODY_MARGIN
        box.append(slice(max(0, low), min(voxels.shape[axis], high)))
    return tuple(box)


def read(
    files: CaseFiles, classes: Sequence[str], annotation: Annotation, organs: Sequence[str]
) -> Case:
    """Read one case and place it; labels of organs other than `organs` become background.

    Raises GraftError as `read_case` does.
    """
    channels, label, header = read_case(files, len(classes), spacing=SPACING, allow_empty=True)
    assert label is not None and files.label is not None
    table = np.zeros(len(classes), np.uint8)
    for value, organ in enumerate(organs, 1):
        if organ in annotation.organs:
            table[list(classes).index(organ)] = value
    truth = table[label]
    box = body_box(channels[0])
    affine = np.array(header.affine, dtype=np.float64)
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    image, placement = place(channels[0][box], affine, SPACING)
    placed = place_label(truth[box], placement, image.shape, len(organs) + 1)
    return Case(
        files.name,
        after_resampling(torch.from_numpy(np.ascontiguousarray(image)), INTENSITY)[None],
        torch.from_numpy(placed),
        (True, *(organ in annotation.organs for organ in organs)),
        truth,
        spacing_of(header.affine),
        placement,
        box,
        content_hash(channels[0], header.affine) + content_hash(label, header.affine),
    )


def load(
    folder: str | Path,
    names: Sequence[str],
    organs: Sequence[str] = BASE_ORGANS,
    *,
    threads: int = 8,
    tick: Callable[[], Any] | None = None,
) -> list[Case]:
    """Read the cases `names` of a prepared folder, in their order; other cases' files may be absent.

    Raises GraftError for an organ or a case that the folder does not list, and as `read` does.
    """
    dataset, partial = read_dataset(folder), annotations(folder)
    missing = [o for o in organs if o not in dataset.classes]
    if missing:
        raise GraftError(f"{dataset.path / 'dataset.json'}: field 'labels' lacks {missing[0]!r}")
    files = {case.name: case for case in dataset.training}
    absent = [n for n in names if n not in files or n not in partial]
    if absent:
        raise GraftError(
            f"{dataset.path}: dataset.json or partial.json does not list {absent[0]!r}"
        )

    def one(name: str) -> Case:
        case = read(files[name], dataset.classes, partial[name], organs)
        if tick:
            tick()
        return case

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, names))
