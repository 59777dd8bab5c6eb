"""DICOM out and labels in: SEG and RTSTRUCT read back by other programs and by our own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from graftwork_medseg.images import dicom_labels, dicom_write
from graftwork_medseg.images.contract import Contract
from graftwork_medseg.images.dicom_read import open_series, read_series
from graftwork_medseg.images.folder import CaseFiles
from graftwork_medseg.images.volume import load

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
                inside ^= bool(y >= edge)
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
