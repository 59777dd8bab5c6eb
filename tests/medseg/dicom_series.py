"""Synthetic DICOM series of known geometry, as scanners write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def turned(angles: Sequence[float]) -> Any:
    """A rotation matrix by three angles in radians."""
    out = np.eye(3)
    for k, angle in enumerate(angles):
        i, j = (k + 1) % 3, (k + 2) % 3
        one = np.eye(3)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        out = one @ out
    return out


def stack(
    shape: tuple[int, int, int] = (14, 11, 6),
    spacing: tuple[float, float, float] = (0.8, 1.3, 2.5),
    turn: Any = None,
    origin: Sequence[float] = (-40.5, 12.25, 100.0),
) -> Any:
    """LPS affine of a stack: columns of `turn` are the row, column and slice directions."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def base(series: str, number: int) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName, data.PatientID = "Test^Simulated", "sim-1"
    data.PatientBirthDate, data.PatientSex = "", "O"
    data.StudyInstanceUID, data.StudyDate, data.StudyTime = generate_uid(entropy_srcs=["s"]), "", ""
    data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "1", "", ""
    data.SeriesInstanceUID, data.SeriesNumber, data.Modality = series, 1, "CT"
    data.SeriesDescription = "simulated"
    data.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    data.PositionReferenceIndicator, data.Manufacturer, data.InstanceNumber = "", "none", number
    return data


def put_pixels(data: Dataset, plane: Any) -> None:
    data.Rows, data.Columns = plane.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelData = np.ascontiguousarray(plane, dtype="<i2").tobytes()


def decimal(values: Any) -> list[str]:
    """DICOM decimal strings, at most 16 characters."""
    return [f"{v:.12f}"[:16] for v in np.asarray(values, dtype=float).ravel()]


def write_series(
    folder: Path,
    voxels: Any,
    affine: Any = None,
    *,
    slope: float = 1.0,
    intercept: float = -1024.0,
    series: str | None = None,
    skip: Sequence[int] = (),
    change: Callable[[int, Dataset], Any] | None = None,
) -> Path:
    """One file per slice of stored values (columns, rows, slices), in a scrambled order of names.

    `change(k, dataset)` may spoil slice k before it is written; `skip` leaves slices out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    affine = stack(voxels.shape) if affine is None else affine
    series = series or generate_uid()
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    for k in range(voxels.shape[2]):
        if k in skip:
            continue
        data = base(series, k + 1)
        data.ImagePositionPatient = decimal(affine[:3, 3] + k * affine[:3, 2])
        data.ImageOrientationPatient = decimal([affine[:3, 0] / sizes[0], affine[:3, 1] / sizes[1]])
        data.PixelSpacing = decimal([sizes[1], sizes[0]])
        data.SliceThickness = f"{sizes[2]:.6f}"
        data.RescaleSlope, data.RescaleIntercept = f"{slope:g}", f"{intercept:g}"
        put_pixels(data, voxels[:, :, k].T)
        if change:
            change(k, data)
        dcmwrite(folder / f"{(k * 7) % 101:03d}.dcm", data, enforce_file_format=True)
    return folder


def write_enhanced(folder: Path, voxels: Any, affine: Any, *, places: bool = True) -> Path:
    """One multi-frame file of all slices, stored last slice first."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    data = base(generate_uid(), 1)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    data.NumberOfFrames = voxels.shape[2]
    turn, measures, values = Dataset(), Dataset(), Dataset()
    turn.ImageOrientationPatient = decimal([affine[:3, 0] / sizes[0], affine[:3, 1] / sizes[1]])
    measures.PixelSpacing = decimal([sizes[1], sizes[0]])
    measures.SliceThickness = f"{sizes[2]:.6f}"
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "2", "-1000", "HU"
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [measures]
    shared.PixelValueTransformationSequence = [values]
    data.SharedFunctionalGroupsSequence = [shared]
    if places:
        data.PerFrameFunctionalGroupsSequence = []
    frames = []
    for k in reversed(range(voxels.shape[2])):
        where, group = Dataset(), Dataset()
        where.ImagePositionPatient = decimal(affine[:3, 3] + k * affine[:3, 2])
        group.PlanePositionSequence = [where]
        if places:
            data.PerFrameFunctionalGroupsSequence.append(group)
        frames.append(voxels[:, :, k].T)
    put_pixels(data, np.stack(frames))
    dcmwrite(folder / "enhanced.dcm", data, enforce_file_format=True)
    return folder


def numbers(shape: tuple[int, int, int] = (14, 11, 6)) -> Any:
    """Stored values that differ from voxel to voxel."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
