"""Results out: SEG and RTSTRUCT read back by other programs, statistics, batches that stop and go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from dicom_series import LPS_TO_RAS, numbers, stack, turned, write_enhanced, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from pydicom import dcmread
from scipy.ndimage import gaussian_filter

from graftwork.errors import GraftError
from graftwork_medseg import dicom_labels, dicom_write, nifti, outputs, results
from graftwork_medseg.app import main
from graftwork_medseg.contract import Contract
from graftwork_medseg.data import Input, Volume, load
from graftwork_medseg.dicom_read import open_series, read_series
from graftwork_medseg.folder import CaseFiles
from graftwork_medseg.maps import Maps
from graftwork_medseg.outputs import Outputs
from graftwork_medseg.results import Results
from graftwork_runs import validate_record

SHAPE = (24, 20, 9)
CLASSES = ("background", "Liver", "Left kidney")


def organs(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Any:
    """A mask of two smooth random structures, with holes and several parts."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(2, *shape)), (0, 2, 2, 1))
    mask = np.zeros(shape, np.uint8)
    mask[field[0] > 0.02], mask[field[1] > 0.04] = 1, 2
    mask[-1, 3:9, 2] = 1  # touches the border of the image
    return mask


@pytest.fixture(params=["slices", "enhanced"])
def series(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    affine = stack(turn=turned((0.3, -0.2, 0.1)))
    if request.param == "enhanced":
        write_enhanced(tmp_path / "ct", numbers(SHAPE), affine)
    else:
        write_series(tmp_path / "ct", numbers(SHAPE), affine)
    return read_series(tmp_path / "ct")


def test_a_seg_read_by_simpleitk_has_the_same_grid_and_volumes(series: Any, tmp_path: Path) -> None:
    mask = organs()
    path = dicom_write.write_seg(tmp_path / "m.dcm", mask, series, CLASSES)
    data = dcmread(path)
    assert [s.SegmentLabel for s in data.SegmentSequence] == list(CLASSES[1:])
    assert data.FrameOfReferenceUID == series.frames[0].header.FrameOfReferenceUID
    assert data.PatientID == "sim-1"
    voxel = abs(np.linalg.det(series.affine[:3, :3]))
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    # All frames of all segments; ITK reads single bits as 0 and 255.
    frames = SimpleITK.GetArrayFromImage(reader.Execute()) > 0
    numbers_of = [
        int(g.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for g in data.PerFrameFunctionalGroupsSequence
    ]
    for k in (1, 2):
        voxels = sum(int(frames[i].sum()) for i, n in enumerate(numbers_of) if n == k)
        assert voxels * voxel == pytest.approx((mask == k).sum() * voxel, rel=0.02)
    # Each frame says where it lies: there, the mask has just these voxels.
    for frame, group in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        at = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        i, j, k = np.linalg.solve(LPS_TO_RAS @ series.affine, [*at, 1])[:3]
        assert (i, j) == pytest.approx((0, 0), abs=1e-3)
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        np.testing.assert_array_equal(frame.T, mask[:, :, round(k)] == number)


def filled(path: Path, affine: Any, number: int) -> Any:
    """A structure of an RTSTRUCT, filled by matplotlib."""
    data = dcmread(path)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE[:2]), indexing="ij"), -1).reshape(-1, 2)
    out = np.zeros(SHAPE, bool)
    [drawn] = [c for c in data.ROIContourSequence if c.ReferencedROINumber == number]
    for contour in drawn.ContourSequence:
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        points = np.column_stack([points, np.ones(len(points))])
        at = np.linalg.solve(LPS_TO_RAS @ affine, points.T).T
        k = round(at[:, 2].mean())
        assert np.abs(at[:, 2] - k).max() < 1e-2
        out[:, :, k] ^= Outline(at[:, :2]).contains_points(grid).reshape(SHAPE[:2])
    return out


def test_an_rtstruct_filled_by_matplotlib_is_the_mask(series: Any, tmp_path: Path) -> None:
    mask = organs(1)
    path = dicom_write.write_rtstruct(tmp_path / "m.dcm", mask, series, CLASSES)
    data = dcmread(path)
    assert [r.ROIName for r in data.StructureSetROISequence] == list(CLASSES[1:])
    [frame] = data.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == series.frames[0].header.FrameOfReferenceUID
    [study] = frame.RTReferencedStudySequence
    assert study.RTReferencedSeriesSequence[0].SeriesInstanceUID == series.uid
    for k in (1, 2):
        np.testing.assert_array_equal(filled(path, series.affine, k), mask == k)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_both_formats_give_any_mask_back_voxel_for_voxel(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("both")
    shape = (9, 8, 4)
    affine = stack(turn=turned((0.3, seed % 7 / 7, 0.1)))
    image = open_series(write_series(folder / "ct", numbers(shape), affine))
    series = image.dataobj.series
    mask = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    seg = dicom_write.write_seg(folder / "seg.dcm", mask, series, CLASSES)
    contours = dicom_write.write_rtstruct(folder / "rt.dcm", mask, series, CLASSES)
    for path in (seg, contours):
        found = dicom_labels.read_labels(path, image, [n.upper() + " " for n in CLASSES])
        np.testing.assert_array_equal(found, mask)


def test_a_hole_and_an_island_in_it_come_back(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", numbers(SHAPE))
    image = open_series(tmp_path / "ct")
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:16, 3:15, 2:5], mask[6:14, 5:13, 3], mask[9:11, 8:10, 3] = 1, 0, 2
    mask[20, 18, 6] = 1  # a single voxel
    for kind in ("seg", "rtstruct"):
        write = getattr(dicom_write, f"write_{kind}")
        path = write(tmp_path / f"{kind}.dcm", mask, image.dataobj.series, CLASSES)
        np.testing.assert_array_equal(dicom_labels.read_labels(path, image, CLASSES), mask)


def test_an_empty_mask_is_written_too(series: Any, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    dicom_write.write_seg(tmp_path / "s.dcm", mask, series, CLASSES)
    dicom_write.write_rtstruct(tmp_path / "r.dcm", mask, series, CLASSES)
    image = open_series(tmp_path / "ct")
    for name in ("s.dcm", "r.dcm"):
        assert not dicom_labels.read_labels(tmp_path / name, image, CLASSES).any()


def labelled(tmp_path: Path) -> tuple[Path, Any]:
    write_series(tmp_path / "ct", numbers(SHAPE), series="1.2.3")
    image = open_series(tmp_path / "ct")
    path = tmp_path / "labels.dcm"
    dicom_write.write_rtstruct(path, organs(), image.dataobj.series, CLASSES)
    return path, image


def test_labels_of_another_kind_scan_or_name_are_refused(tmp_path: Path) -> None:
    path, image = labelled(tmp_path)
    with pytest.raises(GraftError, match="no structure named 'Spleen'; it names 'Left kidney', 'L"):
        dicom_labels.read_labels(path, image, ("background", "Liver", "Spleen"))
    found = dicom_labels.read_labels(
        path, image, ("background", "Spleen", "liver"), allow_absent=True
    )
    np.testing.assert_array_equal(found == 2, organs() == 1)
    with pytest.raises(GraftError, match="Modality CT"):
        dicom_labels.read_labels(tmp_path / "ct" / "000.dcm", image, CLASSES)
    data = dcmread(path)
    data.ROIContourSequence[0].ContourSequence[0].ContourData[2] += 1.0
    data.save_as(tmp_path / "off.dcm")
    with pytest.raises(GraftError, match="lies between the image's slices"):
        dicom_labels.read_labels(tmp_path / "off.dcm", image, CLASSES)
    data.FrameOfReferenceUID = "1.9"
    data.save_as(tmp_path / "other.dcm")
    with pytest.raises(GraftError, match=r"FrameOfReferenceUID 1\.9 is not that"):
        dicom_labels.read_labels(tmp_path / "other.dcm", image, CLASSES)
    data = dcmread(path)
    data.StructureSetROISequence[1].ROIName = "LIVER"
    data.save_as(tmp_path / "twice.dcm")
    with pytest.raises(GraftError, match="names 'Liver' 2 times"):
        dicom_labels.read_labels(tmp_path / "twice.dcm", image, CLASSES)


@pytest.mark.parametrize("way", ["shift", "spacing"])
def test_a_seg_of_another_grid_is_refused(tmp_path: Path, way: str) -> None:
    affine = stack()
    series = read_series(write_series(tmp_path / "ct", numbers(SHAPE), affine))
    path = dicom_write.write_seg(tmp_path / "m.dcm", organs(), series, CLASSES)
    moved = affine.copy()
    if way == "shift":
        moved[:3, 3] += 0.3
    else:
        moved[:3, 0] *= 1.01
    image = open_series(write_series(tmp_path / "other", numbers(SHAPE), moved))
    with pytest.raises(GraftError, match="does not lie on the image's grid"):
        dicom_labels.read_labels(path, image, CLASSES)


@settings(max_examples=50, deadline=None)
@given(
    polygon=st.lists(st.tuples(*[st.floats(-2, 12)] * 2), min_size=3, max_size=9),
)
def test_polygons_are_filled_as_a_ray_from_each_centre_says(polygon: Any) -> None:
    points = np.round(np.array(polygon), 2) + 0.003  # no corner on a pixel's centre
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(8), indexing="ij"), -1).reshape(-1, 2)
    found = dicom_labels.fill(points, (10, 8))
    # Even-odd, by counting the crossings of a ray from each centre, one centre at a time.
    expected, clear = np.zeros(80, bool), np.ones(80, bool)
    for n, (x, y) in enumerate(grid):
        inside = False
        for a, b in zip(points, np.roll(points, -1, 0), strict=True):
            if (a[0] > x) != (b[0] > x):
                edge = a[1] + (x - a[0]) / (b[0] - a[0]) * (b[1] - a[1])
                inside ^= bool(y > edge)
                clear[n] &= abs(y - edge) > 1e-9  # on an edge, rounding decides
        expected[n] = inside
    np.testing.assert_array_equal(found.ravel()[clear], expected[clear])


def test_a_corner_on_a_row_counts_once() -> None:
    diamond = np.array([[1, 2.5], [2, 3.5], [3, 2.5], [2, 1.5]])
    expected = np.zeros((5, 5), bool)
    expected[2, 2:4] = True
    np.testing.assert_array_equal(dicom_labels.fill(diamond, (5, 5)), expected)


def test_a_data_set_of_dicom_images_and_labels_is_read(tmp_path: Path) -> None:
    path, _ = labelled(tmp_path)
    case = CaseFiles("one", (tmp_path / "ct",), path)
    volume = load(case, 3, Contract(), names=CLASSES)
    assert volume.truth is not None and volume.truth.dtype == np.uint8
    np.testing.assert_array_equal(volume.truth, organs())


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
