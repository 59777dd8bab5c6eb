"""Where DICOM files lie: a folder, or a zip archive that is read in memory and never unpacked."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError

LIMIT = 16 * 2**30  # bytes that a zip archive may hold unpacked
RATIO = 200  # of unpacked to packed bytes; DICOM reaches about 10, a zip bomb 1000


def libraries() -> Any:
    """The module pydicom. Raises GraftError naming the extra when it is not installed."""
    try:
        import pydicom
    except ImportError:
        raise GraftError(
            "DICOM needs pydicom: pip install 'graftwork-medseg[dicom]', or give NIfTI files"
        ) from None
    return pydicom


class Place:
    """The files of a folder, or of a zip archive that stays packed."""

    def __init__(self, path: Path) -> None:
        libraries()
        self.path, self.zip = path, None
        if path.is_dir():
            return
        if not path.is_file():
            raise GraftError(f"{path}: no such DICOM folder or zip archive")
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise GraftError(
                f"{path}: not a readable zip archive: {error}; copy it again"
            ) from error
        members = [m for m in self.zip.infolist() if not m.is_dir()]
        total = sum(m.file_size for m in members)
        packed = sum(m.compress_size for m in members)
        if total > LIMIT or total > RATIO * max(packed, 2**20):
            raise GraftError(
                f"{path}: unpacks {packed / 2**20:.0f} MiB to {total / 2**20:.0f} MiB; the limits are "
                f"{LIMIT / 2**30:.0f} GiB and {RATIO} times: unpack it yourself and give the folder"
            )
        if any(m.flag_bits & 1 for m in members):
            raise GraftError(f"{path}: the archive is encrypted; unpack it and give the folder")

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        if self.zip is not None:
            self.zip.close()

    def names(self) -> list[str]:
        """Paths within the place, sorted; hidden files and links out of the folder are left out."""
        if self.zip is not None:
            return sorted(m.filename for m in self.zip.infolist() if not m.is_dir())
        root = self.path.resolve()
        inside = (f for f in self.path.rglob("*") if f.is_file() and not f.name.startswith("."))
        kept = [f for f in inside if f.resolve().is_relative_to(root)]
        return sorted(f.relative_to(self.path).as_posix() for f in kept)

    def open(self, name: str) -> Any:
        """A file that can be read and sought."""
        if self.zip is None:
            return open(self.path / name, "rb")
        try:
            return io.BytesIO(self.zip.read(name))
        except (
            *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError),
        ) as error:
            raise GraftError(
                f"{self.path}: {name}: damaged in the archive: {error}; pack or copy it again"
            ) from error
