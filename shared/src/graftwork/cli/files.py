"""Files that verbs read and write: state dicts, whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.errors import GraftError

if TYPE_CHECKING:
    from torch import Tensor


def check_target(out: str, force: bool, inputs: Sequence[str] = ()) -> None:
    """Refuse an output file that cannot or must not be written, before any work is done.

    Raises:
        GraftError: wrong suffix, missing folder, a file that is there without `force`, or an input.
    """
    path = Path(out)
    if path.suffix != ".safetensors":
        raise GraftError(f"--out {out}: must end in .safetensors")
    if not path.parent.is_dir():
        raise GraftError(f"--out {out}: there is no folder {path.parent}")
    if path.is_dir():
        raise GraftError(f"--out {out}: is a folder")
    if any(path.exists() and os.path.exists(i) and os.path.samefile(path, i) for i in inputs):
        raise GraftError(f"--out {out}: is an input too; write to another file")
    if path.exists() and not force:
        raise GraftError(f"--out {out}: exists already; choose another name or add --force")


def read_state(file: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A safetensors file's tensors and its metadata.

    Raises:
        GraftError: missing, unreadable, or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(file)
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise GraftError(
            f"{file}: pickled checkpoints are not opened; save it once with "
            "safetensors.torch.save_file(model.state_dict(), FILE)"
        )
    try:
        with safe_open(path, framework="pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}, f.metadata() or {}  # noqa: SIM118
    except OSError as e:
        raise GraftError(f"{file}: {e.strerror or 'no such file, or it cannot be read'}") from None
    except SafetensorError as e:
        raise GraftError(f"{file}: no sound safetensors file ({e})") from None


def write_state(file: str, state: dict[str, Tensor], metadata: dict[str, str]) -> int:
    """Write a state dict, all or nothing; returns the number of bytes.

    Raises:
        GraftError: the folder cannot be written or the disk is full; an old file is untouched then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(os.path.realpath(file))
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        save_file(state, new, metadata)
        with open(new, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(new, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return path.stat().st_size
    except (OSError, SafetensorError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise GraftError(f"{file}: cannot be written ({reason}); nothing was changed") from None
    finally:
        new.unlink(missing_ok=True)
