"""Results out: statistics, and batches that stop and go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import numbers, stack, write_series

from graftwork.errors import GraftError
from graftwork_medseg.app import main
from graftwork_medseg.data import Input
from graftwork_medseg.images import dicom_labels, nifti
from graftwork_medseg.images.contract import Contract
from graftwork_medseg.images.dicom_read import open_series
from graftwork_medseg.images.folder import CaseFiles
from graftwork_medseg.images.volume import Volume, load
from graftwork_medseg.prediction import outputs, results
from graftwork_medseg.prediction.maps import Maps
from graftwork_medseg.prediction.outputs import Outputs
from graftwork_medseg.prediction.results import Results
from graftwork_runs import validate_record

CLASSES = ("background", "Liver", "Left kidney")


def test_statistics_by_hand() -> None:
    values = np.zeros((4, 3, 2), np.float32)
    mask = np.zeros((4, 3, 2), np.uint8)
    mask[0, :, 0], values[0, :, 0] = 1, (10, 20, 60)
    affine = np.array([[0, 2.0, 0, 0], [3.0, 0.5, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])
    one, other = outputs.statistics("c", mask, nib.Nifti1Image(values, affine), CLASSES)
    assert one == {
        "case": "c", "class": "Liver", "voxels": 3, "ml": 0.09, "mean": 30.0,
        "sd": pytest.approx(21.602469), "median": 20.0, "p5": 11.0, "p95": 56.0,
    }  # fmt: skip
    assert other["voxels"] == 0 and other["ml"] == 0 and other["mean"] is None


def scan(folder: Path, name: str, seed: int = 0) -> Input:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.nii.gz"
    values = np.random.default_rng(seed).normal(size=(9, 8, 7)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 3, 1])), path)
    return Input(name, (path,), partial(load, CaseFiles(name, (path,), None), 3, Contract()))


def segment(volume: Volume, wanted: Any) -> Maps:
    """A stand-in for the network: bright voxels are class 1."""
    mask = volume.placement.to_file_order((volume.image[0] > 0).numpy().astype(np.uint8))
    entropy = np.full(mask.shape, 0.25, np.float32) if wanted.entropy else None
    return Maps(mask, entropy=entropy)


def batch(folder: Path, inputs: list[Input], about: str = "graft 1", **options: Any) -> Results:
    """Predict what is pending, as `medseg predict` does."""
    one = Results(folder, Outputs(**options), CLASSES, {"graft": about})
    for case in one.pending(inputs):
        volume = one.reader(case)()
        if volume is not None:
            one.predict(volume, segment)
    one.finish()
    return one


def test_finished_cases_are_kept_and_others_go_on(tmp_path: Path) -> None:
    inputs = [scan(tmp_path / "in", name) for name in ("a", "b", "c")]
    first = batch(tmp_path / "out", inputs[:2])
    assert [p.name for p in first.written] == ["a.nii.gz", "b.nii.gz"] and not first.failures
    stamps = {p: p.stat().st_mtime_ns for p in first.written}
    again = batch(tmp_path / "out", inputs)
    assert again.kept == ["a", "b"] and [p.name for p in again.written] == ["c.nii.gz"]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    rows = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert [(r["case"], r["class"]) for r in rows] == [(c, k) for c in "abc" for k in CLASSES[1:]]


CHANGES: dict[str, Callable[[Path, list[Input]], dict[str, Any]]] = {
    "graft": lambda out, inputs: {"about": "graft 2"},
    "options": lambda out, inputs: {"uncertainty": True},
    "image": lambda out, inputs: scan(inputs[0].files[0].parent, "a", seed=1) and {},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_another_graft_option_or_image_made_is_replaced_only_on_demand(
    tmp_path: Path, change: str
) -> None:
    inputs = [scan(tmp_path / "in", "a")]
    [path] = batch(tmp_path / "out", inputs).written
    before = path.read_bytes()
    how = CHANGES[change](tmp_path / "out", inputs)
    refused = batch(tmp_path / "out", inputs, **how)
    assert "--overwrite" in refused.failures[0].reason and path.read_bytes() == before
    replaced = batch(tmp_path / "out", inputs, **how, overwrite=True)
    assert path in replaced.written and not replaced.failures
    assert batch(tmp_path / "out", inputs, **how).kept == ["a"]


def test_a_damaged_or_lost_result_is_made_again(tmp_path: Path) -> None:
    inputs = [scan(tmp_path / "in", name) for name in ("a", "b")]
    one, other = batch(tmp_path / "out", inputs).written
    good = one.read_bytes(), other.read_bytes()
    one.unlink()
    other.write_bytes(b"cut")
    again = batch(tmp_path / "out", inputs)
    assert again.written == [one, other] and not again.kept
    assert (nib.load(one).shape, len(good[1])) == ((9, 8, 7), len(other.read_bytes()))


def test_a_case_that_was_stopped_half_way_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [scan(tmp_path / "in", "a")]
    real = outputs.write_shares

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "write_shares", stop)
    with pytest.raises(KeyboardInterrupt):
        batch(tmp_path / "out", inputs, uncertainty=True)
    assert (tmp_path / "out" / "a.nii.gz").exists()  # its mask was there, its map was not
    monkeypatch.setattr(outputs, "write_shares", real)
    done = batch(tmp_path / "out", inputs, uncertainty=True)
    assert not done.failures and len(done.written) == 2
    assert not list((tmp_path / "out").glob(".tmp*"))


def test_a_file_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    theirs = tmp_path / "out" / "a.nii.gz"
    theirs.write_bytes(b"precious")
    found = batch(tmp_path / "out", [scan(tmp_path / "in", "a")])
    assert "is not of this batch" in found.failures[0].reason
    assert theirs.read_bytes() == b"precious"


def test_two_images_of_one_name_are_refused_at_once(tmp_path: Path) -> None:
    inputs = [scan(tmp_path / "in", "a"), scan(tmp_path / "other", "a")]
    with pytest.raises(GraftError, match="several images are named a"):
        batch(tmp_path / "out", inputs)
    assert not (tmp_path / "out").exists()


def test_a_manifest_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"format": 7, "cases": {}}')
    with pytest.raises(GraftError, match=r"manifest\.json: not a manifest of medseg predict"):
        batch(tmp_path / "out", [])


def test_maps_are_uint8_with_a_slope(tmp_path: Path) -> None:
    inputs = [scan(tmp_path / "in", "a")]
    batch(tmp_path / "out", inputs, uncertainty=True)
    found = nib.load(tmp_path / "out" / "a.uncertainty.nii.gz")
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_allclose(found.get_fdata(), 64 / 255, atol=1e-6)
    assert found.affine.tobytes() == nib.load(inputs[0].files[0]).affine.tobytes()


def test_unknown_or_no_formats_are_refused() -> None:
    with pytest.raises(GraftError, match="choose among nifti, seg, rtstruct"):
        Outputs(("stl",))
    with pytest.raises(GraftError, match="outputs is empty"):
        Outputs(())


def test_the_command_predicts_what_it_can_and_lists_what_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shape = (20, 18, 9)
    write_series(Path("good"), numbers(shape), stack(spacing=(3, 3, 4)))
    write_series(Path("gap"), numbers(shape), stack(spacing=(3, 3, 4)), skip=[4])
    scan(Path("in"), "plain")
    names = "[good,gap,in/plain.nii.gz]"
    options = ["--data=graftwork_medseg.data.ImageFiles", f"--data.files={names}", "--output=out"]
    options += ["--trainer.accelerator=cpu", "--outputs=[nifti,seg,rtstruct]", "--uncertainty=true"]
    options += ["--probabilities=true", "--model.roi=[16,16,16]"]
    assert main(["predict", *options]) == 2
    said = capsys.readouterr()
    assert "2 of 3 cases failed:" in said.err and "Traceback" not in said.err
    assert "slices are missing" in said.err and "seg needs a DICOM series" in said.err
    assert "Cases that failed" in Path("runs/medseg/predict/report.html").read_text()
    image, mask = open_series("good"), nib.load("out/good.nii.gz")
    assert mask.shape == shape and mask.affine.tobytes() == image.affine.tobytes()
    labels = np.asarray(mask.dataobj)
    for kind in ("seg", "rtstruct"):
        back = dicom_labels.read_labels(f"out/good.{kind}.dcm", image, ("background", "GM", "WM"))
        np.testing.assert_array_equal(back, labels)
    shares = nib.load("out/good.probabilities.nii.gz")
    assert shares.shape == (*shape, 3)
    np.testing.assert_allclose(shares.get_fdata().sum(-1), 1, atol=0.02)
    rows = json.loads(Path("out/statistics.json").read_text())
    assert [r["class"] for r in rows] == ["GM", "WM"]
    voxel = float(np.prod(nifti.spacing_of(image.affine))) / 1000
    assert rows[0]["ml"] == pytest.approx((labels == 1).sum() * voxel, abs=1e-3)
    options[1] = "--data.files=[good]"
    assert main(["predict", *options]) == 0
    assert "kept: good" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["in", "ct", "ct/masks"])
def test_an_output_among_the_images_is_refused(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    image = scan(Path("in"), "plain").files[0].read_bytes()
    write_series(Path("ct"), numbers())
    options = ["--data=graftwork_medseg.data.ImageFiles", "--data.files=[in,ct]"]
    options += [f"--output={output}", "--overwrite=true", "--trainer.accelerator=cpu"]
    assert main(["predict", *options]) == 2
    assert "lies among the images" in capsys.readouterr().err
    assert Path("in/plain.nii.gz").read_bytes() == image


def test_calibration_is_in_record_and_report(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    meta = json.loads((data_folder / "dataset.json").read_text())
    options = ["--data=graftwork_medseg.data.FolderData", f"--data.path={data_folder}"]
    options += ["--trainer.accelerator=cpu", "--model.roi=[16,16,16]", "--run_dir=t"]
    assert main(["test", *options]) == 0
    record = validate_record(tmp_path / "t" / "record.json")
    (row,) = record.find(metric="calibration error", case="foreground")
    bins = record.details["calibration"]["other"]["foreground"]
    gaps = np.abs(np.array(bins["correct"]) - np.array(bins["confidence"]))
    assert len(gaps) == 15 and row.value == pytest.approx(gaps.sum() / sum(bins["count"]), abs=1e-4)
    whole = record.details["calibration"]["other"]["image"]
    assert sum(whole["count"]) == 36 * 32 * 34 and meta["labels"]["1"] == "shell"
    report = (tmp_path / "t" / "report.html").read_text()
    assert "Calibration" in report and "Expected calibration error over 15 bins" in report


def test_tensors_are_told_apart_by_name_shape_and_bytes() -> None:
    import torch

    one = {"a": torch.arange(4.0), "b": torch.tensor(1, dtype=torch.bfloat16)}
    same = {k: one[k].clone() for k in reversed(one)}
    assert results.tensors_sha256(one) == results.tensors_sha256(same)
    assert results.tensors_sha256(one) != results.tensors_sha256({**one, "a": torch.zeros(4)})
    assert results.tensors_sha256(one) != results.tensors_sha256(
        {**one, "a": one["a"].reshape(2, 2)}
    )
