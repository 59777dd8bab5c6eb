"""Frozen linear maps with low-rank branches, as one autograd function for all that read the same input.

    y_i = b_i + g_i (x W_i^T + s_i (x A_i^T) B_i^T),        i = 1 .. n (q, k and v; gate and up; or one alone)

g is a gain per output channel (DoRA's m / ||W + s B A||); most methods have none. Plain autograd keeps the
branch's intermediate results, reads x once per branch, and sums the n gradients of x with n - 1 extra passes.
Here x and p = x [A_1; ..; A_n]^T are all that is kept (and, for a gain, what it multiplies), p is one product, and
the gradient of x is accumulated inside the products that give it:

    dl_i = g_i dy_i,   dg_i = sum_rows dy_i l_i,   dp_i = s_i dl_i B_i,   dB_i = s_i dl_i^T p_i,
    [dA_1; ..] = [dp_1 ..]^T x,   dx = [dp_1 ..] [A_1; ..] + sum dl_i W_i

A product that accumulates hides the read of what it adds to behind its arithmetic, so the small product
goes first and the large one adds to it: dx everywhere, y on a GPU where the layer has no bias. Elsewhere y
starts from the layer's own forward: with a bias, or on a CPU, the other order would round otherwise than the base
does, and the start is to be the base bit for bit.

A and B come in float32 or wider and are rounded to the layer's dtype once per forward. One layer alone, the most
frequent call, has a function without lists: on small batches the time to issue the work is the step's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from graftwork.fast.blocks import owned
from graftwork.fast.reads import both


class Branch(NamedTuple):
    """One frozen linear map and its branch.

    Args:
        layer: the frozen layer; its own forward, without the graft, is `layer._base_class.forward`.
        weight: W as (out, in), any strides; frozen.
        bias: b (out,) or None; frozen.
        a, b: factors (r, in) and (out, r); they train.
        scale: s.
        gain: g (out,), differentiable, in a's dtype, or None.
    """

    layer: Any
    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scale: float
    gain: Tensor | None = None


def lowrank_linear(x: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
    """Outputs (..., out_i) of every branch for x (..., in); all weights have x's dtype."""
    if len(branches) == 1:
        c = branches[0]
        return (_One.apply(x, c, c.a, c.b, c.gain),)
    tensors = [t for c in branches for t in (c.a, c.b, c.gain)]
    out: tuple[Tensor, ...] = _Several.apply(x, branches, *tensors)
    return out


class _One(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, c: Branch, fa: Tensor, fb: Tensor, gain: Any) -> Tensor:
        dtype = x.dtype
        a = fa if fa.dtype is dtype else fa.to(dtype)
        b = fb if fb.dtype is dtype else fb.to(dtype)
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        p = linear(rows, a)
        y, kept = _output(x, rows, c, p, b)
        ctx.save_for_backward(x, p, a, b, fa, fb, gain, kept)
        ctx.branch = c
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        c: Branch = ctx.branch
        if torch.is_grad_enabled():  # somebody differentiates twice
            x, _, _, _, fa, fb, gain, _ = ctx.saved_tensors
            dx, *rest = _differentiable(x, [c], [fa, fb, gain], [g])
            return dx, None, *rest
        x, p, a, b, fa, fb, gain, kept = ctx.saved_tensors
        need_x, _, need_a, need_b, _ = ctx.needs_input_grad
        dy = g if g.dim() == 2 else g.reshape(-1, g.shape[-1])
        d_gain = None
        if gain is not None:
            dy, d_gain = _through_gain(dy, gain, kept)
        dp, db = both(dy, b, p, c.scale, need_b)
        dx = None
        if need_x:
            dx = dp.mm(a).addmm_(dy, c.weight)
            if x.dim() != 2:
                dx = dx.view(x.shape)
        da = dp.t().mm(x if x.dim() == 2 else x.reshape(-1, x.shape[-1])) if need_a else None
        if da is not None and da.dtype is not fa.dtype:
            da = da.to(fa.dtype)
        if db is not None and db.dtype is not fb.dtype:
            db = db.to(fb.dtype)
        return dx, None, da, db, d_gain


class _Several(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branches: Sequence[Branch], *tensors: Tensor | None) -> Any:
        dtype = x.dtype
        a = torch.cat([c.a for c in branches])
        a = a if a.dtype is dtype else a.to(dtype)
        bs = [c.b if c.b.dtype is dtype else c.b.to(dtype) for c in branches]
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        p = linear(rows, a)
        ys, kept = [], []
        for c, b, part in zip(branches, bs, _columns(p, branches), strict=True):
            y, k = _output(x, rows, c, part, b)
            ys.append(y)
            kept.append(k)
        ctx.save_for_backward(x, p, a, *bs, *kept, *tensors)
        ctx.branches = branches
        ctx.set_materialize_grads(False)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        branches: Sequence[Branch] = ctx.branches
        n = len(branches)
        x, p, a, *rest = ctx.saved_tensors
        bs, kept, tensors = rest[:n], rest[n : 2 * n], rest[2 * n :]
        if torch.is_grad_enabled():
            dx, *out = _differentiable(x, branches, tensors, grads)
            return dx, None, *out
        need = ctx.needs_input_grad
        dp = torch.empty_like(p)
        dx = None
        dys: list[Tensor | None] = []
        found: list[Any] = []
        hidden = zip(_columns(p, branches), _columns(dp, branches), strict=True)
        for i, (c, g, (part, d_part)) in enumerate(zip(branches, grads, hidden, strict=True)):
            d_gain = db = dy = None
            if g is None:
                d_part.zero_()
            else:
                dy = g if g.dim() == 2 else g.reshape(-1, g.shape[-1])
                gain = tensors[3 * i + 2]
                if gain is not None:
                    dy, d_gain = _through_gain(dy, gain, kept[i])
                _, db = both(dy, bs[i], part, c.scale, need[3 * i + 3], d_part)
                if db is not None and db.dtype is not c.b.dtype:
                    db = db.to(c.b.dtype)
            dys.append(dy)
            found += [None, db, d_gain]
        if need[0]:
            dx = dp.mm(a)
            for c, dy in zip(branches, dys, strict=True):
                if dy is not None:
                    dx.addmm_(dy, c.weight)
            if x.dim() != 2:
                dx = dx.view(x.shape)
        if any(need[2::3]):
            da = dp.t().mm(x if x.dim() == 2 else x.reshape(-1, x.shape[-1]))
            dtype = branches[0].a.dtype
            da = da if da.dtype is dtype else da.to(dtype)
            found[::3] = torch.split_with_sizes(da, [c.a.shape[0] for c in branches])
        return dx, None, *found


def _columns(t: Tensor, branches: Sequence[Branch]) -> Any:
    """The columns of each branch, as views."""
    return torch.split_with_sizes(t, [c.a.shape[0] for c in branches], 1)


def _small_first(x: Tensor, c: Branch) -> bool:
    return x.is_cuda and c.bias is None


def _output(
    x: Tensor, rows: Tensor, c: Branch, p: Tensor, b: Tensor
) -> tuple[Tensor, Tensor | None]:
    """One branch's output, fresh memory and no view, and what its gain multiplies (`None`: no gain)."""
    if _small_first(x, c):
        y = x.new_empty(*x.shape[:-1], c.weight.shape[0])
        flat = y if y.dim() == 2 else y.view(-1, y.shape[-1])
        # beta 0: what stands in the memory is not read
        flat.addmm_(p, b.t(), beta=0, alpha=c.scale).addmm_(rows, c.weight.t())
    else:
        y = c.layer._base_class.forward(c.layer, x)
        if not y.is_contiguous():
            y = y.contiguous()
        flat = y if y.dim() == 2 else y.view(-1, y.shape[-1])
        if c.gain is not None and c.bias is not None:
            return _gained_with_bias(y, flat, c, p, b)
        flat.addmm_(p, b.t(), alpha=c.scale)
    if c.gain is None:
        return owned(y), None
    # the product is taken in the gain's precision and rounded once: where the gain is 1 it is y
    return torch.mul(y, c.gain, out=torch.empty_like(y)), flat


def _gained_with_bias(
    y: Tensor, flat: Tensor, c: Branch, p: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """y + (g - 1) (y - b) + g s p B^T: the base bit for bit where g is 1 and B is 0."""
    assert c.gain is not None and c.bias is not None
    more = torch.mm(p, b.t())
    if c.scale != 1.0:
        more.mul_(c.scale)
    wide = flat.to(c.gain.dtype)
    kept = wide - c.bias + more
    out = wide + (c.gain - 1) * (wide - c.bias) + c.gain * more
    return owned(out.to(y.dtype).view(y.shape)), kept.to(y.dtype)


def _through_gain(dy: Tensor, gain: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """(g dy in dy's dtype, the gradient of the gain)."""
    # in half precision the products are rounded, their sum is not
    d_gain = (dy * kept).sum(0, dtype=gain.dtype)
    return torch.mul(dy, gain, out=torch.empty_like(dy)), d_gain


def _differentiable(
    x: Tensor, branches: Sequence[Branch], tensors: Sequence[Any], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The same gradients, through operations that have gradients themselves."""
    rows = x.reshape(-1, x.shape[-1])
    dx: Tensor | None = None
    out: list[Tensor | None] = []
    for i, (c, g) in enumerate(zip(branches, grads, strict=True)):
        fa, fb, gain = tensors[3 * i : 3 * i + 3]
        if g is None:
            out += [None, None, None]
            continue
        dy = g.reshape(-1, g.shape[-1])
        a, b = fa.to(dy.dtype), fb.to(dy.dtype)
        p, d_gain = rows @ a.t(), None
        if gain is not None:
            d_gain = (dy * (rows @ c.weight.t() + c.scale * (p @ b.t()))).sum(0).to(gain.dtype)
            dy = (dy * gain).to(dy.dtype)
        dp = c.scale * (dy @ b)
        out += [(dp.t() @ rows).to(fa.dtype), (c.scale * (dy.t() @ p)).to(fb.dtype), d_gain]
        here = dp @ a + dy @ c.weight
        dx = here if dx is None else dx + here
    return [None if dx is None else dx.view(x.shape), *out]
