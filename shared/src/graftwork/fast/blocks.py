"""Frozen linear maps with trained diagonal blocks, as one autograd function.

    y = x W^T + b + [x_1 D_1^T, .., x_N D_N^T],        x = [x_1, .., x_N] by columns

The N products are one batched product that adds to the layer's output where it stands; backward,
dD = dy_n^T x_n is another, and dx starts from the batched dy_n D_n so that dy W can add to it. x and D are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def block_linear(x: Tensor, layer: Any, weight: Tensor, d: Tensor) -> Tensor:
    """The layer's output with its blocks.

    Args:
        x: (..., in).
        layer: the frozen layer; its own forward, without the graft, is `layer._base_class.forward`.
        weight: W (out, in), any strides, in x's dtype.
        d: D (N, out / N, in / N) in x's dtype or wider; rounded to x's once.
    """
    out: Tensor = _Blocks.apply(x, layer, weight, d)
    return out


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, weight: Tensor, wide: Tensor) -> Tensor:
        d = wide if wide.dtype is x.dtype else wide.to(x.dtype)
        y: Tensor = layer._base_class.forward(layer, x)
        if not y.is_contiguous():
            y = y.contiguous()
        _by_block(y, d.shape[0]).baddbmm_(_by_block(x, d.shape[0]), d.transpose(1, 2))
        ctx.save_for_backward(x, d, wide)
        ctx.weight = weight
        return owned(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, d, wide = ctx.saved_tensors
        weight: Tensor = ctx.weight
        if torch.is_grad_enabled():  # somebody differentiates twice
            return _differentiable(x, g, weight, wide)
        n = d.shape[0]
        dy = g.reshape(-1, g.shape[-1])
        by_block = _by_block(dy, n)
        dx = dd = None
        if ctx.needs_input_grad[0]:
            dx = x.new_empty(dy.shape[0], x.shape[-1])
            _by_block(dx, n).baddbmm_(by_block, d, beta=0)  # what stands in the memory is not read
            dx = dx.addmm_(dy, weight).view(x.shape)
        if ctx.needs_input_grad[3]:
            dd = by_block.transpose(1, 2).bmm(_by_block(x, n)).to(wide.dtype)
        return dx, None, None, dd


def owned(y: Tensor) -> Tensor:
    """`y` as a tensor that is no view, in the same memory.

    A layer gives a view of its product where x has more than two dimensions, and autograd lets nobody write
    into a view that came out of a function of ours; an activation in place is such a write.
    """
    return y.new_empty(0).set_(y) if y._is_view() else y  # type: ignore[call-overload]


def _by_block(t: Tensor, n: int) -> Tensor:
    """(..., n k) as (n, rows, k), a view where the rows lie one behind another."""
    return t.reshape(-1, n, t.shape[-1] // n).transpose(0, 1)


def _differentiable(x: Tensor, g: Tensor, weight: Tensor, wide: Tensor) -> Any:
    """The same gradients, through operations that have gradients themselves."""
    n = wide.shape[0]
    by_block = _by_block(g, n)
    d = wide.to(g.dtype)
    small = by_block.bmm(d).transpose(0, 1).reshape(x.shape)
    dd = by_block.transpose(1, 2).bmm(_by_block(x, n)).to(wide.dtype)
    return g @ weight + small, None, None, dd
