"""Folders in both layouts, and one clear message for each thing that can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from graftwork.errors import GraftError
from graftwork_medseg.data import FolderData, ImageFiles, SimulatedData
from graftwork_medseg.images import nifti
from graftwork_medseg.images.folder import read_case, read_dataset


def rewrite(folder: Path, **changes: Any) -> Path:
    """Change fields of dataset.json; a value of None takes the field away."""
    file = folder / "dataset.json"
    meta = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))
    return folder


def to_nnunet(folder: Path) -> Path:
    """Rename a Decathlon folder's files into nnU-Net's layout."""
    for which in ("Tr", "Ts"):
        for path in sorted((folder / f"images{which}").iterdir()):
            path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    return rewrite(
        folder,
        training=None,
        test=None,
        modality=None,
        channel_names={"0": "T1"},
        file_ending=".nii.gz",
        labels={"background": 0, "shell": 1, "core": 2},
    )


def test_both_layouts_say_the_same(data_folder: Path) -> None:
    decathlon = read_dataset(data_folder)
    nnunet = read_dataset(to_nnunet(data_folder))
    for found in (decathlon, nnunet):
        assert found.classes == ("background", "shell", "core") and found.channels == ("T1",)
        assert [c.name.removesuffix("_0000") for c in found.training] == ["case0", "case1", "case2"]
        assert [c.label is not None for c in found.test] == [True]
    assert decathlon.training[0].label == nnunet.training[0].label


def test_unlabelled_decathlon_test_cases_are_paths(data_folder: Path) -> None:
    found = read_dataset(rewrite(data_folder, test=["./imagesTs/other.nii.gz"]))
    assert found.test[0].name == "other" and found.test[0].label is None


def test_channels_are_read_in_order(data_folder: Path) -> None:
    to_nnunet(data_folder)
    rewrite(data_folder, channel_names={"0": "T1", "1": "T2"})
    for path in list((data_folder / "imagesTr").iterdir()):
        image = nib.load(path)
        other = nib.Nifti1Image(2 * np.asarray(image.dataobj), image.affine)
        nib.save(other, path.with_name(path.name.replace("_0000", "_0001")))
    case = read_dataset(data_folder).training[0]
    channels, _, _ = read_case(case, 3)
    assert len(channels) == 2 and np.allclose(channels[1], 2 * channels[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "field 'labels'"),
        ({"labels": {"0": "background", "2": "x"}}, r"values \[0, 2\]; 0 to 1 are needed"),
        ({"labels": {"background": 0, "any": [1, 2]}}, "holds regions"),
        ({"labels": {"zero": "background"}}, "has no number"),
        ({"training": []}, "lists no training case"),
        ({"training": "all"}, "must be a list"),
        ({"training": [{"image": "./imagesTr/case0.nii.gz"}]}, "'case0' has no label"),
        ({"training": [{"image": "../../etc/passwd"}]}, "leaves the data folder"),
        ({"training": [{"image": 5}]}, r"training\[0\]\.image"),
        ({"modality": None}, "field 'modality'"),
        ({"training": None}, "field 'channel_names'"),
        ({"training": None, "channel_names": {"0": "T1"}, "file_ending": ".png"}, "file_ending"),
    ],
)
def test_bad_dataset_json(data_folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GraftError, match=message) as caught:
        read_dataset(rewrite(data_folder, **changes))
    assert str(data_folder / "dataset.json") in str(caught.value)


def test_missing_folder_and_file(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="no such data folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(GraftError, match="needs a dataset"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(GraftError, match="cannot be read as JSON"):
        read_dataset(tmp_path)


def change_label(edit: Callable[[Any], Any], affine: Any = None) -> Callable[[Path], Path]:
    def apply(folder: Path) -> Path:
        path = folder / "labelsTr" / "case0.nii.gz"
        old = nib.load(path)
        grid = old.affine if affine is None else affine
        nib.save(nib.Nifti1Image(edit(np.asarray(old.dataobj)), grid), path)
        return path

    return apply


def remove_image(folder: Path) -> Path:
    path = folder / "imagesTr" / "case0.nii.gz"
    path.unlink()
    return path


BAD_CASES = {
    "missing file": (remove_image, "no such image file"),
    "grids differ": (change_label(lambda a: a[:-1]), "label grid .* differs from the image grid"),
    "affines differ": (
        change_label(lambda a: a, np.diag([2.0, 2.0, 2.5, 1.0])),
        "affine differs .* by up to 0.5 mm",
    ),
    "value out of range": (change_label(lambda a: a * 2), "label values 4 are not among"),
    "fractional value": (change_label(lambda a: a * 0.5), "label values 0.5 are not among"),
    "empty mask": (change_label(lambda a: a * 0), "empty mask"),
    "4D label": (change_label(lambda a: a[..., None].repeat(2, 3)), "4 dimensions"),
}


@pytest.mark.parametrize("fault", BAD_CASES)
def test_bad_cases_name_the_file(data_folder: Path, fault: str) -> None:
    spoil, message = BAD_CASES[fault]
    path = spoil(data_folder)
    case = read_dataset(data_folder).training[0]
    with pytest.raises(GraftError, match=message) as caught:
        read_case(case, 3)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_mask_can_be_allowed(data_folder: Path) -> None:
    change_label(lambda a: a * 0)(data_folder)
    _, label, _ = read_case(read_dataset(data_folder).training[0], 3, allow_empty=True)
    assert label is not None and label.max() == 0


def test_a_case_that_does_not_fit_is_refused(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti, "available_bytes", lambda: 100_000)
    with pytest.raises(GraftError, match="GiB of memory"):
        read_case(read_dataset(data_folder).training[0], 3)


def test_the_data_module_splits_by_hash_and_cuts_patches(data_folder: Path) -> None:
    data = FolderData(str(data_folder), roi=(16, 16, 16), patches_per_epoch=4, batch_size=2)
    again = FolderData(str(data_folder))
    names = {g: [c.name for c in cases] for g, cases in data.groups.items()}
    assert names == {g: [c.name for c in cases] for g, cases in again.groups.items()}
    assert len(names["train"]) == 2 and len(names["validate"]) == 1 and names["test"] == ["other"]
    batches = list(data.train_dataloader())
    assert [tuple(x.shape) for x, _ in batches] == [(2, 1, 16, 16, 16)] * 2
    assert batches[0][1].dtype == torch.uint8
    same = list(data.train_dataloader())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, same, strict=True))


def test_whole_cases_keep_the_files_grid(data_folder: Path) -> None:
    data = FolderData(str(data_folder), spacing=4.0)
    volume = next(iter(data.test_dataloader()))
    assert volume.truth.shape == (36, 32, 34) and tuple(volume.image.shape) == (1, 18, 16, 17)
    assert np.allclose(volume.spacing, 2.0) and volume.label.max() == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: FolderData(p, held_out=3), "at least one must be left"),
        (lambda p: FolderData(p, spacing=float("nan")), "data.spacing"),
        (lambda p: FolderData(p, roi=(4, 4, 4)), "data.roi"),
        (lambda p: FolderData(p, batch_size=9, patches_per_epoch=3), "patches_per_epoch"),
        (lambda p: ImageFiles([]), "names no NIfTI file"),
        (lambda p: ImageFiles([p + "/imagesTr"]).readers("test"), "cannot serve 'test'"),
        (lambda p: SimulatedData(site="z"), "data.site 'z'"),
        (lambda p: SimulatedData(test=0), "at least 1"),
    ],
)
def test_bad_settings_name_the_field(data_folder: Path, make: Any, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        make(str(data_folder))


def test_no_labelled_test_case(data_folder: Path) -> None:
    data = FolderData(str(rewrite(data_folder, test=[])))
    with pytest.raises(GraftError, match="no labelled test case"):
        data.readers("test")
    assert len(data.readers("predict")) == 3
