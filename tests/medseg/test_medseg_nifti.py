"""Images in and masks out: any orientation, spacing and shear, on the image's own grid, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork_medseg.images import nifti

GEOMETRY = (
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def oblique(
    spacing: tuple[float, ...], angles: tuple[float, ...], axes: tuple[int, ...], flips: Any
) -> Any:
    """An affine of given voxel size whose axes are permuted, flipped and turned by `angles` (radians)."""
    turn = np.eye(3)
    for k, angle in enumerate(angles):
        i, j = (k + 1) % 3, (k + 2) % 3
        one = np.eye(3)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[:, list(axes)] @ np.diag(np.array(flips) * np.array(spacing))
    affine[:3, 3] = (12.5, -33.25, 7.125)
    return affine


def same_geometry(a: Path, b: Path) -> None:
    one, other = nib.load(a), nib.load(b)
    assert one.shape == other.shape
    assert one.affine.tobytes() == other.affine.tobytes()
    for field in GEOMETRY:
        assert one.header[field].tobytes() == other.header[field].tobytes(), field


@settings(max_examples=25)
@given(
    spacing=st.tuples(*[st.floats(0.6, 4.0)] * 3),
    angles=st.tuples(*[st.floats(-0.35, 0.35)] * 3),
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(any),
)
def test_a_mask_comes_back_on_its_images_grid(
    tmp_path_factory: pytest.TempPathFactory,
    spacing: Any,
    angles: Any,
    axes: Any,
    flips: Any,
    codes: Any,
) -> None:
    folder = tmp_path_factory.mktemp("grid")
    affine = oblique(spacing, angles, tuple(axes), flips)
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(rng.normal(size=(17, 12, 14)).astype(np.float32), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, int(codes[0]))
    image.set_sform(affine, int(codes[1]))
    source = folder / "scan.nii.gz"
    nib.save(image, source)
    opened = nifti.open_image(source)
    voxels = nifti.read_voxels(opened, source)
    working, placement = nifti.place(voxels, opened.affine, 2.0)
    mask = placement.restore(torch.stack([torch.zeros(working.shape), torch.from_numpy(working)]))
    assert mask.shape == voxels.shape and mask.dtype == np.uint8
    same_geometry(source, nifti.write_mask(folder / "mask.nii.gz", mask, opened))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_labels_survive_the_way_to_the_working_grid_and_back(axes: Any, flips: Any) -> None:
    label = np.zeros((40, 30, 36), np.uint8)
    label[8:30, 5:20, 10:26] = 1
    label[12:20, 9:15, 14:20] = 2
    affine = oblique((1.0, 1.5, 2.0), (0.1, -0.2, 0.05), axes, flips)
    working, placement = nifti.place(label.astype(np.float32), affine, 1.5)
    small = nifti.place_label(label, placement, working.shape, 3)
    one_hot = torch.stack([torch.from_numpy(small == k).float() * 8 for k in range(3)])
    back = placement.restore(one_hot)
    for k in (1, 2):
        both = (back == k) & (label == k)
        assert 2 * both.sum() / ((back == k).sum() + (label == k).sum()) > 0.9


def test_without_resampling_the_round_trip_is_exact() -> None:
    label = np.random.default_rng(0).integers(0, 3, (9, 8, 7)).astype(np.uint8)
    affine = oblique((1.0, 2.0, 3.0), (0.2, 0.1, 0.0), (2, 0, 1), (-1, 1, -1))
    working, placement = nifti.place(label.astype(np.float32), affine, None)
    small = nifti.place_label(label, placement, working.shape, 3)
    scores = torch.stack([torch.from_numpy(small == k).float() for k in range(3)])
    assert np.array_equal(placement.restore(scores), label)


def test_the_working_grid_is_in_ras_order() -> None:
    voxels = np.zeros((10, 12, 14), np.float32)
    voxels[:, :, 0] = 1  # the array's last axis runs from right to left
    affine = oblique((1, 1, 1), (0, 0, 0), (1, 2, 0), (1, 1, -1))
    working, _ = nifti.place(voxels, affine, None)
    assert working.shape == (14, 10, 12) and working[-1].min() == 1 and working[:-1].max() == 0


def test_header_fields_of_the_image_do_not_distort_the_mask(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(0.25, 10)
    image.header["cal_max"] = 50
    nib.save(image, tmp_path / "scaled.nii")
    opened = nifti.open_image(tmp_path / "scaled.nii")
    mask = (np.arange(60).reshape(3, 4, 5) % 4).astype(np.uint8)
    nifti.write_mask(tmp_path / "mask.nii.gz", mask, opened)
    again = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(again.dataobj), mask)
    assert again.get_data_dtype() == np.uint8 and again.header["cal_max"] == 0


def save(path: Path, array: Any, affine: Any = None, **fields: Any) -> Path:
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    nib.save(image, path)
    if fields:  # nibabel refuses to write broken headers, so the bytes are patched
        raw = bytearray(path.read_bytes())
        for offset, value in fields.values():
            raw[offset : offset + len(value)] = value
        path.write_bytes(bytes(raw))
    return path


CUBE = np.ones((4, 4, 4), np.float32)
NAN = np.float32("nan").tobytes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, "no such image file"),
        (lambda p: p.write_bytes(b"not an image") and p, "not a readable NIfTI"),
        (lambda p: save(p, np.ones((4, 4), np.float32)), "2 dimensions"),
        (lambda p: save(p, np.ones((4, 4, 4, 2), np.float32)), "split it into one file per volume"),
        (lambda p: save(p, CUBE, spacing=(80, NAN)), "pixdim"),
        (lambda p: save(p, CUBE, row=(280, NAN)), "affine"),
        (lambda p: save(p, CUBE, np.diag([1.0, 1.0, 1.0, 1.0]), row=(280, bytes(16))), "singular"),
        (lambda p: save(p, CUBE.astype(np.complex64)), "not a real number"),
    ],
)
def test_bad_headers_are_named(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "scan.nii"
    make(path)
    with pytest.raises(GraftError, match=message) as caught:
        nifti.open_image(path)
    assert str(path) in str(caught.value)


def test_damaged_voxels_are_named(tmp_path: Path) -> None:
    bad = CUBE.copy()
    bad[0, 0, 0] = np.inf
    path = save(tmp_path / "inf.nii", bad)
    with pytest.raises(GraftError, match="1 voxels are NaN or infinite"):
        nifti.read_voxels(nifti.open_image(path), path)
    noisy = np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32)
    whole = save(tmp_path / "whole.nii.gz", noisy).read_bytes()
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GraftError, match="cannot be read"):
        nifti.read_voxels(nifti.open_image(cut), cut)
    garbled = bytearray(whole)
    garbled[len(whole) // 2] ^= 1  # one bit: only the checksum can tell
    cut.write_bytes(bytes(garbled))
    with pytest.raises(GraftError, match="cannot be read"):
        nifti.read_voxels(nifti.open_image(cut), cut)


def test_too_large_is_refused_from_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "scan.nii", CUBE)
    image = nifti.open_image(path)
    nifti.refuse_too_large(image, path, 1.0, 1)
    monkeypatch.setattr(nifti, "available_bytes", lambda: 2000)
    with pytest.raises(GraftError, match=r"needs about 0\.0 GiB of memory.*are free"):
        nifti.refuse_too_large(image, path, 1.0, 1)


def test_the_estimate_covers_what_placing_takes() -> None:
    image = nib.Nifti1Image(np.zeros((64, 64, 64), np.float32), np.eye(4))
    # At half the voxel size the working grid has eight times the voxels.
    fine, own = (nifti.needed_bytes(image, s, 1) for s in (0.5, None))
    assert own == 4 * 64**3 * (5 + 3) and fine == 4 * 64**3 * (5 + 8 * 3)
    assert nifti.available_bytes() > 2**20
