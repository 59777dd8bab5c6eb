"""Small folders in the layout of the prepared sets, and the folder of the real ones if there is one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

ORGANS = (
    "Brainstem",
    "SpinalCord",
    "RightParotid",
    "LeftParotid",
    "Esophagus",
    "Larynx",
    "Mandible",
)


def real(name: str) -> Path:
    """The prepared set `name`; skips the test, with the reason, where there is none."""
    root = os.environ.get("GRAFTWORK_DATA")
    if not root:
        pytest.skip(
            "GRAFTWORK_DATA is unset: it names the folder that holds the prepared data sets"
        )
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"GRAFTWORK_DATA has no folder {name}")
    return folder


def save(path: Path, array: Any, affine: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def openkbp_folder(folder: Path, source: int = 6, shifted: int = 3) -> Path:
    """Patients with a bright body in air and seven blobs; patient i lacks organ i modulo 7 + 1."""
    rng = np.random.default_rng(0)
    partial: dict[str, Any] = {}
    for i in range(source + shifted):
        name, spacing = f"pt_{i + 1}", (3.9, 3.9, 2.5) if i < source else (4.6, 4.6, 3.0)
        ct = np.full((24, 24, 28), -1000, np.int16)
        ct[4:20, 5:19, 2:26] = rng.integers(-50, 60, (16, 14, 24))
        label = np.zeros(ct.shape, np.uint8)
        missing = i % 7 + 1
        for value in range(1, 8):
            if value != missing:
                x, z = 6 + 6 * (value % 2), 1 + 3 * value
                label[x : x + 4, 9:14, z : z + 3] = value
                ct[label == value] += np.int16(20 * value)
        affine = np.diag([*spacing, 1.0])
        save(folder / "images" / f"{name}.nii.gz", ct, affine)
        save(folder / "labels" / f"{name}.nii.gz", label, affine)
        partial[name] = {
            "annotated": [o for v, o in enumerate(ORGANS, 1) if v != missing],
            "spacing_mm": list(spacing),
        }
    dataset = {
        "labels": {"background": 0, **{o: v for v, o in enumerate(ORGANS, 1)}},
        "modality": {"0": "CT"},
        "training": [
            {"image": f"./images/{n}.nii.gz", "label": f"./labels/{n}.nii.gz"} for n in partial
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "partial.json").write_text(json.dumps(partial))
    return folder


def synthseg_folder(folder: Path, subjects: int = 5) -> Path:
    """Label maps, LIA as upstream's, with a cortex, a ventricle and both hippocampi."""
    affine = np.array([[-1.0, 0, 0, 30], [0, 0, 1, -40], [0, -1, 0, 30], [0, 0, 0, 1]])
    for i in range(subjects):
        label = np.full((80, 60, 70), 3, np.int16)
        label[10:70, 20:50, 10:60] = 2
        label[50:60, 26:36, 18 + i : 52] = 17
        label[20:30, 26:36, 18 + i : 52] = 53
        label[36:44, 24:40, 20:50] = 4
        save(folder / "labels" / f"training_seg_{i + 1:02d}.nii.gz", label, affine)
    return folder
