"""What is written of one predicted case: its mask in the formats asked for, its maps, its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from graftwork.errors import GraftError

from ..files import publish
from ..images.dicom_read import series_of
from ..images.nifti import Array, Header, write_mask
from .maps import Maps, Wanted

FORMATS = {
    "nifti": ".nii.gz",
    "seg": ".seg.dcm",
    "rtstruct": ".rtstruct.dcm",
}
MAPS = {"uncertainty": ".uncertainty.nii.gz", "probabilities": ".probabilities.nii.gz"}


@dataclass(frozen=True)
class Outputs:
    """What `predict` writes per case. `flips` averages over mirror images; `overwrite` replaces files."""

    formats: tuple[str, ...] = ("nifti",)
    uncertainty: bool = False
    probabilities: bool = False
    flips: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        unknown = [f for f in self.formats if f not in FORMATS]
        if unknown or not self.formats:
            raise GraftError(
                f"outputs {list(self.formats)}: choose among {', '.join(FORMATS)}"
                if unknown
                else f"outputs is empty: choose among {', '.join(FORMATS)}"
            )

    @property
    def wanted(self) -> Wanted:
        """The maps that prediction must keep."""
        return Wanted(entropy=self.uncertainty, probabilities=self.probabilities, flips=self.flips)

    def endings(self) -> list[str]:
        """The endings of the files of a case."""
        kept = [ending for name, ending in MAPS.items() if getattr(self, name)]
        return [*(FORMATS[f] for f in dict.fromkeys(self.formats)), *kept]


def refuse_formats(name: str, outputs: Outputs, is_series: bool) -> None:
    """Raise GraftError for a DICOM format of an image that is no DICOM series."""
    dicom = [kind for kind in dict.fromkeys(outputs.formats) if kind != "nifti"]
    if dicom and not is_series:
        raise GraftError(
            f"case {name}: output {dicom[0]} needs a DICOM series to refer to; leave it out of --outputs"
        )


def write_case(
    folder: Path, name: str, maps: Maps, like: Header, outputs: Outputs, classes: Sequence[str]
) -> list[Path]:
    """Write the files of one case on the grid of `like`, each atomically; returns their paths.

    Raises GraftError for a DICOM format of an image that is no DICOM series.
    """
    series = series_of(like)
    refuse_formats(name, outputs, series is not None)
    written = []
    for kind in dict.fromkeys(outputs.formats):
        target = folder / f"{name}{FORMATS[kind]}"
        if kind == "nifti":
            written.append(write_mask(target, maps.mask, like))
        else:
            assert series is not None
            from ..images import dicom_write

            write = dicom_write.write_seg if kind == "seg" else dicom_write.write_rtstruct
            written.append(write(target, maps.mask, series, classes))
    if maps.entropy is not None:
        level = np.rint(255 * maps.entropy).astype(np.uint8)
        written.append(write_shares(folder / f"{name}{MAPS['uncertainty']}", level, like))
    if maps.probabilities is not None:
        target = folder / f"{name}{MAPS['probabilities']}"
        written.append(write_shares(target, np.moveaxis(maps.probabilities, 0, -1), like))
    return written


def write_shares(path: Path, levels: Array, like: Header) -> Path:
    """Write numbers from 0 to 1 as uint8 with scl_slope 1/255, on the grid of `like`, atomically.

    `levels` (X, Y, Z) or (X, Y, Z, C) holds 255 times the numbers. NIfTI has no 16-bit floats; the steps of
    1/255 are finer than such maps are true.
    """
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header["cal_min"], header["cal_max"], header["intent_code"] = 0, 1, 0
    image = nib.Nifti1Image(levels, like.affine, header)
    image.header.set_slope_inter(1 / 255, 0)
    with publish(path) as temporary:
        nib.save(image, temporary)
    return path


def statistics(
    name: str, mask: Array, like: Header, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Per class from 1 on: voxels, volume in ml, and mean, sd, median, p5 and p95 of the image's values.

    Values are those of the first channel in the file's own units (HU for CT), sd that of the population.
    They are None for a class without voxels.
    """
    values = np.asarray(like.dataobj, dtype=np.float32)
    axes = np.asarray(like.affine, dtype=np.float64)[:3, :3]
    voxel = abs(float(np.linalg.det(axes))) / 1000  # ml; the determinant also fits a sheared grid
    rows = []
    for k, label in enumerate(classes):
        if k:
            inside = values[mask == k].astype(np.float64)
            row: dict[str, Any] = {"case": name, "class": label, "voxels": int(inside.size)}
            row["ml"] = round(inside.size * voxel, 4)
            known = inside.size > 0
            p5, median, p95 = np.percentile(inside, [5, 50, 95]) if known else (None,) * 3
            mean, sd = (inside.mean(), inside.std()) if known else (None, None)
            for key, value in (
                ("mean", mean), ("sd", sd), ("median", median), ("p5", p5), ("p95", p95),
            ):  # fmt: skip
                row[key] = None if value is None else round(float(value), 6)
            rows.append(row)
    return rows
