"""Checkpoints that torch.save wrote, read as data: tensors, plain values and numpy numbers, nothing else."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar

from graftwork.errors import GraftError

# A numpy number is pickled as scalar(dtype, bytes). numpy 1 kept that function in numpy.core.
_NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    scalar,
    (scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in ("?", "i4", "i8", "f2", "f4", "f8")),
]


def safe_load(path: str | Path) -> Any:
    """What is in a checkpoint, on the CPU.

    A pickle may name any function of any module to be called while it is read. Here the names are listed
    first, without calling anything, and the file is refused if one is neither torch's own for tensors nor
    numpy's for numbers.

    Raises:
        GraftError: missing, not written by torch.save (torch 1.6 or newer), TorchScript, or it names
            something else; the message names the file and the name.
    """
    path = Path(path)
    if not path.is_file():
        raise GraftError(f"{path}: no such weights file")
    if not zipfile.is_zipfile(path):
        raise GraftError(
            f"{path}: not a checkpoint of torch.save (torch 1.6 or newer); load it where it was made and "
            "save its state_dict as safetensors"
        )
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("constants.pkl") for name in archive.namelist()):
            raise GraftError(
                f"{path}: a TorchScript program, which is code; give the weights (state_dict) instead"
            )
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
            if foreign:
                raise GraftError(
                    f"{path}: refused, nothing in it was run: its pickle names {', '.join(sorted(foreign))}; "
                    "only tensors, plain values and numpy numbers are read"
                )
            return torch.load(path, map_location="cpu", weights_only=True)
    except GraftError:
        raise
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GraftError(f"{path}: a damaged checkpoint: {first}") from error
