"""What stops a whole command: a foreign graft, a taken output, a case that cannot be measured; one message each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from kit import FILES, GRID, nifti, no_codes, one_nan

import graftwork as gw
from graftwork_medseg.app import main
from graftwork_medseg.module import Segmenter


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
