"""A frozen convolution with a low-rank change, as one autograd function in one of three forms.

    y = conv(x, W) + b + s B conv(x, A)        A has r channels and W's kernel, B mixes channels

| form | forward | gradient of x | gradients of A and B |
| --- | --- | --- | --- |
| weight | conv(x, W'), W' = W + s B A | dy through W' | dW', projected onto A and B |
| mixed | conv(x, W') | dy through W' | dA from x and dp = s B^T dy, dB from dy and p = conv(x, A) |
| branch | conv(x, W), to which s B p is added | dy through W, plus dp through A | the same |

What each costs and which is taken is the matter of `conv_forms`; W' and its gradient that of
`conv_weight`. Under plain autograd a branch keeps p and B p besides x and passes over y and dx twice more to add
things up; `weight` and `mixed` keep x alone, as any trained convolution does.

x, A and B get gradients; the convolution itself is frozen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from graftwork.algebra.conv import Conv
from graftwork.algebra.geometry import Geometry, split
from graftwork.fast.conv_weight import changed, mixer, project, shares

WEIGHT, MIXED, BRANCH = "weight", "mixed", "branch"


class Frame(NamedTuple):
    """How a convolution walks over its input: what `aten::convolution` takes besides tensors."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


class Job(NamedTuple):
    """What is the same at each call of a layer.

    Args:
        geo: the layer's geometry.
        frame: its walk; padding is with zeros, on both sides alike.
        scale: s.
        form: `WEIGHT`, `MIXED` or `BRANCH`.
    """

    geo: Geometry
    frame: Frame
    scale: float
    form: str


def lowrank_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    spread: Tensor | None,
    job: Job,
) -> Tensor:
    """The layer's output `(n, out, *size)`.

    Args:
        x: `(n, in, *size)`.
        weight, bias: the layer's, in its stored layout; they get no gradient. The bias is in x's dtype, and
            the weight too in the form `branch`; elsewhere it may be wider.
        a, b: factors in the shapes of `Geometry.factor_shapes`, float32 or wider.
        spread: `conv_weight.thresholds` for x's dtype, or `None`, see there.
        job: what is the same at each call.
    """
    y: Tensor = _LowRankConv.apply(x, weight, bias, a, b, spread, job)
    return y


class _LowRankConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        spread: Tensor | None,
        job: Job,
    ) -> Tensor:
        ctx.job = job
        if job.form == BRANCH:
            y = _convolve(x, weight, bias, job)
            p = _convolve(x, narrow(job.geo, a, x.dtype), None, job)
            ctx.save_for_backward(x, weight, bias, a, b, p)
            return _add_mixed(y, p, _mix(job, b, x.dtype))
        new = changed(job.geo, weight, a, b, job.scale, spread, x.dtype)
        # what was computed here is kept: it is small, and the backward pass needs it again
        ctx.save_for_backward(x, weight, bias, a, b, new)
        return _convolve(x, new, bias, job)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, bias, a, b, kept = ctx.saved_tensors
        job: Job = ctx.job
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[3], ctx.needs_input_grad[4])
        if torch.is_grad_enabled():  # somebody differentiates twice
            dx, d_a, d_b = _differentiable(job, x, weight, bias, a, b, dy, needs)
        elif job.form == WEIGHT:
            dx, d_a, d_b = _through_weight(job, x, kept, a, b, dy, needs)
        else:
            dx, d_a, d_b = _through_branch(job, x, weight, a, b, kept, dy, needs)
        return dx, None, None, d_a, d_b, None, None


Needs = tuple[bool, bool, bool]
Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


def _through_weight(
    job: Job, x: Tensor, new: Tensor, a: Tensor, b: Tensor, dy: Tensor, needs: Needs
) -> Grads:
    need_x, need_a, need_b = needs
    dx, d_weight = _convolve_back(dy, x, new, job, need_x, need_a or need_b)
    if d_weight is None:
        return dx, None, None
    d_a, d_b = project(job.geo, d_weight, a, b, job.scale)
    return dx, d_a if need_a else None, d_b if need_b else None


def _through_branch(
    job: Job,
    x: Tensor,
    weight: Tensor,
    a: Tensor,
    b: Tensor,
    kept: Tensor,
    dy: Tensor,
    needs: Needs,
) -> Grads:
    need_x, need_a, need_b = needs
    geo, branch = job.geo, job.form == BRANCH
    small = narrow(geo, a, x.dtype)
    d_a = d_b = None
    # dy goes through W' at once (kept), or through W and, as dp, through A
    dx, _ = _convolve_back(dy, x, weight if branch else kept, job, need_x, False)
    if need_a or (need_x and branch):
        mix = _mix(job, b, x.dtype)
        dp = torch.matmul(mix.transpose(1, 2), _grouped(dy, geo.groups))
        dp = dp.reshape(dy.shape[0], small_channels(geo, a), *dy.shape[2:])
        more, d_small = _convolve_back(dp, x, small, job, need_x and branch, need_a)
        if dx is not None and more is not None:
            dx.add_(more)
        d_a = None if d_small is None else _unrepeat(geo, d_small, a)
    if need_b:
        p = kept if branch else _convolve(x, small, None, job)
        d_mix = torch.matmul(_grouped(dy, geo.groups), _grouped(p, geo.groups).transpose(2, 3))
        d_b = d_mix.sum(0, dtype=b.dtype).reshape(b.shape)
        if job.scale != 1.0:
            d_b.mul_(job.scale)
    return dx, d_a, d_b


def _differentiable(
    job: Job,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    dy: Tensor,
    needs: Needs,
) -> Grads:
    """The same gradients, through operations that have gradients themselves."""
    leaves = [t for t, need in zip((x, a, b), needs, strict=True) if need]
    new = changed(job.geo, weight, a, b, job.scale, None, x.dtype)
    y = _convolve(x, new, bias, job)
    found = iter(torch.autograd.grad(y, leaves, dy, create_graph=True))
    dx, d_a, d_b = (next(found) if need else None for need in needs)
    return dx, d_a, d_b


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, job: Job) -> Tensor:
    y: Tensor = torch.ops.aten.convolution(x, weight, bias, *job.frame)
    return y


def _convolve_back(
    dy: Tensor, x: Tensor, weight: Tensor, job: Job, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    if not (need_x or need_weight):
        return None, None
    dx, d_weight, _ = torch.ops.aten.convolution_backward(
        dy, x, weight, None, *job.frame, [need_x, need_weight, False]
    )
    return dx, d_weight


def small_channels(geo: Geometry, a: Tensor) -> int:
    """Channels of p: r, or r for each group where all share A."""
    return a.shape[0] * (geo.groups if shares(geo, a) else 1)


def narrow(geo: Geometry, a: Tensor, dtype: torch.dtype) -> Tensor:
    """A as the weight of a convolution with the layer's geometry and `small_channels` outputs."""
    rows = a.to(dtype)
    if geo.groups == 1 and isinstance(geo, Conv):
        return rows  # it is one as it is
    if shares(geo, a):
        rows = rows.repeat(geo.groups, *[1] * (a.dim() - 1))
    small = geo.with_out(rows.shape[0])
    return small.layout(split(rows, geo.groups)).contiguous()


def _unrepeat(geo: Geometry, d_small: Tensor, a: Tensor) -> Tensor:
    """The gradient of A from that of `narrow(geo, a)`."""
    d = geo.with_out(small_channels(geo, a)).canonical(d_small).to(a.dtype)
    return d.sum(0) if shares(geo, a) else d.reshape(a.shape)


def _mix(job: Job, b: Tensor, dtype: torch.dtype) -> Tensor:
    """s B as `(g, out/g, r')`; scaled while it is wide."""
    rows = mixer(job.geo, b)
    return (rows if job.scale == 1.0 else job.scale * rows).to(dtype)


def _grouped(t: Tensor, groups: int) -> Tensor:
    """`(n, c, *size)` as `(n, g, c/g, positions)`."""
    return t.reshape(t.shape[0], groups, t.shape[1] // groups, -1)


def _add_mixed(y: Tensor, p: Tensor, mix: Tensor) -> Tensor:
    """`y` with the channel mix of `p` added in place, inside the product that gives it."""
    n, groups = y.shape[0], mix.shape[0]
    h = _grouped(p, groups)
    if groups > 1 and not y.is_contiguous():
        return y.add_(torch.matmul(mix, h).reshape(y.shape))
    # a view in either memory format: positions lie together in both
    out = y.flatten(2) if groups == 1 else y.view(n * groups, y.shape[1] // groups, -1)
    b = mix.expand(n, -1, -1, -1).flatten(0, 1)
    out.baddbmm_(b, h.flatten(0, 1))
    return y
