"""Bad input end to end: one message that names place, fault and remedy, exit code 2, and the other cases go on."""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import numbers, stack, write_series
from kit import FILES, SIZE, nifti, no_codes, one_nan

from graftwork_medseg.app import main

SHAPE = (14, 11, 6)


def cut(path: Path, keep: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(keep(path.read_bytes()))
    return path


def series(path: Path, **how: Any) -> Path:
    return write_series(path, numbers(SHAPE), stack(SHAPE, (2.0, 2.0, 3.0)), **how)


def spoilt(path: Path, slice_: int, **fields: Any) -> Path:
    """A series in which one slice lacks a field (None) or has another value."""

    def change(k: int, data: Any) -> None:
        for field, value in fields.items():
            if k == slice_ and value is None:
                delattr(data, field)
            elif k == slice_:
                setattr(data, field, value)

    return series(path, change=change)


def mixed(path: Path) -> Path:
    series(path / "one", series="1.2.3")
    series(path / "two", series="1.2.4")
    return path


def tilted(path: Path) -> Path:
    def change(k: int, data: Any) -> None:
        x, y, z = (float(v) for v in data.ImagePositionPatient)
        data.ImagePositionPatient = [x, y + 0.6 * k, z]

    return series(path, change=change)


def damaged_zip(path: Path) -> Path:
    """A zip archive in whose third member one byte is another."""
    folder, archive = series(path.with_suffix("")), path.with_suffix(".zip")
    members = sorted(folder.iterdir())
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for file in members:
            out.write(file, file.name)
        header = out.getinfo(members[2].name).header_offset
    raw = bytearray(archive.read_bytes())
    raw[header + 30 + len(members[2].name) + 60] ^= 0xFF
    archive.write_bytes(bytes(raw))
    return archive


def patched(path: Path, offset: int, value: bytes) -> Path:
    raw = bytearray(nifti(path).read_bytes())
    raw[offset : offset + len(value)] = value
    path.write_bytes(bytes(raw))
    return path


def damaged_header(path: Path) -> Path:
    victim = series(path) / "007.dcm"
    raw = bytearray(victim.read_bytes())
    at = raw.index(b"IS\x02\x00")  # InstanceNumber: its length reaches beyond the file
    raw[at + 2 : at + 4] = b"\xff\xff"
    victim.write_bytes(bytes(raw))
    return path


# fault: (what is written at a path of its name, what the message says: fault, then remedy)
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "mixed series": (
        mixed,
        r"holds 2 image series; choose one with --data\.series.*1\.2\.3.*1\.2\.4",
    ),
    "missing slices": (
        lambda p: series(p, skip=[2, 3]),
        "2 slices are missing.* mm.*add their files",
    ),
    "gantry tilt": (tilted, "sheared by 11.3 degrees.*tilted gantry.*resample it"),
    "no spacing": (
        lambda p: spoilt(p, 2, PixelSpacing=None),
        r"\.dcm: PixelSpacing is missing.*export",
    ),
    "no orientation": (
        lambda p: spoilt(p, 2, ImageOrientationPatient=None),
        r"\.dcm: ImageOrientationPatient is missing.*export",
    ),
    "no position": (
        lambda p: spoilt(p, 2, ImagePositionPatient=None),
        r"\.dcm: ImagePositionPatient is missing.*export",
    ),
    "spacing of zero": (
        lambda p: spoilt(p, 1, PixelSpacing=[0, 1]),
        "PixelSpacing.*must be positive",
    ),
    "two spacings": (
        lambda p: spoilt(p, 1, PixelSpacing=[1, 1]),
        "PixelSpacing differs.*keep the files",
    ),
    "damaged header": (damaged_header, r"007\.dcm: .*(damaged|missing).*copy"),
    "cut pixels": (
        lambda p: spoilt(p, 1, PixelData=bytes(10)),
        r"^\S+cut-pixels: 007\.dcm: its pixels cannot be read.*copy",
    ),
    "no image": (
        lambda p: p.mkdir() or (p / "notes.txt").write_text("none"),
        "holds no DICOM image.*give",
    ),
    "empty folder": (lambda p: p.mkdir(), "is an empty folder"),
    "damaged member": (damaged_zip, r"\.zip: .*\.dcm: damaged in the archive.*copy"),
    "no zip": (
        lambda p: p.with_suffix(".zip").write_bytes(b"PK nothing"),
        "not a readable zip archive.*copy",
    ),
    "nothing there": (lambda p: p.with_suffix(".nii"), "no such image file"),
    "no NIfTI": (
        lambda p: p.with_suffix(".nii").write_bytes(b"text"),
        "not a readable NIfTI file.*copy",
    ),
    "cut short": (
        lambda p: cut(nifti(p.with_suffix(".nii.gz")), lambda raw: raw[: len(raw) // 2]),
        "its voxels cannot be read.*copy",
    ),
    "NaN voxels": (
        lambda p: nifti(p.with_suffix(".nii"), change=one_nan),
        "1 voxels are NaN or infinite.*replace",
    ),
    "four dimensions": (
        lambda p: nifti(p.with_suffix(".nii"), (8, 8, 8, 2)),
        "4 dimensions.*split it into one file per volume",
    ),
    "two dimensions": (lambda p: nifti(p.with_suffix(".nii"), (8, 8)), "2 dimensions.*stack"),
    "orientation unknown": (
        lambda p: nifti(p.with_suffix(".nii"), change=no_codes),
        "qform_code and sform_code are 0.*orientation is unknown.*write it anew",
    ),
    "spacing is NaN": (
        lambda p: patched(p.with_suffix(".nii"), 80, np.float32("nan").tobytes()),
        "pixdim.*mend it",
    ),
}


@dataclass(frozen=True)
class Told:
    """What one `medseg predict` over all faults said and wrote."""

    code: int
    err: str
    reasons: dict[str, str]
    folder: Path


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """One batch: a good image first, one of each fault, and a good image last."""
    folder = tmp_path_factory.mktemp("bad")
    good = [nifti(folder / "first.nii.gz"), series(folder / "last")]
    places = []
    for fault, (make, _) in FAULTS.items():
        make(folder / fault.replace(" ", "-"))
        [place] = [
            p
            for p in sorted(folder.glob(f"{fault.replace(' ', '-')}*"))
            if p.suffix or not p.with_suffix(".zip").exists()
        ] or [folder / f"{fault.replace(' ', '-')}.nii"]
        places.append(place)
    names = ",".join(map(str, [good[0], *places, good[1]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):  # capsys serves single tests alone
            code = main(["predict", *FILES, f"--data.files=[{names}]", "--output=out"])
    table = said.getvalue()[said.getvalue().index("cases failed:") :]
    rows = re.split(r"\n  (?=\S)", table)[1:]
    reasons = {row.split()[0]: " ".join(row.split()[1:]) for row in rows}
    yield Told(code, said.getvalue(), reasons, folder)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_message_with_place_and_remedy(told: Told, fault: str) -> None:
    name = fault.replace(" ", "-")
    reason = told.reasons[name]
    assert re.search(FAULTS[fault][1], reason), reason
    assert str(told.folder / name) in reason  # the place
    assert not re.match(r"\w+(Error|Exception)\b", reason), reason  # a fault that was foreseen


def test_the_other_cases_go_on(told: Told) -> None:
    assert told.code == 2 and "Traceback" not in told.err
    assert told.reasons.keys() == {fault.replace(" ", "-") for fault in FAULTS}
    assert f"{len(FAULTS)} of {len(FAULTS) + 2} cases failed:" in told.err
    assert len(re.findall("^medseg: error:", told.err, re.M)) == 1
    written = {p.name for p in (told.folder / "out").iterdir()}
    assert written == {"first.nii.gz", "last.nii.gz", "manifest.json", "statistics.json"}
    for name in ("first", "last"):
        assert nib.load(told.folder / "out" / f"{name}.nii.gz").shape in (SIZE, SHAPE)
    cases = json.loads((told.folder / "out" / "manifest.json").read_text())["cases"]
    assert {name: case["state"] for name, case in cases.items()} == {
        "first": "done",
        "last": "done",
    }
    report = (told.folder / "runs" / "medseg" / "predict" / "report.html").read_text()
    assert all(fault.replace(" ", "-") in report for fault in FAULTS)
