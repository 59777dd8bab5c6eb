"""Frozen linear maps with low-rank branches, as one autograd function for all that read the same input.

    y_i = b_i + g_i (x W_i^T + s_i (x A_i^T) B_i^T),        i = 1 .. n (q, k and v; gate and up; or one alone)

g is a gain per output channel (DoRA's m / ||W + s B A||, see `twins`); most methods have none. Plain autograd keeps the
branch's intermediate results, reads x once per branch, and sums the n gradients of x with n - 1 extra passes.
Here x and p = x [A_1; ..; A_n]^T are all that is kept (and, for a gain, what it multiplies, l), p is one product, and
the gradient of x is accumulated inside the products that give it:

    dm_i = (sum_rows dy_i l_i) / n_i,   dp_i = s_i dy_i (g_i B_i),   dB_i = s_i g_i dy_i^T p_i,
    [dA_1; ..] = [dp_1 ..]^T x,   dx = [dp_1 ..] [A_1; ..] + sum dy_i (g_i W_i)

A product that accumulates hides the read of what it adds to behind its arithmetic, so the small product
goes first and the large one adds to it: dx everywhere, y on a GPU where the layer has no bias. Elsewhere y
starts from the layer's own product: with a bias, or on a CPU, the other order would round otherwise than the base
does, and the start is to be the base bit for bit.

Where W is small beside x and y, a layer alone without a gain runs with the changed weight W' = W + s B A (`changed`):

    y = x W'^T + b,   dx = dy W',   p = x A^T and dp in the backward pass alone

which passes over y and dx once where the branch does two or three times, and keeps W' in place of p. In half
precision, where that is switched on and rows are many beside what W is multiplied by, W' is made for y, and again for
dx, and dropped; for layers that share their input, for y alone.

In the backward pass a gain multiplies the weight where that is smaller than dy. With a bias y is g t + (1 - g) b for
the output t without the gain, which is t where g is 1.

A and B come in float32 or wider; their copies in the layer's dtype are a matter of `twins`. One layer alone, the most
frequent call, has a function without lists: on small batches the time to issue the work is the step's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from graftwork.algebra.products import mm
from graftwork.fast.blocks import owned
from graftwork.fast.changed import changed_matrix, pays, pays_once
from graftwork.fast.channels import column_dots, scaled, scaled_rows
from graftwork.fast.reads import both
from graftwork.fast.twins import Gain, Twin, stacked


class Branch:
    """One frozen linear map and its branch.

    Args:
        layer: gives the frozen layer; its own forward, without the graft, is `layer()._base_class.forward`.
        weight: W as (out, in), any strides; frozen.
        bias: b (out,) or None; frozen.
        twin: A (r, in), B (out, r) and, for a gain, m (out,), with their copies in W's dtype.
        scale: s.
        plain: the layer is torch's own `linear` with this very weight.
    """

    def __init__(
        self,
        layer: Callable[[], Any],
        weight: Tensor,
        bias: Tensor | None,
        twin: Twin,
        scale: float,
        plain: bool = False,
    ) -> None:
        self.layer, self.weight, self.bias, self.twin = layer, weight, bias, twin
        self.scale, self.plain = scale, plain
        self.weight_t = weight.t()
        #: A, B and m
        self.trained = (*twin.sources, None)[:3]


def lowrank_linear(x: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
    """Outputs (..., out_i) of every branch for x (..., in); all weights have x's dtype, all twins are ready."""
    if len(branches) == 1:
        return (one_linear(x, branches[0]),)
    tensors = [t for c in branches for t in c.trained]
    out: tuple[Tensor, ...] = _Several.apply(x, branches, *tensors)
    return out


def one_linear(x: Tensor, c: Branch) -> Tensor:
    """The same for one branch."""
    y: Tensor = _apply_one(x, c, *c.trained)
    return y


class _One(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, c: Branch, fa: Tensor, fb: Tensor, m: Tensor | None) -> Tensor:
        twin = c.twin
        ctx.branch, ctx.copies, ctx.gain = c, twin.copies, twin.gain
        ctx.changed = c.plain and pays(x, c.weight)
        if ctx.changed:
            new = changed_matrix(c.weight, fa, fb, c.scale)
            ctx.save_for_backward(x, new, fa, fb)
            return owned(linear(x, new, c.bias))
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        a_t = twin.turned[0]
        p = rows.mm(twin.copies[0].t() if a_t is None else a_t)
        y, kept = _output(x, rows, c, p, twin, fa, fb)
        if m is None:
            ctx.save_for_backward(x, p, fa, fb)
        else:
            ctx.save_for_backward(x, p, fa, fb, m, kept)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, p, fa, fb, *more = ctx.saved_tensors
        c: Branch = ctx.branch
        if c.twin.pool is not None:
            c.twin.pool.due = True
        if torch.is_grad_enabled():  # somebody differentiates twice
            m = more[0] if more else None
            dx, *rest = _differentiable(x, [c], [fa, fb, m], [g], [ctx.gain])
            return dx, None, *rest
        a, b = ctx.copies
        need_x, _, need_a, need_b, _ = ctx.needs_input_grad
        dy = g if g.dim() == 2 else g.reshape(-1, g.shape[-1])
        weight, d_m, factor = c.weight, None, None
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        if ctx.changed:
            weight, p = p, rows.mm(a.t()) if need_b else dy.new_empty(dy.shape[0], a.shape[0])
        if more:
            dy, weight, b, factor, d_m = _through(ctx.gain, dy, c, b, more[1])
        dp, db = both(dy, b, p, c.scale, need_b, fb.dtype)
        if factor is not None and db is not None:
            db.mul_(factor)
        da = dx = None
        if need_a:
            da = mm(dp.t(), rows, fa.dtype)
        if need_x:
            once = not ctx.changed and _once(c, dy.shape[0], c.weight.shape[0])
            if once:
                weight = changed_matrix(c.weight, fa, fb, c.scale)
            dx = dy.mm(weight) if once or ctx.changed else dp.mm(a).addmm_(dy, weight)
            if x.dim() != 2:
                dx = dx.view(x.shape)
        return dx, None, da, db, d_m


#: without what a transform of `torch.func` needs, which has its own form
_apply_one = super(torch.autograd.Function, _One).apply


class _Several(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branches: Sequence[Branch], *tensors: Tensor | None) -> Any:
        a, a_t = stacked([c.twin for c in branches])
        bs, gains = [c.twin.copies[1] for c in branches], [c.twin.gain for c in branches]
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        p = rows.mm(a_t)
        ys, kept = [], []
        for i, (c, part) in enumerate(zip(branches, _columns(p, branches), strict=True)):
            y, k = _output(x, rows, c, part, c.twin, *tensors[3 * i : 3 * i + 2])
            ys.append(y)
            kept.append(k)
        ctx.branches, ctx.a, ctx.bs, ctx.gains = branches, a, bs, gains
        ctx.save_for_backward(x, p, *kept, *tensors)
        ctx.set_materialize_grads(False)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        branches: Sequence[Branch] = ctx.branches
        n = len(branches)
        x, p, *rest = ctx.saved_tensors
        kept, tensors = rest[:n], rest[n:]
        if branches[0].twin.pool is not None:
            branches[0].twin.pool.due = True
        if torch.is_grad_enabled():
            dx, *out = _differentiable(x, branches, tensors, grads, ctx.gains)
            return dx, None, *out
        need = ctx.needs_input_grad
        dp = torch.empty_like(p)
        dx = None
        large: list[tuple[Tensor, Tensor]] = []
        found: list[Any] = []
        hidden = zip(_columns(p, branches), _columns(dp, branches), strict=True)
        for i, (c, g, (part, d_part)) in enumerate(zip(branches, grads, hidden, strict=True)):
            d_m = db = factor = None
            if g is None:
                d_part.zero_()
            else:
                dy = g if g.dim() == 2 else g.reshape(-1, g.shape[-1])
                weight, b = c.weight, ctx.bs[i]
                if ctx.gains[i] is not None:
                    dy, weight, b, factor, d_m = _through(ctx.gains[i], dy, c, b, kept[i])
                dtype = tensors[3 * i + 1].dtype
                _, db = both(dy, b, part, c.scale, need[3 * i + 3], dtype, d_part)
                if factor is not None and db is not None:
                    db.mul_(factor)
                large.append((dy, weight))
            found += [None, db, d_m]
        if any(need[2::3]):
            da = mm(dp.t(), x if x.dim() == 2 else x.reshape(-1, x.shape[-1]), tensors[0].dtype)
            found[::3] = da.split_with_sizes([t.shape[0] for t in tensors[::3]])
        if need[0]:
            dx = dp.mm(ctx.a)
            for dy, weight in large:
                dx.addmm_(dy, weight)
            if x.dim() != 2:
                dx = dx.view(x.shape)
        return dx, None, *found


def _columns(t: Tensor, branches: Sequence[Branch]) -> Any:
    """The columns of each branch, as views."""
    return t.split_with_sizes([c.twin.sources[0].shape[0] for c in branches], 1)


def direct(x: Tensor, bias: Tensor | None) -> bool:
    """Whether the frozen product may be made here: torch's own `linear` makes the same of such an x, bit for bit."""
    return x.is_cuda and (bias is None or x.dim() == 2 or (x.dim() == 3 and x.is_contiguous()))


def _once(c: Branch, rows: int, columns: int) -> bool:
    """Whether the branch's product with (rows, columns) runs with a W' that is made for it alone."""
    return c.plain and c.twin.gain is None and pays_once(rows, columns, c.weight)


def _output(
    x: Tensor, rows: Tensor, c: Branch, p: Tensor, twin: Twin, fa: Any, fb: Any
) -> tuple[Tensor, Tensor | None]:
    """One branch's output, fresh memory and no view, and what its gain multiplies (`None`: no gain).

    p is x A^T in x's dtype; fa and fb are A and B as they are trained.
    """
    if _once(c, rows.shape[0], rows.shape[1]):
        return owned(linear(x, changed_matrix(c.weight, fa, fb, c.scale), c.bias)), None
    gain, b_t = twin.gain, twin.turned[1]
    if b_t is None:
        b_t = twin.copies[1].t()
    if direct(x, c.bias):
        y = x.new_empty(x.shape[:-1] + c.weight.shape[:1])
        flat = y if y.dim() == 2 else y.view(-1, y.shape[-1])
        if c.bias is None:
            # beta 0: what stands in the memory is not read
            flat.addmm_(p, b_t, beta=0, alpha=c.scale).addmm_(rows, c.weight_t)
        else:
            torch.addmm(c.bias, rows, c.weight_t, out=flat)
            flat.addmm_(p, b_t, alpha=c.scale)
    else:
        layer = c.layer()
        y = layer._base_class.forward(layer, x)
        if not y.is_contiguous():
            y = y.contiguous()
        flat = y if y.dim() == 2 else y.view(-1, y.shape[-1])
        flat.addmm_(p, b_t, alpha=c.scale)
        if gain is None:
            return owned(y), None
    if gain is None:
        return y, None
    rest = None if c.bias is None else (c.bias * gain.less).neg_()
    return owned(scaled(flat, gain.wide, rest).view(y.shape)), flat


def _through(
    gain: Gain, dy: Tensor, c: Branch, b: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """What takes the place of dy, W and B in the products of the backward pass, what dB is multiplied by, and dm."""
    wide, weight = gain.wide, c.weight
    dy = dy.contiguous()
    shift = None if c.bias is None else c.bias.to(wide.dtype)
    d_m = column_dots(dy, kept, wide, shift).div_(gain.norm).to(c.twin.sources[2].dtype)
    if dy.shape[0] <= weight.shape[1]:
        return scaled(dy, wide), weight, b, None, d_m
    return dy, scaled_rows(weight, wide), gain.up, wide.unsqueeze(1), d_m


def _differentiable(
    x: Tensor,
    branches: Sequence[Branch],
    tensors: Sequence[Any],
    grads: Sequence[Tensor | None],
    gains: Sequence[Gain | None],
) -> list[Tensor | None]:
    """The same gradients, through operations that have gradients themselves."""
    rows = x.reshape(-1, x.shape[-1])
    dx: Tensor | None = None
    out: list[Tensor | None] = []
    for i, (c, g, gain) in enumerate(zip(branches, grads, gains, strict=True)):
        fa, fb, m = tensors[3 * i : 3 * i + 3]
        if g is None:
            out += [None, None, None]
            continue
        dy = g.reshape(-1, g.shape[-1])
        a, b = fa.to(dy.dtype), fb.to(dy.dtype)
        p, d_m = rows @ a.t(), None
        if gain is not None:
            dots = (dy * (rows @ c.weight.t() + c.scale * (p @ b.t()))).sum(0)
            d_m = (dots / gain.norm).to(m.dtype)
            dy = (dy * torch.where(gain.norm.isinf(), 1, m / gain.norm)).to(dy.dtype)
        dp = c.scale * (dy @ b)
        out += [(dp.t() @ rows).to(fa.dtype), (c.scale * (dy.t() @ p)).to(fb.dtype), d_m]
        here = dp @ a + dy @ c.weight
        dx = here if dx is None else dx + here
    return [None if dx is None else dx.view(x.shape), *out]
