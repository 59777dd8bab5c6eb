"""Decompositions by the hash of what was decomposed: in memory, and in a folder if one is named.

A sweep that grafts one base many times decomposes each weight once. `GRAFTWORK_SVD_CACHE` names a folder that
keeps them between processes. Both are bounded: what was used longest ago goes first. A file is written under
another name and renamed, so a killed process leaves none that is half; a damaged one counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections import OrderedDict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

VARIABLE = "GRAFTWORK_SVD_CACHE"
MEMORY = 256 * 2**20
DISK = 4 * 2**30
_VERSION = 2  # of what a key stands for

Entry = dict[str, Tensor]


class Store:
    """Tensors by key.

    Args:
        folder: kept between processes; `None` keeps nothing.
        memory, disk: bounds in bytes.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, memory: int = MEMORY, disk: int = DISK
    ) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        self.memory, self.disk = memory, disk
        self._held: OrderedDict[str, Entry] = OrderedDict()

    def get(self, key: str) -> Entry | None:
        """The tensors of a key, on the CPU, or `None`."""
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
            return found
        found = self._read(key)
        if found is not None:
            self._hold(key, found)
        return found

    def put(self, key: str, entry: Entry) -> None:
        """Keep tensors under a key. A folder that cannot be written is no fault: nothing is kept there."""
        entry = {name: t.detach().cpu().contiguous() for name, t in entry.items()}
        self._hold(key, entry)
        if self.folder is not None:
            with contextlib.suppress(OSError, SafetensorError):
                self._write(key, entry)

    def forget(self) -> None:
        """Drop what is held in memory; a folder keeps its files."""
        self._held.clear()

    def _hold(self, key: str, entry: Entry) -> None:
        self._held[key] = entry
        self._held.move_to_end(key)
        while self._held and sum(map(_bytes, self._held.values())) > self.memory:
            self._held.popitem(last=False)

    def _read(self, key: str) -> Entry | None:
        if self.folder is None:
            return None
        path = self.folder / f"{key}.safetensors"
        try:
            found = load_file(path)
            os.utime(path)
        except (OSError, SafetensorError):
            return None
        good = set(found) == {"u", "s", "v", "error"}
        return found if good and all(bool(t.isfinite().all()) for t in found.values()) else None

    def _write(self, key: str, entry: Entry) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        if _bytes(entry) > self.disk:
            return
        handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=self.folder)
        os.close(handle)
        try:
            save_file(entry, name)
            os.replace(name, self.folder / f"{key}.safetensors")
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name)
        self._trim()

    def _trim(self) -> None:
        assert self.folder is not None
        files = sorted(
            (p.stat() for p in self.folder.glob("*.safetensors")), key=lambda s: s.st_mtime_ns
        )
        excess = sum(s.st_size for s in files) - self.disk
        names = {p.stat().st_ino: p for p in self.folder.glob("*.safetensors")}
        for stat in files:
            if excess <= 0:
                return
            names[stat.st_ino].unlink(missing_ok=True)
            excess -= stat.st_size


_stores: dict[str, Store] = {}


def store() -> Store:
    """The cache of this process, with the folder that the environment names now."""
    folder = os.environ.get(VARIABLE, "")
    if folder not in _stores:
        _stores[folder] = Store(folder or None)
    return _stores[folder]


def key_of(w: Tensor, ask: str) -> str:
    """SHA-256 of the values, their dtype and shape, the kind of device, and what is asked of them."""
    kind = w.device.type  # another device's library may return other vectors of a repeated value
    out = hashlib.sha256(f"{_VERSION} {w.dtype} {tuple(w.shape)} {kind} {ask} ".encode())
    out.update(w.detach().cpu().contiguous().numpy().data)
    return out.hexdigest()


def _bytes(entry: Entry) -> int:
    return sum(t.numel() * t.element_size() for t in entry.values())
