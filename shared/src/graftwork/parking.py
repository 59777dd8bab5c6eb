"""Where a tensor's values wait while something else is in its place."""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from graftwork.errors import GraftError


class OnDisk:
    """A tensor's values in a temporary file that goes when the last reference to it goes.

    Copies of a model share the file (nobody writes to it); pickling carries the values along.

    Raises:
        GraftError: the file cannot be written.
    """

    def __init__(self, tensor: Tensor) -> None:
        try:
            handle, self.path = tempfile.mkstemp(prefix="graftwork-", suffix=".safetensors")
            os.close(handle)
            weakref.finalize(self, _unlink, self.path)
            save_file({"t": tensor.detach().contiguous()}, self.path)
        except (OSError, SafetensorError) as error:
            raise GraftError(
                f"keep='disk': cannot write to {tempfile.gettempdir()}: {error}; free some space "
                "there, point TMPDIR elsewhere, or use keep='cpu'"
            ) from None

    def load(self) -> Tensor:
        """The values, on the CPU."""
        return load_file(self.path)["t"]

    def __deepcopy__(self, memo: Any) -> OnDisk:
        return self

    def __reduce__(self) -> Any:
        return OnDisk, (self.load(),)


class Parked:
    """A tensor object that stays itself while its values wait elsewhere.

    Args:
        tensor: its values leave its device, the object does not change.
        keep: "device" leaves them where they are, "cpu" and "disk" move them.
    """

    def __init__(self, tensor: Tensor, keep: str) -> None:
        self.tensor = tensor
        self.dtype, self.device = tensor.dtype, tensor.device
        self.stride = tensor.stride()
        self.file: OnDisk | None = None
        if keep == "cpu":
            tensor.data = tensor.data.cpu()
        elif keep == "disk":
            self.file = OnDisk(tensor)
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)

    def fetch(self, like: Tensor | None = None) -> Tensor:
        """The same object with its values back.

        Args:
            like: a tensor whose device and dtype it takes; `None` keeps its own.
        """
        values = self.tensor.data
        if self.file is not None:
            values = self.file.load()
            if values.stride() != self.stride:
                values = torch.empty_strided(values.shape, self.stride, dtype=self.dtype).copy_(
                    values
                )
        device = self.device if like is None else like.device
        dtype = self.dtype if like is None else like.dtype
        if self.file is not None:
            # a mapped file's values lie at any address, and products may round by address
            self.tensor.data = values.to(device, dtype, copy=True)
        elif values.device != device or values.dtype != dtype:
            self.tensor.data = values.to(device, dtype)
        self.file = None
        return self.tensor


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
