"""Products of matrices in half precision whose result is wider."""

from __future__ import annotations

import torch
from torch import Tensor

#: whether a product of half precisions can be left in float32
_WIDE = "dtype" in torch.ops.aten.mm.overloads() and torch.version.hip is None


def mm(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a b in `dtype`, which is the operands' or wider; summed in it and not rounded before, where the device can."""
    if a.dtype is dtype:
        return a.mm(b)
    if _can_widen(a, dtype):
        return torch.mm(a, b, out_dtype=dtype)
    return a.mm(b).to(dtype)


def exact_mm(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """The same, and never rounded before: where the device cannot, the operands are copied in `dtype`."""
    if a.dtype is dtype or _can_widen(a, dtype):
        return mm(a, b, dtype)
    return a.to(dtype).mm(b.to(dtype))


def bmm(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """`mm` for batches of matrices."""
    if a.dtype is dtype:
        return a.bmm(b)
    if _can_widen(a, dtype):
        return torch.bmm(a, b, out_dtype=dtype)
    return a.bmm(b).to(dtype)


def _can_widen(a: Tensor, dtype: torch.dtype) -> bool:
    return _WIDE and a.is_cuda and dtype is torch.float32


def changed_norm(norm: Tensor, more: Tensor) -> Tensor:
    """sqrt(norm^2 + more), not below 0, and `norm` itself where nothing is added."""
    root = (norm * norm + more).clamp_min_(0).sqrt_()
    # torch's root of a square in float64 may be off by a bit
    return torch.where(more == 0, norm, root) if norm.dtype == torch.float64 else root
