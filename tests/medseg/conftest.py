"""Small NIfTI folders that the medseg tests read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write_nifti(path: Path, array: Any, affine: Any = AFFINE) -> Path:
    """Save an array as NIfTI; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def ball(shape: tuple[int, int, int] = (36, 32, 34)) -> tuple[Any, Any]:
    """An image with a bright ball around a brighter one, and its labels 0, 1, 2."""
    grid = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij"))
    radius = np.linalg.norm(grid, axis=0)
    label = (radius < 12).astype(np.uint8) + (radius < 6)
    noise = np.random.default_rng(0).normal(0, 0.05, shape)
    return (label + noise).astype(np.float32), label


def msd_folder(folder: Path, cases: int = 3, **meta: Any) -> Path:
    """A folder in the Decathlon's layout with `cases` training cases and one labelled test case."""
    image, label = ball()
    names = [f"case{i}" for i in range(cases)]
    for which, members in (("Tr", names), ("Ts", ["other"])):
        for name in members:
            write_nifti(folder / f"images{which}" / f"{name}.nii.gz", image)
            write_nifti(folder / f"labels{which}" / f"{name}.nii.gz", label)

    def entry(which: str, name: str) -> dict[str, str]:
        return {
            "image": f"./images{which}/{name}.nii.gz",
            "label": f"./labels{which}/{name}.nii.gz",
        }

    content = {
        "modality": {"0": "T1"},
        "labels": {"0": "background", "1": "shell", "2": "core"},
        "training": [entry("Tr", name) for name in names],
        "test": [entry("Ts", "other")],
        **meta,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    return msd_folder(tmp_path / "data")


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    return lambda **meta: msd_folder(tmp_path / "data", **meta)
