"""Frozen linear maps with trained diagonal blocks, as one autograd function for all that read the same input.

    y_i = x W_i^T + b_i + [x_1 D_i1^T, .., x_N D_iN^T],        x = [x_1, .., x_N] by columns

The N products are one batched product. Backward, dD = dy_n^T x_n is another, and dx starts from the batched
dy_n D_n, so that the large products dy W add to it where it stands; several layers' (q, k and v) add to one dx. y does
the same on a GPU where the layer has no bias; elsewhere the batched product adds to the layer's own, whose
rounding is the base's. x alone is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graftwork.algebra.products import bmm
from graftwork.fast.twins import Twin


class Blocks:
    """One frozen linear map and its blocks.

    Args:
        layer: gives the frozen layer; its own forward, without the graft, is `layer()._base_class.forward`.
        weight: W (out, in), any strides, frozen.
        bias: b (out,) or None; frozen.
        twin: D (1, N, out / N, in / N) and its copy in W's dtype.
    """

    def __init__(
        self, layer: Callable[[], Any], weight: Tensor, bias: Tensor | None, twin: Twin
    ) -> None:
        self.layer, self.weight, self.bias, self.twin = layer, weight, bias, twin
        self.weight_t = weight.t()


def block_linear(x: Tensor, layers: Sequence[Blocks]) -> tuple[Tensor, ...]:
    """Outputs (..., out_i) of every layer for x (..., in); all weights have x's dtype, all twins are ready."""
    out: Any = _Blocks.apply(x, layers, *(c.twin.sources[0] for c in layers))
    return (out,) if isinstance(out, Tensor) else out


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[Blocks], *wide: Tensor) -> Any:
        ds = [c.twin.copies[0].squeeze(0) for c in layers]
        ys = tuple(_output(x, c, d) for c, d in zip(layers, ds, strict=True))
        ctx.layers, ctx.ds = layers, ds
        ctx.save_for_backward(x, *wide)
        ctx.set_materialize_grads(False)
        return ys if len(ys) > 1 else ys[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, *wide = ctx.saved_tensors
        layers: Sequence[Blocks] = ctx.layers
        if layers[0].twin.pool is not None:
            layers[0].twin.pool.due = True
        if torch.is_grad_enabled():  # somebody differentiates twice
            return _differentiable(x, layers, wide, grads)
        need_x, _, *need = ctx.needs_input_grad
        there = [
            (i, c, d, g if g.dim() == 2 else g.reshape(-1, g.shape[-1]))
            for i, (c, d, g) in enumerate(zip(layers, ctx.ds, grads, strict=True))
            if g is not None
        ]
        found: list[Tensor | None] = [None] * len(layers)
        dx: Tensor | None = None
        if need_x and there:
            dx = x.new_empty(there[0][3].shape[0], x.shape[-1])
            for k, (_, _, d, dy) in enumerate(there):
                n = d.shape[0]
                # beta 0: what stands in the memory is not read
                _by_block(dx, n).baddbmm_(_by_block(dy, n), d, beta=1 if k else 0)
            for _, c, _, dy in there:
                dx.addmm_(dy, c.weight)
            if x.dim() != 2:
                dx = dx.view(x.shape)
        for i, _, d, dy in there:
            if need[i]:
                n = d.shape[0]
                by_block = _by_block(dy, n).transpose(1, 2)
                found[i] = bmm(by_block, _by_block(x, n), wide[i].dtype).unsqueeze(0)
        return dx, None, *found


def _output(x: Tensor, c: Blocks, d: Tensor) -> Tensor:
    n = d.shape[0]
    if c.bias is None and x.is_cuda:
        y = x.new_empty(x.shape[:-1] + c.weight.shape[:1])
        flat = y if y.dim() == 2 else y.view(-1, y.shape[-1])
        _by_block(flat, n).baddbmm_(_by_block(x, n), d.transpose(1, 2), beta=0)
        flat.addmm_(x if x.dim() == 2 else x.reshape(-1, x.shape[-1]), c.weight_t)
        return y
    layer = c.layer()
    y = layer._base_class.forward(layer, x)
    if not y.is_contiguous():
        y = y.contiguous()
    _by_block(y, n).baddbmm_(_by_block(x, n), d.transpose(1, 2))
    return owned(y)


def owned(y: Tensor) -> Tensor:
    """`y` as a tensor that is no view, in the same memory.

    A layer gives a view of its product where x has more than two dimensions, and autograd lets nobody write
    into a view that came out of a function of ours; an activation in place is such a write.
    """
    return y.new_empty(0).set_(y) if y._is_view() else y  # type: ignore[call-overload]


def _by_block(t: Tensor, n: int) -> Tensor:
    """(..., n k) as (n, rows, k), a view where the rows lie one behind another."""
    return t.reshape(-1, n, t.shape[-1] // n).transpose(0, 1)


def _differentiable(
    x: Tensor, layers: Sequence[Blocks], wide: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> Any:
    """The same gradients, through operations that have gradients themselves."""
    dx: Tensor | None = None
    found: list[Tensor | None] = []
    for c, w, g in zip(layers, wide, grads, strict=True):
        if g is None:
            found.append(None)
            continue
        n = w.shape[1]
        by_block, d = _by_block(g, n), w.squeeze(0).to(g.dtype)
        small = by_block.bmm(d).transpose(0, 1).reshape(x.shape)
        found.append((by_block.transpose(1, 2).bmm(_by_block(x, n))).to(w.dtype).unsqueeze(0))
        here = g @ c.weight + small
        dx = here if dx is None else dx + here
    return dx, None, *found
