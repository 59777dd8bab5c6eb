"""Files that are either there in full or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from pathlib import Path

from graftwork.errors import GraftError


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write `content` to `path` through a temporary file beside it, so that nobody reads half.

    Raises GraftError, naming the path and the reason, when the place cannot be written; whatever
    was there before is then still there.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_folder(path.parent)
    return path


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError when it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unwritable(path: Path, error: OSError) -> GraftError:
    """The one message for a place that cannot be written."""
    reason = (error.strerror or type(error).__name__).lower()
    return GraftError(f"{path}: cannot be written ({reason}). Choose a folder you may write to.")


def _sync_folder(folder: Path) -> None:
    # The rename itself is only durable once the folder's entry is on disk. Some file systems
    # cannot sync a folder; the file's content is safe on those all the same.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
