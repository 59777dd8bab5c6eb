"""One door for images: NIfTI files, and DICOM series in a folder or a zip archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graftwork.errors import GraftError

from .nifti import Array, Header, open_image


def is_series(path: Path) -> bool:
    """Whether a path is read as a DICOM series."""
    return path.is_dir() or path.suffix.lower() == ".zip"


def open_scan(path: str | Path, series: str | None = None) -> Header:
    """Open an image of either kind and check its geometry; the voxels are read later.

    `series` is the SeriesInstanceUID to take where a folder holds several. Raises GraftError naming the
    file and the fault.
    """
    path = Path(path)
    if not is_series(path):
        return open_image(path)
    if path.is_dir() and not any(path.iterdir()):
        raise GraftError(f"{path}: is an empty folder: no NIfTI file, no DICOM series")
    from .dicom_read import open_series

    return open_series(path, series)


def find_scans(names: Sequence[str], field: str = "data.files") -> list[Path]:
    """The images that `names` stand for: a folder is its NIfTI files, or else one DICOM series.

    Nothing is opened, so that one bad image does not keep the others from their turn. Raises GraftError when
    nothing is named.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        found += (nifti_files(path) if path.is_dir() else []) or [path]
    if not found:
        raise GraftError(f"{field} {list(names)}: names no NIfTI file and no DICOM series")
    return found


def nifti_files(folder: Path) -> list[Path]:
    """The NIfTI files of a folder, sorted; hidden ones, which some systems put beside each file, left out."""
    endings = (".nii", ".nii.gz")
    names = sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(endings))
    return [folder / name for name in names if not name.startswith(".")]


def scan_name(path: Path) -> str:
    """The name of an image's case: its file or folder without the ending."""
    if path.is_dir():
        return path.resolve().name
    name = path.name.removesuffix(".gz")
    return name[: -len(path.suffix)] if is_series(path) else name.removesuffix(".nii")


def read_label(path: Path, image: Header, names: Sequence[str], allow_empty: bool) -> Array | None:
    """The labels of a DICOM-SEG or RTSTRUCT file on the image's grid; None for any other file."""
    from .dicom_labels import is_dicom, read_labels

    if not is_dicom(path):
        return None
    return read_labels(path, image, names, allow_absent=allow_empty)
