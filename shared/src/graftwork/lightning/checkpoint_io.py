"""Checkpoint files without pickle: one safetensors file whose header carries the rest as JSON.

A file appears under its name only when it is complete and on disk, so a kill at any moment leaves the old
file or the new one. Reading it runs no code.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.lightning.graft_state import pack, unpack
from graftwork.lightning.plain import decode, encode

FORMAT = "graftwork-checkpoint-1"


class GraftCheckpointIO(CheckpointIO):
    """Lightning's plugin for reading and writing such files; `ExactResume` puts it in place.

    Args:
        module: the module that trains. Its base is taken out of every checkpoint, and its grafts put in,
            whoever asks for the checkpoint and however (`save_weights_only` included).
    """

    def __init__(self, module: nn.Module | None = None) -> None:
        self.module = module

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint atomically.

        Raises:
            GraftError: a value that only pickle could store, or a folder that cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        plain = encode(
            checkpoint if self.module is None else pack(checkpoint, self.module), tensors
        )
        # NaN and infinity are spelled out by `encode`, so strict JSON is enough
        meta = {"format": FORMAT, "plain": json.dumps(plain, allow_nan=False)}
        data = to_bytes({k: _own_copy(t) for k, t in tensors.items()}, metadata=meta)
        write_atomically(Path(path), data)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint and put its grafts on the module.

        `weights_only` changes nothing, because no file is ever unpickled.

        Raises:
            GraftError: a bad file, or one that does not fit the module.
        """
        checkpoint = load_checkpoint(path)
        # here and not in a callback: Lightning calls none for a file that holds weights only
        if self.module is not None:
            unpack(checkpoint, self.module)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint if it is there."""
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file into the dictionary it was written from, tensors on the CPU.

    Raises:
        GraftError: missing, truncated or foreign file.
    """
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            meta = file.metadata() or {}
            if meta.get("format") != FORMAT:
                raise GraftError(
                    f"checkpoint {path}: not written by graftwork (format {meta.get('format')!r})"
                )
            tensors = {key: file.get_tensor(key) for key in list(file.keys())}
        out = decode(json.loads(meta["plain"]), tensors)
    except OSError as error:
        raise GraftError(f"checkpoint {path}: {error.strerror or error}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, GraftError):
            raise
        raise GraftError(f"checkpoint {path}: damaged or not a checkpoint: {error}") from None
    if not isinstance(out, dict):
        raise GraftError(f"checkpoint {path}: damaged: its content is a {type(out).__name__}")
    return out


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` under `path`: temporary file beside it, fsync, rename, fsync of the folder.

    Raises:
        GraftError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not tempfile's, which would leave the file readable by its owner alone
        temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}.part"
        with temporary.open("xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise GraftError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete temporary files that a killed writer left in `folder`."""
    for leftover in folder.glob(".*.part"):
        leftover.unlink(missing_ok=True)


def _own_copy(tensor: Tensor) -> Tensor:
    # safetensors refuses tensors that share storage; a checkpoint's are small
    return (
        tensor.detach().to("cpu", copy=True).contiguous()
        if tensor.layout is torch.strided
        else tensor
    )
