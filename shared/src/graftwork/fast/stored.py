"""A low-rank branch beside a layer whose own forward runs as it is, because its weight is stored in a form of its own.

    y = layer(x) + s (x A^T) B^T

    dp = s dy B,   dB = s dy^T (x A^T),   dA = dp^T x,   dx = dp A + what the layer's own backward pass gives

Plain autograd casts A and B at each layer, makes the branch's output, and reads it again for the sum. Here the casts
are one operation a pass (`twins`), the sum is the epilogue of the branch's second product, and x and x A^T are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graftwork.algebra.products import mm
from graftwork.fast.reads import both
from graftwork.fast.twins import Twin


class Added:
    """A branch whose layer is not looked into.

    Args:
        twin: A (r, in) and B (out, r), with their copies in the input's dtype.
        scale: s.
    """

    def __init__(self, twin: Twin, scale: float) -> None:
        self.twin, self.scale = twin, scale


def added(x: Tensor, y: Tensor, c: Added) -> Tensor:
    """The layer's output `y` (..., out) for x (..., in) with the branch; the twin is ready."""
    fa, fb = c.twin.sources
    if y.dtype is not x.dtype:
        change = c.scale * (x @ fa.to(x.dtype).t()) @ fb.to(x.dtype).t()
        return (y + change).to(y.dtype)
    out: Tensor = _apply(x, y, c, fa, fb)
    return out


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, c: Added, fa: Tensor, fb: Tensor) -> Tensor:
        twin = c.twin
        a_t, b_t = twin.turned
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        p = rows.mm(twin.copies[0].t() if a_t is None else a_t)
        out = torch.empty_like(y, memory_format=torch.contiguous_format)
        flat, old = (t if t.dim() == 2 else t.reshape(-1, t.shape[-1]) for t in (out, y))
        up = twin.copies[1].t() if b_t is None else b_t
        torch.addmm(old, p, up, alpha=c.scale, out=flat)
        ctx.branch, ctx.copies = c, twin.copies
        ctx.save_for_backward(x, p, fa, fb)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, p, fa, fb = ctx.saved_tensors
        c: Added = ctx.branch
        if c.twin.pool is not None:
            c.twin.pool.due = True
        rows, dy = (t if t.dim() == 2 else t.reshape(-1, t.shape[-1]) for t in (x, g))
        if torch.is_grad_enabled():  # somebody differentiates twice
            a, b = fa.to(dy.dtype), fb.to(dy.dtype)
            dp = c.scale * (dy @ b)
            db = c.scale * (dy.t() @ (rows @ a.t()))
            return (dp @ a).view(x.shape), g, None, (dp.t() @ rows).to(fa.dtype), db.to(fb.dtype)
        a, b = ctx.copies
        need_x, _, _, need_a, need_b = ctx.needs_input_grad
        dp, d_b = both(dy, b, p, c.scale, need_b, fb.dtype)
        da = mm(dp.t(), rows, fa.dtype) if need_a else None
        dx = dp.mm(a).view(x.shape) if need_x else None
        return dx, g, None, da, d_b


#: without what a transform of `torch.func` needs, which has its own form
_apply = super(torch.autograd.Function, _Added).apply
