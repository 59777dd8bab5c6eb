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
import torch
from dicom_series import numbers, stack, write_series

import graftwork as gw
from graftwork_medseg.app import main
from graftwork_medseg.module import Segmenter

SHAPE = (14, 11, 6)
SIZE = (20, 18, 16)
GRID = np.diag([2.0, 2.0, 2.0, 1.0])
FILES = ["--data=graftwork_medseg.data.ImageFiles", "--trainer.accelerator=cpu", "--quiet"]
FILES += ["--model.roi=[16,16,16]"]


def nifti(path: Path, shape: tuple[int, ...] = SIZE, change: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image = nib.Nifti1Image(voxels, GRID)
    if change:
        change(image, voxels)
    nib.save(image, path)
    return path


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


def no_codes(image: Any, _: Any) -> None:
    image.set_sform(None, 0)
    image.set_qform(None, 0)


def one_nan(_: Any, voxels: Any) -> None:
    voxels[3, 4, 5] = np.nan


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


# ---- what stops the whole command ----


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for a folder with one good image; the working folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    nifti(tmp_path / "in" / "scan.nii.gz")
    return [*FILES, "--data.files=[in]"]


def refused(capsys: pytest.CaptureFixture[str], message: str, *command: str) -> None:
    """Run a command that must end in one message and exit code 2."""
    capsys.readouterr()
    assert main(list(command)) == 2
    error = capsys.readouterr().err
    assert re.search(message, " ".join(error.split())), error
    assert "Traceback" not in error and len(re.findall("^medseg: ", error, re.M)) == 1, error


def made(folder: Path, base: str | None = None, shift: float = 0.0) -> Path:
    """An adapter folder for a shipped base, or for one whose weights differ by `shift`."""
    model = Segmenter(base=base)
    with torch.no_grad():
        for p in model.network.parameters():
            p.add_(shift)
    gw.save(gw.graft(model.network, gw.LoRA(2), sites=["*conv1.conv"]), folder)
    return folder


@pytest.mark.parametrize(("base", "shift"), [("openkbp-segresnet", 0.0), (None, 1e-3)])
def test_a_graft_for_another_base_is_refused(
    base: str | None, shift: float, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    made(Path("g"), base, shift)
    message = "error: g does not fit .* is not the one that .* was trained on: give that one"
    refused(capsys, message, "predict", *images, "--adapter=g", "--output=out")
    assert not Path("out").exists()


def test_an_adapter_that_is_none_is_named(
    images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "nowhere.*", "predict", *images, "--adapter=nowhere")
    Path("empty").mkdir()
    refused(capsys, "empty.*graft.json", "predict", *images, "--adapter=empty")


def theirs(name: str) -> Callable[[], Path]:
    def make() -> Path:
        Path("out").mkdir()
        (Path("out") / name).write_text("precious")
        return Path("out") / name

    return make


def occupied() -> Path:
    Path("out").write_text("precious")
    return Path("out")


def below_a_file() -> Path:
    Path("file").write_text("precious")
    Path("out").symlink_to("file/out")
    return Path("file")


OUTPUTS: dict[str, tuple[Callable[[], Path], str]] = {
    "mask": (theirs("scan.nii.gz"), r"scan\.nii\.gz: exists and is not of this batch; --overwrite"),
    "statistics": (theirs("statistics.json"), r"statistics\.json: exists .*--overwrite"),
    "manifest": (theirs("manifest.json"), r"manifest\.json: not a manifest.*remove it or choose"),
    "file": (occupied, "out.*cannot write here"),
    "below a file": (below_a_file, "out.*cannot write here"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_output_that_cannot_be_written_or_is_taken_is_left_as_it_is(
    kind: str, images: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    make, message = OUTPUTS[kind]
    file = make()
    # It is told before anything is predicted.
    monkeypatch.setattr(Segmenter, "maps_of", lambda *_: pytest.fail("it was predicted"))
    refused(capsys, message, "predict", *images, "--output=out")
    assert file.read_text() == "precious"


def test_other_settings_replace_a_result_only_with_overwrite(
    images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *images, "--output=out"]) == 0
    before = Path("out/scan.nii.gz").read_bytes()
    other = ["predict", *images, "--output=out", "--model.overlap=0.5"]
    refused(capsys, "another image, base, graft or options; --overwrite replaces it", *other)
    assert Path("out/scan.nii.gz").read_bytes() == before
    assert main([*other, "--overwrite"]) == 0
    assert main(["predict", *images, "--output=out", "--overwrite"]) == 0
    assert Path("out/scan.nii.gz").read_bytes() == before


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_a_dicom_output_of_a_nifti_image_is_refused_before_it_is_predicted(
    kind: str, images: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(Segmenter, "maps_of", lambda *_: pytest.fail("it was predicted"))
    wanted = f"--outputs=[nifti,{kind}]"
    message = f"scan case scan: output {kind} needs a DICOM series.*leave it out of --outputs"
    refused(capsys, message, "predict", *images, wanted, "--output=out")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("target", "more"),
    [
        ("folder", []),
        ("net.safetensors", ["--merged=true"]),
        ("net.onnx", ["--format=onnx", "--model.roi=[16,16,16]"]),
    ],
)
def test_an_export_replaces_nothing(
    target: str, more: list[str], images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    made(Path("g"))
    if target == "folder":
        Path("folder").mkdir()
        file = Path("folder/theirs.txt")
    else:
        file = Path(target)
    file.write_text("precious")
    message = f"{target}.*(exists|is not empty|holds)"
    options = ["--adapter=g", "--trainer.accelerator=cpu", "--quiet", f"--output={target}", *more]
    refused(capsys, message, "export", *options)
    assert file.read_text() == "precious"


# ---- labels and images to train or measure on ----


def relabel(change: Callable[[Any], Any], grid: Any = GRID) -> Callable[[Path], Path]:
    def spoil(folder: Path) -> Path:
        path = folder / "labelsTs" / "other.nii.gz"
        found = np.asarray(nib.load(path).dataobj)
        nib.save(nib.Nifti1Image(change(found), grid), path)
        return path

    return spoil


def reimage(**how: Any) -> Callable[[Path], Path]:
    return lambda folder: nifti(folder / "imagesTs" / "other.nii.gz", (36, 32, 34), **how)


def garbage(folder: Path) -> Path:
    path = folder / "labelsTs" / "other.nii.gz"
    path.write_bytes(b"\x1f\x8bnothing")
    return path


LABELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another shape": (relabel(lambda a: a[1:]), "label grid .* differs from .*resample it"),
    "another place": (
        relabel(lambda a: a, np.diag([2.0, 2.0, 2.5, 1.0])),
        "label affine differs .* by up to 0.5 mm; resample it",
    ),
    "no such class": (relabel(lambda a: a * 2), "label values 4 are not among.*correct"),
    "between classes": (
        relabel(lambda a: a.astype(np.float32) / 2),
        "label values 0.5 are not among.*correct",
    ),
    "nothing": (relabel(lambda a: a * 0), "empty mask.*label it or leave it out"),
    "four dimensions": (relabel(lambda a: np.stack([a, a], -1)), "4 dimensions.*split it"),
    "unreadable": (garbage, "not a readable NIfTI file.*copy it again"),
    "NaN in the image": (reimage(change=one_nan), "1 voxels are NaN or infinite.*replace them"),
    "image without orientation": (
        reimage(change=no_codes),
        "orientation is unknown.*write it anew",
    ),
}


@pytest.mark.parametrize("fault", LABELS)
def test_a_case_that_cannot_be_measured_names_its_file(
    fault: str, data_folder: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = LABELS[fault]
    path = spoil(data_folder)
    monkeypatch.chdir(data_folder.parent)
    command = ["test", "--data=graftwork_medseg.data.FolderData", f"--data.path={data_folder}"]
    command += ["--trainer.accelerator=cpu", "--quiet", "--run_dir=t"]
    refused(capsys, f"{path}: .*{message}", *command)
    assert not Path("t/record.json").exists()
