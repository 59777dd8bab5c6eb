"""NIfTI in and out: checked reading, the network's working grid, and masks on the input's own grid."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from graftwork.errors import GraftError

from ..files import publish

Array = NDArray[Any]
Header = nib.Nifti1Image | nib.Nifti2Image


def open_image(path: str | Path) -> Header:
    """Open a NIfTI file and check its header; the voxels stay on disk.

    Raises GraftError naming the file: missing, not NIfTI, not 3D, not numeric, a spacing or affine that is
    not finite, zero or singular, or axes whose directions are unknown.
    """
    path = Path(path)
    if not path.is_file():
        raise GraftError(f"{path}: no such image file")
    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError) as error:
        raise GraftError(f"{path}: not a readable NIfTI file: {error}; copy it again") from error
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        raise GraftError(f"{path}: is {type(image).__name__}, give a NIfTI file (.nii or .nii.gz)")
    shape = image.shape
    if len(shape) != 3 or 0 in shape:
        raise GraftError(
            f"{path}: shape {shape} has {len(shape)} dimensions; a 3D image is needed: "
            + ("split it into one file per volume" if len(shape) > 3 else "stack its slices")
        )
    if image.get_data_dtype().kind not in "iuf":
        raise GraftError(
            f"{path}: voxel type {image.get_data_dtype()} is not a real number; convert it"
        )
    pixdim = np.asarray(image.header["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(pixdim).all() or (pixdim == 0).any():
        raise GraftError(f"{path}: header field pixdim (spacing) is {pixdim.tolist()}; mend it")
    if not (int(image.header["qform_code"]) or int(image.header["sform_code"])):
        # nibabel would take the axes for left, anterior and superior: left and right may be swapped.
        raise GraftError(
            f"{path}: header fields qform_code and sform_code are 0, so its orientation is unknown; write it "
            "anew with the scanner's, or set the code once the affine is known to be right"
        )
    if not np.isfinite(image.affine).all():
        raise GraftError(f"{path}: the affine (sform or qform) holds NaN or infinity; mend it")
    if abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise GraftError(f"{path}: the affine (sform or qform) is singular; mend it")
    return image


def spacing_of(affine: Array) -> Array:
    """Voxel size in mm along each array axis, from the affine's columns."""
    return np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)


def read_voxels(image: Header, path: str | Path) -> Array:
    """The voxels as float32 (X, Y, Z) in file order.

    Raises GraftError for a damaged or truncated file and for voxels that are NaN or infinite.
    """
    try:
        if str(path).endswith(".gz"):
            _check_sum(Path(path))
        data = np.asarray(image.dataobj, dtype=np.float32)
    except GraftError:
        raise  # a series names the slice's file itself
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise GraftError(f"{path}: its voxels cannot be read: {error}; copy it again") from error
    if not np.isfinite(data).all():
        raise GraftError(
            f"{path}: {int((~np.isfinite(data)).sum())} voxels are NaN or infinite; replace them, by the "
            "background's value if they lie outside the body"
        )
    return data


def _check_sum(path: Path) -> None:
    """Read a gzip file to its end: nibabel stops at the last voxel, before the checksum."""
    with gzip.open(path) as file:
        while file.read(1 << 20):
            pass


@dataclass(frozen=True)
class Placement:
    """How a working grid lies in an image: to invert what `place` did."""

    affine: Array
    shape: tuple[int, ...]
    orientation: Array  # file order -> working axes
    turned_shape: tuple[int, ...]  # of the file's grid, along the working axes
    own: tuple[float, float, float]  # voxel size of the file's grid along the working axes, mm
    spacing: tuple[float, float, float]  # of the working grid, mm

    def restore(self, logits: Tensor) -> Array:
        """Class scores (C, x, y, z) on the working grid to a uint8 mask (X, Y, Z) in file order."""
        probabilities = torch.softmax(logits.float(), 0)
        if tuple(probabilities.shape[1:]) != self.turned_shape:
            # One class at a time: all of them on the image's grid at once may not fit.
            best = torch.full(self.turned_shape, -1.0)
            mask = torch.zeros(self.turned_shape, dtype=torch.uint8)
            for k, one in enumerate(probabilities.cpu()):
                fine = F.interpolate(one[None, None], size=self.turned_shape, mode="trilinear")[
                    0, 0
                ]
                mask[fine > best] = k
                best = torch.maximum(best, fine)
        else:
            mask = probabilities.argmax(0).to(torch.uint8).cpu()
        return self.to_file_order(mask.numpy())

    def to_file_order(self, array: Array) -> Array:
        """An array along the working axes on the file's grid, turned back to the file's axis order and directions."""
        back = ornt_transform(np.array([[0, 1], [1, 1], [2, 1]], dtype=float), self.orientation)
        return np.ascontiguousarray(apply_orientation(array, back))


def _resample(volume: Array, size: Sequence[int], order: str) -> Array:
    """Interpolate to `size`, after a blur along each axis that shrinks (against aliasing)."""
    if tuple(volume.shape) == tuple(size):
        return volume
    if order == "trilinear":
        for axis, (have, want) in enumerate(zip(volume.shape, size, strict=True)):
            if have > want:
                volume = gaussian_filter1d(volume, (have / want - 1) / 2, axis, mode="nearest")
    out = F.interpolate(
        torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None],
        size=tuple(size),
        mode="nearest-exact" if order == "nearest" else order,
    )
    return out[0, 0].numpy()


Spacing = float | Sequence[float] | None


def orientation_to(axes: str, affine: Array) -> Array:
    """How the file's axes become the working axes: nibabel's orientation array, (3, 2).

    `axes` are axis codes such as "RAS", or an order of the file's own axes such as "kji".
    """
    if axes.islower():
        return np.array([[axes.index(letter), 1.0] for letter in "ijk"])
    return ornt_transform(io_orientation(affine), axcodes2ornt(axes))


def place(
    voxels: Array, affine: Array, spacing: Spacing, axes: str = "RAS"
) -> tuple[Array, Placement]:
    """Turn voxels (X, Y, Z) to the working `axes` and resample them to `spacing` in mm.

    `spacing` is one number, or one per working axis; `None` keeps the image's own. An oblique image stays
    oblique: only axes are swapped and flipped. See `orientation_to` for `axes`.
    """
    orientation = orientation_to(axes, affine)
    turned = apply_orientation(voxels, orientation)
    own = spacing_of(affine @ inv_ornt_aff(orientation, voxels.shape))
    target = own if spacing is None else np.broadcast_to(np.asarray(spacing, dtype=float), 3)
    size = [max(1, round(n * s / t)) for n, s, t in zip(turned.shape, own, target, strict=True)]
    placement = Placement(
        np.asarray(affine), tuple(voxels.shape), orientation, tuple(turned.shape),
        tuple(float(s) for s in own), tuple(float(s) for s in target),
    )  # fmt: skip
    return _resample(turned, size, "trilinear"), placement


def place_label(label: Array, placement: Placement, size: Sequence[int], classes: int) -> Array:
    """Labels in file order to the working grid: the class of the largest interpolated share, uint8."""
    turned = apply_orientation(label, placement.orientation)
    if tuple(turned.shape) == tuple(size):
        return np.ascontiguousarray(turned, dtype=np.uint8)
    best = np.full(tuple(size), -1.0, dtype=np.float32)
    out = np.zeros(tuple(size), dtype=np.uint8)
    for k in range(classes):
        share = _resample((turned == k).astype(np.float32), size, "trilinear")
        out[share > best] = k
        best = np.maximum(best, share)
    return out


def available_bytes() -> int:
    """Memory that is free for a new process, in bytes."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def needed_bytes(image: Header, spacing: Spacing, channels: int) -> int:
    """Estimate of the memory that reading and placing one case takes, from the header alone.

    Per channel the file's voxels three times (read, turned, blurred), and on the working grid the input
    twice, with two masks' worth of voxels for labels; all float32. The class scores are streamed and have
    an estimate of their own (`maps.needed_bytes`).
    """
    own = spacing_of(image.affine)
    voxels = float(np.prod(np.array(image.shape, dtype=np.float64)))
    target = own if spacing is None else np.broadcast_to(np.asarray(spacing, dtype=float), 3)
    # A ratio of volumes, so the order of the axes does not matter.
    working = voxels * float(np.prod(own) / np.prod(target))
    return int(4 * (voxels * (3 * channels + 2) + working * (2 * channels + 1)))


def refuse_too_large(image: Header, path: str | Path, spacing: Spacing, channels: int) -> None:
    """Raise GraftError with the estimate when a case would not fit into the free memory."""
    need, free = needed_bytes(image, spacing, channels), available_bytes()
    if need > 0.9 * free:
        raise GraftError(
            f"{path}: shape {image.shape} needs about {need / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free: crop or downsample the image, or use a larger spacing"
        )


def write_mask(path: str | Path, mask: Array, like: Header) -> Path:
    """Write a mask on the grid of `like`: sform, qform, their codes and pixdim byte for byte, atomically."""
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"] = 0
    path = Path(path)
    image = type(like)(np.asarray(mask, dtype=np.uint8), like.affine, header)
    with publish(path) as temporary:
        nib.save(image, temporary)
    return path
