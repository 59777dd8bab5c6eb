"""Folders of NIfTI files with a `dataset.json`: the Medical Segmentation Decathlon's and nnU-Net's.

    MSD        "labels": {"0": "background", "1": "GM"}, "modality": {"0": "T1"},
               "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
               "test": ["./imagesTs/b.nii.gz"]
    nnU-Net 2  "labels": {"background": 0, "GM": 1}, "channel_names": {"0": "T1"}, "file_ending": ".nii.gz";
               imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, imagesTs/CASE_0000.nii.gz

An MSD entry of "test" may also be {"image", "label"}; nnU-Net test labels are read from labelsTs/. In the
MSD layout an image may be a DICOM series (folder or zip) and a label a DICOM-SEG or RTSTRUCT. Labels are 0
(background) to n, without holes. Every check names file, field and reason in one GraftError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.errors import GraftError

from ..files import read_json
from .nifti import Array, Header, Spacing, open_image, read_voxels, refuse_too_large
from .scans import open_scan, read_label


@dataclass(frozen=True)
class CaseFiles:
    """One case: its name, one image file per channel, and its label file if it has one."""

    name: str
    images: tuple[Path, ...]
    label: Path | None


@dataclass(frozen=True)
class DatasetFolder:
    """What `dataset.json` says: class names by value, channel names, and the cases."""

    path: Path
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    training: tuple[CaseFiles, ...]
    test: tuple[CaseFiles, ...]


def read_dataset(folder: str | Path) -> DatasetFolder:
    """Read `dataset.json` in either layout; the image files are not opened yet.

    Raises GraftError: no such folder or file, not JSON, a field that is missing or of the wrong kind, a
    path that leaves the folder, or no training case.
    """
    folder = Path(folder)
    file = folder / "dataset.json"
    if not folder.is_dir():
        raise GraftError(f"{folder}: no such data folder")
    meta = read_json(file, "the folder needs a dataset.json (MSD or nnU-Net layout)")
    classes = _classes(meta, file)
    if "training" in meta:
        channels = _names(meta, "modality", file)
        training = _msd_cases(meta, "training", folder, file)
        test = _msd_cases(meta, "test", folder, file)
    else:
        channels = _names(meta, "channel_names", file)
        ending = meta.get("file_ending")
        if not isinstance(ending, str) or not ending.startswith(".nii"):
            raise GraftError(
                f"{file}: field 'file_ending' is {ending!r}; only .nii and .nii.gz work"
            )
        training = _nnunet_cases(folder, "Tr", len(channels), ending)
        test = _nnunet_cases(folder, "Ts", len(channels), ending)
    if not training:
        raise GraftError(f"{file}: lists no training case")
    unlabelled = [case.name for case in training if case.label is None]
    if unlabelled:
        raise GraftError(f"{file}: training case {unlabelled[0]!r} has no label")
    return DatasetFolder(folder, classes, channels, training, test)


def _classes(meta: dict[str, Any], file: Path) -> tuple[str, ...]:
    labels = meta.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise GraftError(f"{file}: field 'labels' must map values to class names")
    if any(isinstance(v, list) for v in labels.values()):
        raise GraftError(f"{file}: field 'labels' holds regions (lists); only single values work")
    by_value: dict[int, str] = {}
    for key, value in labels.items():
        # MSD writes {"1": "GM"}, nnU-Net {"GM": 1}.
        number, name = (value, key) if isinstance(value, int) else (key, value)
        try:
            by_value[int(number)] = str(name)
        except (TypeError, ValueError):
            raise GraftError(
                f"{file}: field 'labels' entry {key!r}: {value!r} has no number"
            ) from None
    if sorted(by_value) != list(range(len(labels))):
        raise GraftError(
            f"{file}: field 'labels' has values {sorted(by_value)}; 0 to {len(labels) - 1} are needed"
        )
    return tuple(by_value[k] for k in range(len(by_value)))


def _names(meta: dict[str, Any], field: str, file: Path) -> tuple[str, ...]:
    names = meta.get(field)
    if not isinstance(names, dict) or not names:
        raise GraftError(f"{file}: field {field!r} must name the channels, such as {{'0': 'T1'}}")
    return tuple(str(names[key]) for key in sorted(names, key=str))


def _inside(folder: Path, value: Any, file: Path, field: str) -> Path:
    if not isinstance(value, str) or not value:
        raise GraftError(f"{file}: field {field!r} holds {value!r} where a file path is needed")
    path = folder / value
    if not path.resolve().is_relative_to(folder.resolve()):
        raise GraftError(f"{file}: field {field!r}: {value!r} leaves the data folder")
    return path


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".zip")


def _msd_cases(meta: dict[str, Any], field: str, folder: Path, file: Path) -> tuple[CaseFiles, ...]:
    entries = meta.get(field, [])
    if not isinstance(entries, list):
        raise GraftError(f"{file}: field {field!r} must be a list")
    cases = []
    for i, entry in enumerate(entries):
        where = f"{field}[{i}]"
        item = entry if isinstance(entry, dict) else {"image": entry}
        image = _inside(folder, item.get("image"), file, f"{where}.image")
        label = item.get("label")
        cases.append(
            CaseFiles(
                _stem(image),
                (image,),
                _inside(folder, label, file, f"{where}.label") if label is not None else None,
            )
        )
    return tuple(cases)


def _nnunet_cases(folder: Path, which: str, channels: int, ending: str) -> tuple[CaseFiles, ...]:
    images, labels = folder / f"images{which}", folder / f"labels{which}"
    # The labels say which training cases there are, so that a missing image is noticed.
    place, tail = (labels, ending) if which == "Tr" else (images, f"_0000{ending}")
    if which == "Tr" and not labels.is_dir():
        raise GraftError(f"{labels}: missing; nnU-Net keeps the training labels there")
    files = place.iterdir() if place.is_dir() else ()
    found = (p.name for p in files if p.name.endswith(tail) and not p.name.startswith("."))
    names = sorted(name.removesuffix(tail) for name in found)
    cases = []
    for name in names:
        label = labels / f"{name}{ending}"
        channel_files = tuple(images / f"{name}_{c:04d}{ending}" for c in range(channels))
        cases.append(CaseFiles(name, channel_files, label if label.is_file() else None))
    return tuple(cases)


def read_case(
    case: CaseFiles,
    classes: int,
    *,
    spacing: Spacing = None,
    allow_empty: bool = False,
    names: Sequence[str] = (),
    series: str | None = None,
) -> tuple[list[Array], Array | None, Header]:
    """Read and check one case: voxels of each channel, labels (uint8) or None, the first image's header.

    All in file order. Images may be DICOM series (`series` chooses one) and labels DICOM-SEG or RTSTRUCT,
    whose structures are found by the class `names`. Raises GraftError: every fault that `open_scan` and
    `read_voxels` name, channels or label on another grid, label values that are not classes, a label
    without foreground (unless `allow_empty`), and a case too large for the free memory.
    """
    first = open_scan(case.images[0], series)
    refuse_too_large(first, case.images[0], spacing, len(case.images))
    channels = [read_voxels(first, case.images[0])]
    for path in case.images[1:]:
        other = open_scan(path)
        _same_grid(first, case.images[0], other, path, "channel")
        channels.append(read_voxels(other, path))
    if case.label is None:
        return channels, None, first
    label = read_label(case.label, first, names, allow_empty)
    if label is None:
        label_image = open_image(case.label)
        _same_grid(first, case.images[0], label_image, case.label, "label")
        label = read_voxels(label_image, case.label)
    values = np.unique(label)
    wrong = [v for v in values.tolist() if v != int(v) or not 0 <= v < classes]
    if wrong:
        shown = ", ".join(f"{v:g}" for v in wrong[:5])
        raise GraftError(
            f"{case.label}: label values {shown} are not among the classes 0 to {classes - 1} of "
            "dataset.json field 'labels'; correct the one or the other"
        )
    if values.max() == 0 and not allow_empty:
        raise GraftError(
            f"{case.label}: empty mask, no voxel has a class; label it or leave it out"
        )
    return channels, label.astype(np.uint8), first


def _same_grid(a: Header, a_path: Path, b: Header, b_path: Path, what: str) -> None:
    if a.shape != b.shape:
        raise GraftError(
            f"{b_path}: {what} grid {b.shape} differs from the image grid {a.shape} of {a_path}; "
            "resample it to the image's grid"
        )
    gap = float(np.abs(a.affine - b.affine).max())
    if gap > 1e-2:
        raise GraftError(
            f"{b_path}: {what} affine differs from that of {a_path} by up to {gap:.3g} mm; "
            "resample it to the image's grid"
        )
