"""Bit equality of nested states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def differences(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two nested values differ in type, structure, or a single bit."""
    if type(a) is not type(b):
        return [f"{place}: {type(a).__name__} against {type(b).__name__}"]
    if isinstance(a, Tensor):
        equal = a.dtype == b.dtype and a.shape == b.shape and _bits(a) == _bits(b)
        return [] if equal else [place]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{place}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [d for k in a for d in differences(a[k], b[k], f"{place}.{k}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{place}: {len(a)} against {len(b)} items"]
        return [
            d
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for d in differences(x, y, f"{place}.{i}")
        ]
    return [] if a == b or (a != a and b != b) else [f"{place}: {a!r} against {b!r}"]


def _bits(t: Tensor) -> bytes:
    return t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
