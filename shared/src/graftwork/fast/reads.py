"""What a branch's backward pass takes from dy: s dy B and s dy^T p. Two products, or one pass over dy.

The one pass needs Triton and a GPU and pays where dy is large; it adds in no fixed order, so where torch is asked for
deterministic algorithms the two products do it.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from graftwork.algebra.products import mm

#: bytes of dy from which on reading it once is worth a launch that costs more
LARGE = 2**25
#: whether the one pass may be taken where it can. Off: what it saves (docs/performance.md, "one read of dy") is
#: worth less than a training that gives the same bits each time
allowed = False


def both(
    dy: Tensor,
    b: Tensor,
    p: Tensor,
    scale: float,
    need_b: bool,
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(s dy B, s dy^T p), the first in dy's dtype.

    Args:
        dy: (rows, out).
        b: (out, r).
        p: (rows, r), any row stride.
        scale: s.
        need_b: whether the second is wanted.
        dtype: of the second, dy's or wider.
        out: where the first goes, (rows, r) of any row stride; fresh memory where `None`.
    """
    if need_b and dy.is_cuda and once_pays(dy, b):
        dp, d_b = _one_read()(dy, b.contiguous(), p, scale)
        return (dp.to(dy.dtype) if out is None else out.copy_(dp)), d_b.to(dtype)
    if out is None:
        dp = dy.mm(b) if scale == 1.0 else p.new_empty(p.shape).addmm_(dy, b, beta=0, alpha=scale)
    else:
        dp = out.addmm_(dy, b, beta=0, alpha=scale)
    db = None
    if need_b:
        db = mm(dy.t(), p, dtype)
        if scale != 1.0:
            db.mul_(scale)
    return dp, db


def once_pays(dy: Tensor, b: Tensor) -> bool:
    """Whether one pass over `dy` (rows, out) is possible and cheaper than two products with b (out, r)."""
    return (
        allowed
        and dy.dtype in (torch.bfloat16, torch.float16)
        and dy.numel() * 2 >= LARGE
        and b.shape[1] in (16, 32, 64)
        and dy.stride(1) == 1
        and not torch.are_deterministic_algorithms_enabled()
        and has_triton()
    )


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _one_read() -> Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    from graftwork.fast.kernels import one_read

    return one_read
