"""DICOM in: one image series of a folder or a zip archive as a volume with exact geometry.

A voxel (i, j, k) is column i of row j of slice k; its place in the patient (DICOM PS3.3 C.7.6.2.1.1) is
x = ImagePositionPatient_k + i * PixelSpacing[1] * row direction + j * PixelSpacing[0] * column direction,
in mm towards left, posterior and superior (LPS). The volume's affine is the same towards right, anterior
and superior (RAS), as NIfTI has it. Values are RescaleSlope * stored + RescaleIntercept: HU for CT.

What has no single affine is refused: several series, missing or unevenly spaced slices, a tilted gantry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from graftwork.errors import GraftError

from .dicom_files import Place, libraries

if TYPE_CHECKING:
    from pydicom import Dataset

Array = NDArray[Any]
# Objects that lie beside images but are none.
NO_IMAGE = {
    *(
        "RTSTRUCT",
        "RTPLAN",
        "RTDOSE",
        "RTRECORD",
        "SEG",
        "SR",
        "PR",
        "KO",
        "REG",
        "DOC",
        "PLAN",
        "FID",
    )
}
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Frame:
    """One slice: where it is stored, where it lies (LPS, mm), and what its numbers mean."""

    source: str
    header: Dataset  # of the whole file, without pixels
    index: int | None  # of a multi-frame file
    position: Array
    orientation: Array
    spacing: Array  # between rows, between columns
    slope: float
    intercept: float


@dataclass(frozen=True)
class Series:
    """An image series: its frames in order along the normal, and its affine (RAS, mm)."""

    place: Path
    uid: str
    frames: tuple[Frame, ...]
    affine: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """(columns, rows, slices)."""
        header = self.frames[0].header
        return int(header.Columns), int(header.Rows), len(self.frames)

    @property
    def headers(self) -> list[Dataset]:
        """The files' headers in slice order, each file once."""
        seen = {frame.source: frame.header for frame in self.frames}
        return list(seen.values())

    def voxels(self) -> Array:
        """The rescaled values, float32 (columns, rows, slices).

        Raises GraftError naming the file whose pixels are compressed without a decoder, or damaged.
        """
        out = np.empty(self.shape, dtype=np.float32)
        with Place(self.place) as place:
            loaded: tuple[str, Array] = ("", np.empty(0))
            for k, frame in enumerate(self.frames):
                if loaded[0] != frame.source:
                    loaded = frame.source, _pixels(place, frame)
                plane = loaded[1] if frame.index is None else loaded[1][frame.index]
                out[:, :, k] = plane.T * frame.slope + frame.intercept
        return out


class SeriesVoxels:
    """The voxels of a series as nibabel wants an array on disk: read when asked for."""

    is_proxy = True
    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(self, series: Series) -> None:
        self.series, self.shape = series, series.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.series.voxels().astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> Array:
        return np.asarray(self)[key]


def series_of(image: Any) -> Series | None:
    """The DICOM series behind an opened image, None for a NIfTI file."""
    voxels = getattr(image, "dataobj", None)
    return voxels.series if isinstance(voxels, SeriesVoxels) else None


def open_series(path: str | Path, uid: str | None = None) -> nib.Nifti1Image:
    """Find and check the series of a folder or zip archive; the voxels are read later.

    The result behaves as an opened NIfTI file whose sform and qform are the patient's coordinates. `uid`
    chooses among several series. Raises GraftError naming the place, the field and the remedy.
    """
    series = read_series(path, uid)
    # Without a dtype nibabel would read the voxels to learn it.
    image = nib.Nifti1Image(SeriesVoxels(series), series.affine, dtype=np.float32)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(series.affine, 1)
    image.set_qform(series.affine, 1)
    return image


def read_series(path: str | Path, uid: str | None = None) -> Series:
    """Read the headers of one series and work out its geometry; see `open_series`."""
    path = Path(path)
    found: dict[str, list[tuple[str, Any]]] = {}
    others: Counter[str] = Counter()
    blank: list[tuple[str, Any]] = []
    with Place(path) as place:
        for name in place.names():
            header = _header(place, name)
            if header is None:
                continue
            if header.get("Modality") in NO_IMAGE or "Rows" not in header:
                others[str(header.get("Modality", "no modality"))] += 1
                blank.append((name, header))
                continue
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((name, header))
    if not found:
        beside = ", ".join(f"{n} {kind}" for kind, n in others.items())
        raise GraftError(
            f"{path}: holds no DICOM image{f', only {beside}' if beside else ''}; give the folder or zip "
            "archive of a series, or NIfTI files"
        )
    if uid is not None and uid not in found:
        raise GraftError(f"{path}: no series {uid}; there are:\n{_listed(found)}")
    if uid is None and len(found) > 1:
        raise GraftError(
            f"{path}: holds {len(found)} image series; choose one with --data.series UID "
            f"(medseg predict), or keep one in a folder:\n{_listed(found)}"
        )
    uid = uid or next(iter(found))
    kind = found[uid][0][1].get("SOPClassUID")
    for name, header in blank:
        # Raw data may lie beside the images of a series; what says that it is such an image is one.
        if header.get("SeriesInstanceUID") == uid and header.get("SOPClassUID") == kind:
            raise GraftError(
                f"{path}: {name}: a damaged DICOM file: Rows is missing; copy it again"
            )
    frames = [frame for name, header in found[uid] for frame in _frames(path, name, header)]
    return _ordered(path, uid, frames)


def _listed(found: dict[str, list[tuple[str, Any]]]) -> str:
    lines = []
    for uid, files in found.items():
        first = files[0][1]
        about = " ".join(str(first.get(k, "")) for k in ("Modality", "SeriesDescription")).strip()
        lines.append(f"  {uid}  {len(files)} files  {about}")
    return "\n".join(lines)


def _header(place: Place, name: str) -> Any:
    pydicom = libraries()
    try:
        with place.open(name) as file:
            # A preamble is demanded: without it almost any file would pass for DICOM.
            header = pydicom.dcmread(file, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError:
        return None
    except (OSError, EOFError, ValueError, KeyError, NotImplementedError) as error:
        raise GraftError(
            f"{place.path}: {name}: a damaged DICOM file: {error}; copy it again"
        ) from error
    return None if "DirectoryRecordSequence" in header else header


def _frames(path: Path, name: str, header: Any) -> Iterator[Frame]:
    """The frames of one file. A multi-frame file must say where each lies (enhanced CT, MR, PET)."""
    where = f"{path}: {name}"
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise GraftError(
            f"{where}: a colour image (SamplesPerPixel {header.SamplesPerPixel}); give a grey one"
        )
    if "ModalityLUTSequence" in header:
        raise GraftError(f"{where}: ModalityLUTSequence (values by table) is not read; convert it")
    many = int(header.get("NumberOfFrames", 1) or 1)
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if many == 1 and not per_frame:
        yield _frame(where, name, header, None, lambda field: header.get(field))
        return
    if not per_frame or len(per_frame) != many:
        raise GraftError(
            f"{where}: {many} frames without their places (PerFrameFunctionalGroupsSequence); "
            "export it as enhanced multi-frame, or as one file per slice"
        )
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    for index, group in enumerate(per_frame):

        def value(field: str, group: Any = group) -> Any:
            for functional in (group, shared):
                for element in functional or ():
                    if element.VR == "SQ" and element.value and field in element.value[0]:
                        return element.value[0][field].value
            return header.get(field)

        yield _frame(f"{where}: frame {index + 1}", name, header, index, value)


def _frame(
    where: str, name: str, header: Any, index: int | None, value: Callable[[str], Any]
) -> Frame:
    numbers = {}
    for field, size in (
        ("ImagePositionPatient", 3),
        ("ImageOrientationPatient", 6),
        ("PixelSpacing", 2),
    ):
        given = value(field)
        if given is None or len(given) != size:
            raise GraftError(
                f"{where}: {field} is {'missing' if given is None else list(given)}; without it the "
                "image has no place in the patient: export the series anew"
            )
        numbers[field] = np.array([float(v) for v in given])
        if not np.isfinite(numbers[field]).all():
            raise GraftError(f"{where}: {field} is {list(given)}; export the series anew")
    turn, spacing = numbers["ImageOrientationPatient"], numbers["PixelSpacing"]
    gram = turn.reshape(2, 3) @ turn.reshape(2, 3).T
    if np.abs(gram - np.eye(2)).max() > 1e-3:
        raise GraftError(
            f"{where}: ImageOrientationPatient {turn.tolist()} is not two perpendicular unit vectors"
        )
    if (spacing <= 0).any():
        raise GraftError(
            f"{where}: PixelSpacing {spacing.tolist()} must be positive; export the series anew"
        )
    slope, intercept = value("RescaleSlope"), value("RescaleIntercept")
    return Frame(
        name, header, index, numbers["ImagePositionPatient"], turn, spacing,
        1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept),
    )  # fmt: skip


def _ordered(path: Path, uid: str, frames: list[Frame]) -> Series:
    """Sort the frames along their normal and check that they are one evenly spaced, upright stack."""
    first = frames[0]
    for frame in frames:
        for what, a, b, gap in (
            ("ImageOrientationPatient", first.orientation, frame.orientation, 1e-3),
            ("PixelSpacing", first.spacing, frame.spacing, 1e-4),
            ("Rows and Columns", _size(first), _size(frame), 0),
        ):
            if np.abs(a - b).max() > gap:
                raise GraftError(
                    f"{path}: series {uid}: {what} differs between {first.source} {a.tolist()} and "
                    f"{frame.source} {b.tolist()}; keep the files of one stack (a scout or a second "
                    "orientation often lies among them)"
                )
    row, column = first.orientation[:3], first.orientation[3:]
    normal = np.cross(row, column)
    frames = sorted(frames, key=lambda f: float(f.position @ normal))
    at = np.array([float(f.position @ normal) for f in frames])
    step = _step(path, uid, frames, at, normal)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * first.spacing[1], column * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, frames[0].position
    return Series(path, uid, tuple(frames), TO_RAS @ affine)


def _size(frame: Frame) -> Array:
    return np.array([int(frame.header.Rows), int(frame.header.Columns)])


def _step(path: Path, uid: str, frames: Sequence[Frame], at: Array, normal: Array) -> Array:
    """The vector from slice to slice, LPS mm; raises GraftError when there is no such vector."""
    where = f"{path}: series {uid}"
    if len(frames) == 1:
        header = frames[0].header
        thick = header.get("SpacingBetweenSlices") or header.get("SliceThickness")
        if not thick:
            raise GraftError(f"{where}: a single slice without SliceThickness")
        return normal * float(thick)
    gaps = np.diff(at)
    usual = float(np.median(gaps))
    same = np.flatnonzero(gaps < 1e-3)
    if len(same):
        k = int(same[0])
        raise GraftError(
            f"{where}: {len(same) + 1} slices share a position, such as {frames[k].source} and "
            f"{frames[k + 1].source} at {at[k]:.2f} mm; it holds several volumes (time points, echoes): "
            "give a folder with one of them"
        )
    odd = np.flatnonzero(np.abs(gaps - usual) > 0.02 * usual)
    if len(odd):
        counts = gaps[odd] / usual
        if (np.abs(counts - counts.round()) < 0.05).all() and (counts > 1.5).all():
            lost = [
                f"{at[k] + n * usual:.2f}"
                for k, c in zip(odd, counts, strict=True)
                for n in range(1, round(float(c)))
            ]
            shown = ", ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
            raise GraftError(
                f"{where}: {len(lost)} slices are missing, at {shown} mm along the normal (slices lie "
                f"{usual:.3g} mm apart); add their files"
            )
        k = int(odd[0])
        raise GraftError(
            f"{where}: slices are {gaps.min():.3f} to {gaps.max():.3f} mm apart (from {frames[k].source} "
            f"to {frames[k + 1].source}: {gaps[k]:.3f}); resample it to an even spacing, as NIfTI"
        )
    across = np.array([f.position - frames[0].position for f in frames])
    across = across - np.outer(across @ normal, normal)
    shift = float(np.linalg.norm(across, axis=1).max())
    if shift > 0.1 * float(frames[0].spacing.min()):
        angle = np.degrees(np.arctan2(shift, at[-1] - at[0]))
        raise GraftError(
            f"{where}: the slices are sheared by {angle:.1f} degrees against their normal, {shift:.1f} mm "
            "from first to last (a tilted gantry); resample it to an upright grid, as NIfTI"
        )
    return np.asarray((frames[-1].position - frames[0].position) / (len(frames) - 1))


def _pixels(place: Place, frame: Frame) -> Array:
    """The stored values of one file, (rows, columns) or (frames, rows, columns)."""
    pydicom = libraries()
    where = f"{place.path}: {frame.source}"
    with place.open(frame.source) as file:
        data = pydicom.dcmread(file)
        syntax = data.file_meta.TransferSyntaxUID
        if syntax.is_compressed and syntax.is_encapsulated:
            try:
                decoder = pydicom.pixels.get_decoder(syntax)
                missing = () if decoder.is_available else decoder.missing_dependencies
            except NotImplementedError:
                missing = ("no library can read it",)
            if missing:
                raise GraftError(
                    f"{where}: pixels are compressed as {syntax.name}, which needs one of: "
                    f"{'; '.join(missing)}. Install it, or store the series uncompressed"
                )
        try:
            return np.asarray(data.pixel_array)
        except Exception as error:  # each codec has its own family of exceptions
            raise GraftError(
                f"{where}: its pixels cannot be read: {error}; copy it again"
            ) from error
