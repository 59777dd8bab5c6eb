"""Where the shipped weights lie, JSON in, and atomic writing: a reader sees the old file or the new one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError

CHECKPOINTS = Path(__file__).parent / "checkpoints"
PREFIX = ".tmp-"  # of files that are being written
CHECKPOINT = CHECKPOINTS / "mni152-sim-base.safetensors"


def read_json(path: str | Path, need: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises GraftError: the file is missing (`need` ends the message: who needs it, or who writes it), cannot
    be read, or holds something other than an object.
    """
    path = Path(path)
    if not path.is_file():
        raise GraftError(f"{path}: missing; {need}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise GraftError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise GraftError(f"{path}: must hold a JSON object")
    return value


def refuse_existing(path: str | Path) -> None:
    """Raise GraftError for a file or folder that is there already and would be replaced."""
    if Path(path).exists():
        raise GraftError(f"{path}: exists; remove it, or name another --output")


def sweep(folder: Path) -> None:
    """Delete the temporary files of `publish` that a killed program left in `folder`."""
    for leftover in folder.glob(f"{PREFIX}*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def publish(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    The temporary file keeps the target's suffixes, since image writers choose the format by them.
    Nothing is left when the block fails. Raises GraftError when the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=PREFIX, suffix="".join(path.suffixes[-2:])
        )
    except OSError as error:
        raise GraftError(f"{path}: cannot write here: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
