"""DICOM in: exact geometry of any stack, and one message for what has none."""

from __future__ import annotations

import builtins
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
import SimpleITK
from dicom_series import (
    LPS_TO_RAS,
    base,
    numbers,
    put_pixels,
    stack,
    turned,
    write_enhanced,
    write_series,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.uid import JPEGLosslessSV1, RLELossless, generate_uid

from graftwork.errors import GraftError
from graftwork_medseg.images import dicom_files, nifti
from graftwork_medseg.images.dicom_read import open_series, read_series, series_of


def values(image: Any) -> Any:
    return np.asarray(image.dataobj)


@settings(max_examples=20, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.4, 4.0)] * 3),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    axes=st.permutations([0, 1, 2]),
    slope=st.sampled_from([1.0, 0.25, 2.5]),
    intercept=st.sampled_from([0.0, -1024.0, 7.5]),
)
def test_any_stack_has_the_affine_and_the_values_it_was_written_with(
    tmp_path_factory: pytest.TempPathFactory,
    spacing: Any,
    angles: Any,
    axes: Any,
    slope: float,
    intercept: float,
) -> None:
    folder = tmp_path_factory.mktemp("series")
    turn = turned(angles)[:, list(axes)]
    turn[:, 2] *= np.sign(np.linalg.det(turn))  # slices are sorted along row x column
    affine = stack(spacing=spacing, turn=turn)
    write_series(folder, numbers(), affine, slope=slope, intercept=intercept)
    image = open_series(folder)
    assert image.shape == (14, 11, 6)
    np.testing.assert_allclose(image.affine, LPS_TO_RAS @ affine, atol=2e-5)
    np.testing.assert_array_equal(values(image), (numbers() * slope + intercept).astype(np.float32))
    series = series_of(image)
    assert series is not None
    np.testing.assert_allclose(series.affine, LPS_TO_RAS @ affine, atol=1e-8)
    np.testing.assert_allclose(nifti.spacing_of(series.affine), spacing, rtol=1e-8)


def test_simpleitk_sees_the_same_voxels_at_the_same_places(tmp_path: Path) -> None:
    affine = stack(turn=turned((0.2, -0.3, 0.15)))
    write_series(tmp_path, numbers(), affine, slope=2.0)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    other = reader.Execute()
    image = open_series(tmp_path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(other).T, values(image))
    for voxel in ((0, 0, 0), (13, 10, 5), (4, 7, 2)):
        there = other.TransformIndexToPhysicalPoint(voxel)
        here = LPS_TO_RAS @ image.affine @ [*voxel, 1]
        np.testing.assert_allclose(here[:3], there, atol=1e-4)


def test_slices_that_are_stored_from_the_other_end_give_the_same_volume(tmp_path: Path) -> None:
    affine = stack()
    backwards = affine.copy()
    backwards[:3, 3] += 5 * affine[:3, 2]
    backwards[:3, 2] *= -1
    write_series(tmp_path / "a", numbers(), affine)
    write_series(tmp_path / "b", numbers()[:, :, ::-1], backwards)
    one, other = open_series(tmp_path / "a"), open_series(tmp_path / "b")
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-5)
    np.testing.assert_array_equal(values(one), values(other))


def test_each_slices_own_slope_counts(tmp_path: Path) -> None:
    def change(k: int, data: Any) -> None:
        data.RescaleSlope = str(k + 1)

    image = open_series(write_series(tmp_path, numbers(), change=change, intercept=5))
    np.testing.assert_array_equal(values(image), numbers() * np.arange(1, 7) + 5)


def test_an_enhanced_multi_frame_file_reads_as_its_slices(tmp_path: Path) -> None:
    affine = stack(turn=turned((0.1, 0.2, -0.3)))
    image = open_series(write_enhanced(tmp_path, numbers(), affine))
    np.testing.assert_allclose(image.affine, LPS_TO_RAS @ affine, atol=2e-5)
    np.testing.assert_array_equal(values(image), numbers() * 2.0 - 1000)


def test_a_single_slice_is_as_thick_as_it_says(tmp_path: Path) -> None:
    image = open_series(write_series(tmp_path, numbers((5, 4, 1)), stack()))
    assert image.shape == (5, 4, 1)
    np.testing.assert_allclose(nifti.spacing_of(image.affine), (0.8, 1.3, 2.5), rtol=1e-6)


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, f"study/../../{file.name}")  # a name that would escape
    return target


def test_a_zip_reads_as_its_folder_and_writes_nothing(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "deep" / "a", numbers())
    archive = zipped(folder, tmp_path / "deep" / "a.zip")
    before = sorted(tmp_path.rglob("*"))
    image = open_series(archive)
    np.testing.assert_array_equal(values(image), values(open_series(folder)))
    assert sorted(tmp_path.rglob("*")) == before


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    write_series(tmp_path / "other", numbers())
    folder = write_series(tmp_path / "mine", numbers())
    (folder / "link.dcm").symlink_to(next((tmp_path / "other").iterdir()))
    assert open_series(folder).shape == (14, 11, 6)


def test_other_objects_and_files_in_the_folder_are_passed_over(tmp_path: Path) -> None:
    write_series(tmp_path, numbers())
    (tmp_path / "readme.txt").write_text("not DICOM")
    (tmp_path / ".hidden").write_bytes(b"x")
    report = base(generate_uid(), 1)
    report.Modality = "RTSTRUCT"
    dcmwrite(tmp_path / "zzz.dcm", report, enforce_file_format=True)
    assert open_series(tmp_path).shape == (14, 11, 6)


def test_of_several_series_one_is_chosen_by_its_uid(tmp_path: Path) -> None:
    write_series(tmp_path / "a", numbers(), series="1.2.3")
    write_series(tmp_path / "b", -numbers(), series="1.2.4", skip=[5])
    with pytest.raises(GraftError, match="holds 2 image series; choose one") as caught:
        open_series(tmp_path)
    assert "1.2.3  6 files" in str(caught.value) and "1.2.4  5 files" in str(caught.value)
    assert open_series(tmp_path, "1.2.4").shape == (14, 11, 5)
    with pytest.raises(GraftError, match=r"no series 1\.9; there are"):
        open_series(tmp_path, "1.9")


def spoil(**fields: Any) -> Any:
    """A change of the third slice alone."""

    def change(k: int, data: Any) -> None:
        if k == 2:
            for field, value in fields.items():
                if value is None:
                    delattr(data, field)
                else:
                    setattr(data, field, value)

    return change


def move(shift: float, of: int, axis: int = 2) -> Any:
    def change(k: int, data: Any) -> None:
        if k == of:
            at = [float(v) for v in data.ImagePositionPatient]
            at[axis] += shift
            data.ImagePositionPatient = at

    return change


def tilt(k: int, data: Any) -> None:
    x, y, z = (float(v) for v in data.ImagePositionPatient)
    data.ImagePositionPatient = [x, y + 0.5 * k, z]


def compressed(k: int, data: Any) -> None:
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    from pydicom.encaps import encapsulate

    data.PixelData = encapsulate([b"\xff\xd8" + bytes(20)])
    data["PixelData"].VR = "OB"


def colour(k: int, data: Any) -> None:
    data.SamplesPerPixel = 3


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing slices": ({"skip": [2, 3]}, r"2 slices are missing, at 105\.00, 107\.50 mm"),
    "a slice twice": ({"change": move(2.5, 2)}, "2 slices share a position"),
    "uneven": ({"change": move(0.4, 2)}, r"slices are 2\.100 to 2\.900 mm apart"),
    "gantry tilt": ({"change": tilt}, r"sheared by 11\.3 degrees .*, 2\.5 mm from first to last"),
    "no spacing": ({"change": spoil(PixelSpacing=None)}, "PixelSpacing is missing"),
    "no orientation": (
        {"change": spoil(ImageOrientationPatient=None)},
        "ImageOrientationPatient is missing",
    ),
    "no position": (
        {"change": spoil(ImagePositionPatient=None)},
        "ImagePositionPatient is missing",
    ),
    "skew axes": (
        {"change": spoil(ImageOrientationPatient=[1, 0, 0, 0.5, 0.8, 0])},
        "not two perpendicular unit vectors",
    ),
    "zero spacing": ({"change": spoil(PixelSpacing=[0, 1])}, "must be positive"),
    "another orientation": (
        {"change": spoil(ImageOrientationPatient=[0, 1, 0, 0, 0, 1])},
        "ImageOrientationPatient differs between",
    ),
    "another spacing": ({"change": spoil(PixelSpacing=[1.3, 0.9])}, "PixelSpacing differs"),
    "colour": ({"change": colour}, "a colour image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_has_no_exact_geometry_is_one_message(tmp_path: Path, fault: str) -> None:
    how, message = FAULTS[fault]
    write_series(tmp_path, numbers(), **how)
    with pytest.raises(GraftError, match=message) as caught:
        open_series(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_other_matrix_sizes_are_named(tmp_path: Path) -> None:
    def change(k: int, data: Any) -> None:
        if k == 2:
            put_pixels(data, np.zeros((5, 5)))

    write_series(tmp_path, numbers(), change=change)
    with pytest.raises(GraftError, match="Rows and Columns differs between"):
        open_series(tmp_path)


def test_a_multi_frame_file_without_places_is_refused(tmp_path: Path) -> None:
    write_enhanced(tmp_path, numbers(), stack(), places=False)
    with pytest.raises(GraftError, match="6 frames without their places"):
        open_series(tmp_path)


def test_pixels_without_a_decoder_are_named_when_read(tmp_path: Path) -> None:
    image = open_series(write_series(tmp_path, numbers(), change=compressed))
    with pytest.raises(GraftError, match=r"compressed as JPEG Lossless.*needs one of: .*pylibjpeg"):
        values(image)


def test_compressed_pixels_with_a_decoder_are_read(tmp_path: Path) -> None:
    def pack(k: int, data: Any) -> None:
        data.compress(RLELossless)

    image = open_series(write_series(tmp_path, numbers(), change=pack))
    np.testing.assert_array_equal(values(image), numbers() - 1024)


def test_damaged_pixels_are_named_when_read(tmp_path: Path) -> None:
    def cut(k: int, data: Any) -> None:
        if k == 3:
            data.PixelData = data.PixelData[:20]

    image = open_series(write_series(tmp_path, numbers(), change=cut))
    with pytest.raises(GraftError, match=r"021\.dcm: its pixels cannot be read"):
        values(image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "no such DICOM folder"),
        (lambda p: p, "holds no DICOM image"),
        (lambda p: p.joinpath("a.zip").write_bytes(b"no") and p / "a.zip", "not a readable zip"),
    ],
)
def test_places_without_a_series_are_named(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        open_series(make(tmp_path))


def test_a_zip_bomb_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(2**28))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(GraftError, match="unpacks 0 MiB to 256 MiB"):
        open_series(bomb)
    monkeypatch.setattr(dicom_files, "LIMIT", 1000)
    small = zipped(write_series(tmp_path / "a", numbers()), tmp_path / "a.zip")
    with pytest.raises(GraftError, match="the limits are"):
        open_series(small)


def test_the_extra_is_named_when_pydicom_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pydicom":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GraftError, match=r"graftwork-medseg\[dicom\]"):
        open_series(tmp_path)


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path, numbers())
    victim = folder / "007.dcm"
    raw = bytearray(victim.read_bytes())
    at = raw.index(b"IS\x02\x00")  # InstanceNumber: its length reaches beyond the file
    raw[at + 2 : at + 4] = b"\xff\xff"
    victim.write_bytes(bytes(raw))
    with pytest.raises(GraftError, match=r"007\.dcm|slices are missing"):
        read_series(folder)
    assert dcmread(folder / "000.dcm").InstanceNumber == 1


@pytest.mark.filterwarnings("ignore")  # pydicom warns about what is odd in these files
def test_pydicoms_own_odd_files_are_read_or_refused_by_name(tmp_path: Path) -> None:
    samples = Path(pydicom.data.__file__).parent / "test_files"
    chosen = [f for f in sorted(samples.rglob("*")) if f.is_file() and f.stat().st_size < 200_000]
    read, refused = [], []
    for n, file in enumerate(chosen):
        folder = tmp_path / str(n)
        folder.mkdir()
        shutil.copy(file, folder)
        try:
            image = open_series(folder)
            assert np.isfinite(values(image)).all() and image.shape[2] == 1
            read.append(file.name)
        except GraftError as error:
            assert str(folder) in str(error)
            refused.append(file.name)
    assert {"CT_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"} <= set(read)
    assert {"MR_truncated.dcm", "SC_rgb_rle.dcm", "rtstruct.dcm"} <= set(refused)
