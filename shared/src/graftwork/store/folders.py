"""Publishing a folder atomically, repairing an interrupted swap, and reading files with care.

A folder is written beside its target under a temporary name, synced, and renamed into place. Over an old
folder that takes two renames (old aside, new in); a process killed between them leaves only the
old one, set aside, which the next load or save puts back. While it works, a writer holds a lock on its
temporary folder; the lock dies with the process, so others can tell its leftovers from work in progress.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from graftwork.errors import GraftError

try:
    import fcntl
except ImportError:  # no such locks on this system: leftovers stay until removed by hand
    fcntl = None  # type: ignore[assignment]


def publish(
    folder: str | os.PathLike[str], files: Mapping[str, bytes], *, overwrite: bool = False
) -> Path:
    """Write `files` as one folder, all or nothing. The first file's name marks a folder as ours.

    Raises:
        GraftError: the folder holds anything else, holds an older version and `overwrite` is False, or
            cannot be written (no permission, disk full); what was there is untouched then.
    """
    target = Path(os.path.realpath(os.path.expanduser(folder)))
    marker = next(iter(files))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        repair(target, marker)
        _check_target(target, set(files), overwrite)
        for leftover in _workspaces(target):
            with _lock(leftover) as free:
                if free:
                    shutil.rmtree(leftover, ignore_errors=True)
        with _workspace(target) as new:
            for name, data in files.items():
                _write(new / name, data)
            _sync(new)
            _swap(new, target, marker)
    except OSError as e:
        raise GraftError(
            f"{target}: cannot be written ({e.strerror or e}); what was there before is untouched"
        ) from e
    return target


def repair(folder: str | os.PathLike[str], marker: str) -> None:
    """Finish what a killed `publish` left: put a set-aside folder back, or delete it if replaced.

    Raises:
        GraftError: the set-aside folder is the only one left and cannot be renamed back.
    """
    target = Path(os.path.realpath(os.path.expanduser(folder)))
    old = _aside(target)
    if not os.path.lexists(old):
        return
    for _ in range(500):  # a live writer needs microseconds between its two renames
        if os.path.lexists(target) or not _being_written(target):
            break
        time.sleep(0.01)
    if not os.path.lexists(target):
        if (old / marker).is_file():
            try:
                os.rename(old, target)
            except OSError as e:
                raise GraftError(
                    f"{target}: an interrupted save left the folder as {old.name}, and it cannot be "
                    f"renamed back ({e.strerror}); rename it by hand"
                ) from e
    elif not _being_written(target):
        _discard(old, marker)


def read(folder: Path, name: str, limit: int, *, hub: bool = False) -> bytes:
    """The whole of a regular file inside `folder`.

    Raises:
        GraftError: missing, not a regular file, larger than `limit` bytes, or a link out of the folder.
    """
    with open_inside(folder, name, hub=hub) as f:
        size = os.fstat(f.fileno()).st_size
        if size > limit:
            raise GraftError(f"{folder / name}: {size:,d} bytes, more than the {limit:,d} allowed")
        data = f.read(limit + 1)
    if len(data) > limit:
        raise GraftError(f"{folder / name}: grew past {limit:,d} bytes while it was read")
    return data


@contextlib.contextmanager
def open_inside(folder: Path, name: str, *, hub: bool = False) -> Iterator[BinaryIO]:
    """Open a regular file inside `folder` for reading bytes.

    Args:
        hub: also follow links as a Hugging Face cache lays them, `snapshots/<revision>/<file>` into
            the same cache entry's `blobs`.

    Raises:
        GraftError: missing, not a regular file, unreadable, or a link out of the folder.
    """
    home = os.path.realpath(folder)
    real = os.path.realpath(folder / name)
    blobs = os.path.join(os.path.dirname(os.path.dirname(home)), "blobs")
    allowed = [home, blobs] if hub else [home]
    if os.path.dirname(real) not in allowed:
        raise GraftError(
            f"{folder / name}: a link out of its folder (to {real}); copy the file itself"
        )
    try:
        # not blocking, so that a pipe of this name cannot hang the reader
        fd = os.open(
            real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
        )
    except FileNotFoundError:
        raise GraftError(f"{folder / name}: no such file") from None
    except OSError as e:
        raise GraftError(f"{folder / name}: cannot be opened ({e.strerror})") from e
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise GraftError(f"{folder / name}: not a regular file")
    try:
        with os.fdopen(fd, "rb") as f:
            yield f
    except OSError as e:
        raise GraftError(f"{folder / name}: cannot be read ({e.strerror})") from e


def check_links(folder: Path) -> None:
    """Refuse a folder with symbolic links that lead out of it.

    Raises:
        GraftError: names the link; or the folder is missing or unreadable.
    """
    home = os.path.realpath(folder)
    try:
        entries = list(os.scandir(folder))
    except OSError as e:
        raise GraftError(f"{folder}: not a folder that can be read ({e.strerror})") from e
    for entry in entries:
        real = os.path.realpath(entry.path)
        if entry.is_symlink() and os.path.commonpath([home, real]) != home:
            raise GraftError(
                f"{entry.path}: a link out of its folder (to {real}); copy the file itself"
            )


def _check_target(target: Path, own: set[str], overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise GraftError(f"{target}: exists and is no folder; choose another name")
    there = set(os.listdir(target))
    foreign = sorted(there - own)
    if foreign:
        raise GraftError(
            f"{target}: holds files that are not ours ({', '.join(foreign[:3])}); choose another folder"
        )
    if there and not overwrite:
        raise GraftError(f"{target}: already holds an adapter; pass overwrite=True to replace it")


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.graftwork-old")


def _workspaces(target: Path) -> list[Path]:
    prefix = f".{target.name}.graftwork-new-"
    try:
        return [target.parent / n for n in os.listdir(target.parent) if n.startswith(prefix)]
    except OSError:
        return []


@contextlib.contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    new = target.with_name(f".{target.name}.graftwork-new-{secrets.token_hex(4)}")
    os.mkdir(new)
    try:
        with _lock(new):
            yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock if it is free; yields whether it was."""
    if fcntl is None:
        yield False
        return
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _being_written(target: Path) -> bool:
    for new in _workspaces(target):
        with _lock(new) as free:
            if not free and new.exists():
                return True
    return False


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _sync(folder: Path) -> None:
    """Make the folder's entries durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _swap(new: Path, target: Path, marker: str) -> None:
    """Put `new` in the place of `target`; on an error everything is back where it was."""
    old = _aside(target)
    had, placed = target.exists(), False
    try:
        if had:  # no rename replaces a folder that holds files
            os.rename(target, old)
        os.rename(new, target)
        placed = True
        _sync(target.parent)
    except BaseException:
        if placed:
            os.rename(target, new)
        if had and not target.exists():
            os.rename(old, target)
        raise
    if had:
        _discard(old, marker)


def _discard(old: Path, marker: str) -> None:
    # the marker goes first: what is left of an interrupted deletion is never taken for an adapter
    with contextlib.suppress(OSError):
        os.unlink(old / marker)
    shutil.rmtree(old, ignore_errors=True)
