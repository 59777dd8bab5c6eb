"""Labels out of DICOM: RTSTRUCT contours and DICOM-SEG segments, by organ name, on an image's grid.

A voxel belongs to an organ when its centre lies within an odd number of the organ's contours on its
slice, so a contour inside another one is a hole. Where organs overlap, the later class of the data's
list holds the voxel. Names are compared without case and surrounding blanks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import GraftError

from .dicom_files import libraries
from .dicom_read import TO_RAS, Series, series_of

Array = NDArray[Any]
SLACK = 0.02  # voxels that a label's grid may lie off the image's


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_labels(
    path: str | Path,
    image: Any,
    classes: Sequence[str],
    *,
    allow_absent: bool = False,
) -> Array:
    """The labels of an RTSTRUCT or DICOM-SEG file on the grid of `image`, float32 (X, Y, Z).

    `classes` are the names by value, background first. Raises GraftError naming the file: neither kind,
    of another frame of reference or grid, or a class that it does not name (unless `allow_absent`).
    """
    path = Path(path)
    pydicom = libraries()
    try:
        data = pydicom.dcmread(path)
    except (OSError, EOFError, ValueError, pydicom.errors.InvalidDicomError) as error:
        raise GraftError(f"{path}: not a readable DICOM file: {error}") from error
    kind = data.get("Modality")
    if kind not in ("RTSTRUCT", "SEG"):
        raise GraftError(f"{path}: Modality {kind}; labels come as RTSTRUCT, SEG or NIfTI")
    _same_frame(path, data, series_of(image))
    names = _roi_names(data) if kind == "RTSTRUCT" else _segment_names(data)
    wanted = _matched(path, names, classes, allow_absent)
    read = _contours if kind == "RTSTRUCT" else _segments
    return read(path, data, image, wanted)


def _same_frame(path: Path, data: Any, series: Series | None) -> None:
    there = data.get("FrameOfReferenceUID")
    for item in data.get("ReferencedFrameOfReferenceSequence") or ():
        there = there or item.get("FrameOfReferenceUID")
    here = series.frames[0].header.get("FrameOfReferenceUID") if series else None
    if series and here and there and here != there:
        raise GraftError(
            f"{path}: FrameOfReferenceUID {there} is not that of the image {series.place} ({here}): "
            "its coordinates are those of another scan"
        )


def _roi_names(data: Any) -> dict[int, str]:
    return {
        int(item.ROINumber): str(item.get("ROIName", ""))
        for item in data.get("StructureSetROISequence") or ()
    }


def _segment_names(data: Any) -> dict[int, str]:
    return {
        int(item.SegmentNumber): str(item.get("SegmentLabel", ""))
        for item in data.get("SegmentSequence") or ()
    }


def _matched(
    path: Path, names: dict[int, str], classes: Sequence[str], allow_absent: bool
) -> dict[int, int]:
    """{number in the file: class}. Raises GraftError for a class that is named never or twice."""
    out: dict[int, int] = {}
    for value, wanted in enumerate(classes):
        if value:
            found = [n for n, name in names.items() if _plain(name) == _plain(wanted)]
            if len(found) > 1:
                raise GraftError(f"{path}: names {wanted!r} {len(found)} times; keep one")
            out |= dict.fromkeys(found, value)
    absent = [name for k, name in enumerate(classes) if k and k not in out.values()]
    if absent and not allow_absent:
        raise GraftError(
            f"{path}: has no structure named {', '.join(map(repr, absent))}; it names "
            f"{', '.join(sorted(map(repr, names.values()))) or 'none'}. Rename it, or set "
            "data.allow_empty when the structure is absent in this patient"
        )
    return out


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _contours(path: Path, data: Any, image: Any, wanted: dict[int, int]) -> Array:
    label = np.zeros(image.shape, dtype=np.float32)
    to_index = np.linalg.inv(image.affine) @ TO_RAS
    drawn = {int(c.ReferencedROINumber): c for c in data.get("ROIContourSequence") or ()}
    for number, value in wanted.items():
        inside: dict[int, Array] = {}
        for contour in drawn[number].get("ContourSequence") or () if number in drawn else ():
            if contour.get("ContourGeometricType") not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                continue  # points and open lines enclose nothing
            points = np.asarray(contour.ContourData, dtype=np.float64).reshape(-1, 3)
            at = points @ to_index[:3, :3].T + to_index[:3, 3]
            k = round(float(at[:, 2].mean()))
            if np.abs(at[:, 2] - k).max() > 0.25:
                raise GraftError(
                    f"{path}: a contour of ROI number {number} lies between the image's slices "
                    f"(at {at[:, 2].min():.2f} to {at[:, 2].max():.2f}); redraw it on this image"
                )
            if not 0 <= k < image.shape[2]:
                raise GraftError(
                    f"{path}: a contour of ROI number {number} lies outside the image (slice {k} of "
                    f"{image.shape[2]}): is it of another scan?"
                )
            plane = inside.setdefault(k, np.zeros(image.shape[:2], dtype=bool))
            plane ^= fill(at[:, :2], plane.shape)
        for k, plane in inside.items():
            label[plane, k] = value
    return label


def fill(polygon: Array, shape: Sequence[int]) -> Array:
    """Pixels (I, J) whose centres lie inside a closed polygon (points, 2) in pixel coordinates.

    By the even-odd rule: a centre is inside when a ray from it crosses an odd number of edges.
    """
    out = np.zeros(tuple(shape), dtype=bool)
    ends = np.roll(polygon, -1, axis=0)
    low, high = np.minimum(polygon[:, 0], ends[:, 0]), np.maximum(polygon[:, 0], ends[:, 0])
    for i in range(max(0, int(np.ceil(low.min()))), min(shape[0], int(np.floor(high.max())) + 1)):
        # Half open, so a corner on the row counts once.
        cut = (low <= i) & (i < high)
        a, b = polygon[cut], ends[cut]
        crossings = np.sort(a[:, 1] + (i - a[:, 0]) / (b[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1]))
        for begin, end in zip(crossings[::2], crossings[1::2], strict=True):
            out[i, max(0, int(np.ceil(begin))) : max(0, int(np.ceil(end)))] = True
    return out


def _segments(path: Path, data: Any, image: Any, wanted: dict[int, int]) -> Array:
    label = np.zeros(image.shape, dtype=np.float32)
    kind = str(data.get("SegmentationType", "BINARY"))
    try:
        pixels = np.asarray(data.pixel_array)
    except Exception as error:  # each codec has its own family of exceptions
        raise GraftError(f"{path}: its pixels cannot be read: {error}") from error
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    shared = (data.get("SharedFunctionalGroupsSequence") or [None])[0]
    to_index = np.linalg.inv(image.affine) @ TO_RAS
    full = float(data.get("MaximumFractionalValue", 1)) if kind == "FRACTIONAL" else 1.0
    for value in sorted(wanted.values()):  # the later class on top
        for frame, group in zip(
            pixels, data.get("PerFrameFunctionalGroupsSequence") or (), strict=True
        ):
            part = _part(frame, kind, full, group, shared, wanted, value)
            if part is None or not part.any():
                continue
            i, j, k = _place(path, group, shared, to_index, image.shape, part.shape)
            label[i, j, k][part.T] = value
    return label


def _part(
    frame: Array, kind: str, full: float, group: Any, shared: Any, wanted: Any, value: int
) -> Array | None:
    """Where one frame says `value`, boolean (rows, columns); None when it speaks of another segment."""
    if kind == "LABELMAP":
        numbers = [n for n, v in wanted.items() if v == value]
        return np.isin(frame, numbers)
    about = _group(group, shared, "SegmentIdentificationSequence")
    if wanted.get(int(about.ReferencedSegmentNumber)) != value:
        return None
    return np.asarray(frame >= full / 2)


def _group(group: Any, shared: Any, name: str) -> Any:
    for functional in (group, shared):
        if functional is not None and name in functional:
            return functional[name].value[0]
    raise GraftError(f"a DICOM-SEG frame has no {name}")


def _place(
    path: Path, group: Any, shared: Any, to_index: Array, shape: Any, size: Any
) -> tuple[slice, slice, int]:
    """Where a frame lies in the image; raises GraftError when its pixels are not the image's voxels."""
    position = _group(group, shared, "PlanePositionSequence").ImagePositionPatient
    turn = _group(group, shared, "PlaneOrientationSequence").ImageOrientationPatient
    spacing = [float(v) for v in _group(group, shared, "PixelMeasuresSequence").PixelSpacing]
    row, column = np.array([float(v) for v in turn]).reshape(2, 3)
    # Three corners of the frame in the image's voxel coordinates: the first and those beside it.
    start = np.array([float(v) for v in position])
    reach = np.array([size[1], size[0], 0])
    points = np.array(
        [start, start + row * spacing[1] * reach[0], start + column * spacing[0] * reach[1]]
    )
    at = points @ to_index[:3, :3].T + to_index[:3, 3]
    whole = at[0].round()
    off = np.abs(at - (whole + np.diag(reach)[[2, 0, 1]])).max()
    i, j, k = (int(v) for v in whole)
    inside = i >= 0 and j >= 0 and i + size[1] <= shape[0] and j + size[0] <= shape[1]
    if off > SLACK or not (inside and 0 <= k < shape[2]):
        raise GraftError(
            f"{path}: a segment's frame does not lie on the image's grid (off by {off:.2g} voxels, at "
            f"voxel {i}, {j}, {k} of {tuple(shape)}); resample it to the image's grid"
        )
    return slice(i, i + size[1]), slice(j, j + size[0]), k
