"""Frozen linear maps with low-rank branches, as one autograd function for all that read the same input.

    y_i = x W_i^T + b_i + s_i (x A_i^T) B_i^T,        i = 1 .. n (q, k and v; gate and up; or one alone)

Plain autograd keeps the branch's intermediate results, reads x once per branch, and sums the n gradients of
x with n - 1 extra passes. Here x and p = x [A_1; ..; A_n]^T are all that is kept, p is one product, and
the gradient of x is accumulated inside the products that give it:

    dp_i = s_i dy_i B_i,   dB_i = s_i dy_i^T p_i,   [dA_1; ..] = [dp_1 ..]^T x,
    dx = [dp_1 ..] [A_1; ..] + sum dy_i W_i

A product that accumulates hides the read of what it adds to behind its arithmetic, so the small product
goes first and the large one adds to it: dx everywhere, y on a GPU where the layer has no bias. Elsewhere y
starts from the layer's own forward: with a bias, or on a CPU, the other order would round otherwise than the base
does, and the start is to be the base bit for bit.

A and B come in float32 or wider and are rounded to the layer's dtype once per forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Branch(NamedTuple):
    """One frozen linear map and its branch.

    Args:
        run: the frozen layer's own forward.
        weight: W as (out, in), any strides; frozen.
        bias: b (out,) or None; frozen.
        a, b: factors (r, in) and (out, r); they train.
        scale: s.
    """

    run: Callable[[Tensor], Tensor]
    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scale: float


def lowrank_linear(x: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
    """Outputs (..., out_i) of every branch for x (..., in); all weights have x's dtype."""
    factors = [t for c in branches for t in (c.a, c.b)]
    out: tuple[Tensor, ...] = _LowRank.apply(x, branches, *factors)
    return out


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branches: Sequence[Branch], *factors: Tensor) -> Any:
        a = torch.cat(factors[::2]) if len(branches) > 1 else factors[0]
        a = a.to(x.dtype)
        bs = [b.to(x.dtype) for b in factors[1::2]]
        rows = x.reshape(-1, x.shape[-1])
        p = rows @ a.t()
        ys = []
        for c, b, part in zip(branches, bs, _parts(p, branches), strict=True):
            ys.append(
                _small_first(x, rows, c, part, b)
                if x.is_cuda and c.bias is None
                else _forward(x, c, part, b)
            )
        ctx.save_for_backward(x, p, a, *bs, *factors)
        ctx.branches = branches
        ctx.set_materialize_grads(False)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.is_grad_enabled():  # somebody differentiates twice
            return _differentiable(ctx, grads)
        n = len(ctx.branches)
        x, p, a, *rest = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])
        bs, factors = rest[:n], rest[n:]
        branches: Sequence[Branch] = ctx.branches
        dys = [None if g is None else g.reshape(-1, g.shape[-1]) for g in grads]
        dp = torch.empty_like(p)
        out: list[Any] = []
        hidden = zip(_parts(p, branches), _parts(dp, branches), strict=True)
        for c, b, dy, (part, d_part) in zip(branches, bs, dys, hidden, strict=True):
            if dy is None:
                d_part.zero_()
                out.append(None)
                continue
            d_part.copy_(dy @ b)
            d_b = dy.t() @ part
            if c.scale != 1.0:
                d_part.mul_(c.scale)
                d_b.mul_(c.scale)
            out.append(d_b)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dp @ a
            for c, dy in zip(branches, dys, strict=True):
                if dy is not None:
                    dx.addmm_(dy, c.weight)
            dx = dx.view(x.shape)
        d_a = _parts((dp.t() @ rows).t(), branches)
        pairs: list[Any] = []
        for (da, db), (fa, fb) in zip(
            zip(d_a, out, strict=True), zip(factors[::2], factors[1::2], strict=True), strict=True
        ):
            pairs += [da.t().to(fa.dtype), None if db is None else db.to(fb.dtype)]
        return dx, None, *pairs


def _parts(t: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
    """Columns of each branch."""
    return t.split([c.a.shape[0] for c in branches], dim=1) if len(branches) > 1 else (t,)


def _forward(x: Tensor, c: Branch, p: Tensor, b: Tensor) -> Tensor:
    y = c.run(x)
    y = y if y.is_contiguous() else y.contiguous()
    y.view(-1, y.shape[-1]).addmm_(p, b.t(), alpha=c.scale)
    return _own(y, y.shape)


def _small_first(x: Tensor, rows: Tensor, c: Branch, p: Tensor, b: Tensor) -> Tensor:
    # beta 0: what stands in the first argument is not read
    y = torch.addmm(p.new_empty(1), p, b.t(), beta=0, alpha=c.scale)
    return _own(y.addmm_(rows, c.weight.t()), (*x.shape[:-1], y.shape[-1]))


def _own(y: Tensor, shape: Sequence[int]) -> Tensor:
    """`y` in this shape and no view of anything, so that what follows may change it in place."""
    out: Tensor = torch.ops.aten._unsafe_view(y, list(shape))
    return out


def _differentiable(ctx: Any, grads: Sequence[Tensor | None]) -> Any:
    """The same gradients, through operations that have gradients themselves."""
    n = len(ctx.branches)
    x, _, _, *rest = ctx.saved_tensors
    rows = x.reshape(-1, x.shape[-1])
    factors = rest[n:]
    dx: Tensor | None = None
    out: list[Tensor | None] = []
    for c, fa, fb, g in zip(ctx.branches, factors[::2], factors[1::2], grads, strict=True):
        if g is None:
            out += [None, None]
            continue
        dy = g.reshape(-1, g.shape[-1])
        a, b = fa.to(dy.dtype), fb.to(dy.dtype)
        dp = c.scale * (dy @ b)
        out += [(dp.t() @ rows).to(fa.dtype), (c.scale * (dy.t() @ (rows @ a.t()))).to(fb.dtype)]
        here = dp @ a + dy @ c.weight
        dx = here if dx is None else dx + here
    return None if dx is None else dx.view(x.shape), None, *out
