"""What several of the medseg tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import nn

FIT = ["--trainer.max_epochs=1", "--data.patches_per_epoch=2", "--sites=null", "--also_train=[]"]
# Options to predict image files in small windows.
SIZE = (20, 18, 16)
GRID = np.diag([2.0, 2.0, 2.0, 1.0])
FILES = ["--data=graftwork_medseg.data.ImageFiles", "--trainer.accelerator=cpu", "--quiet"]
FILES += ["--model.roi=[16,16,16]"]


def noise(shape: tuple[int, ...] = (9, 10, 11)) -> Any:
    """Float32 voxels around 50."""
    return np.random.default_rng(0).normal(50, 200, shape).astype(np.float32)


def same(model: nn.Module, other: nn.Module, but: str = "nothing") -> bool:
    """Whether two networks hold the same tensors, but for names that begin with `but`."""
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        torch.equal(t, b[k]) for k, t in a.items() if not k.startswith(but)
    )


class Bomb:
    """Pickles to a call that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def options(folder: Path, run: str, *more: str) -> list[str]:
    data = ["--data=graftwork_medseg.data.FolderData", f"--data.path={folder}", "--quiet"]
    return [*data, f"--run_dir={run}", "--trainer.accelerator=cpu", *more]


def nifti(path: Path, shape: tuple[int, ...] = SIZE, change: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image = nib.Nifti1Image(voxels, GRID)
    if change:
        change(image, voxels)
    nib.save(image, path)
    return path


def no_codes(image: Any, _: Any) -> None:
    image.set_sform(None, 0)
    image.set_qform(None, 0)


def one_nan(_: Any, voxels: Any) -> None:
    voxels[3, 4, 5] = np.nan
