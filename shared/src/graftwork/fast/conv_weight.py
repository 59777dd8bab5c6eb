"""A convolution's changed weight and what its gradient says about the factors, rounding included.

    W' = W + s B A,        dA = s B^T dW',        dB = s dW' A^T

per group, with W' as (out/g, in/g * prod(kernel)). A convolution's weight is tiny beside its images, so
both cost little; what they must not cost is small updates. In float32 and wider they are sums like
any other. In half precision W' has to be rounded to W's own steps, and rounding to the nearest step would
undo every update of less than half of one. So W' is rounded up or down by a fixed threshold per
element, spread evenly over (0, 1) along each row (multiples of the golden ratio: a low-discrepancy sequence, Weyl
1916; rounding with spread thresholds: Roberts 1962, stochastic rounding in its repeatable form). An update
of a tenth of a step then moves a tenth of a row's elements by one step, the row as a whole moves by what it should,
and no update at all moves nothing: W' is W, bit for bit.

Under autocast W is wider than W'. Where its numbers use the bits that rounding drops, these do what the thresholds
do, and W' is rounded to the nearest step, as autocast rounds W. Where they do not (a half-precision
checkpoint loaded in float32), the thresholds are needed, and cost no precision: see `representable`.

Most networks on a GPU wait for the next operation rather than for its end, so what counts here is how many there are:
the weight is taken in the order in which it is stored, and nothing is copied.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graftwork.algebra.conv import Conv
from graftwork.algebra.geometry import Geometry
from graftwork.algebra.layout import matrix, order_of, unfolded
from graftwork.methods.base import work_dtype

#: bits of a float32 that a half precision does not keep
DROPPED = {torch.bfloat16: 16, torch.float16: 13}
#: elements of a weight's row from which on a half precision can spread an update along it
SPREAD_FROM = 16
_GOLDEN = 0.6180339887498949


def thresholds(geo: Geometry, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Whole numbers below one step of `dtype`, `(in/g * prod(kernel),)`; `None` where none is needed."""
    if dtype not in DROPPED:
        return None
    n = geo.group_shape[1]
    for k in geo.kernel:
        n *= k
    return spread_over(n, dtype, device)


def spread_over(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`n` thresholds, whole numbers below one step of the half precision `dtype`."""
    # The multiplier is odd, so that it visits all of the 2^bits values; int32 wraps around, which the mask forgives.
    # The first threshold is one half: where a row has one element, that one is rounded to the nearest.
    bits = DROPPED[dtype]
    steps = torch.arange(n, dtype=torch.int32, device=device)
    found: Tensor = (steps * golden(bits) + 2 ** (bits - 1)) & (2**bits - 1)
    return found


def golden(bits: int) -> int:
    """What a threshold of `bits` bits is multiplied with from one column to the next."""
    steps: int = 2**bits
    return round(_GOLDEN * steps) | 1


def representable(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether all of a weight's numbers are numbers of `dtype`. Waits for the device."""
    return torch.equal(weight, weight.to(dtype).to(weight.dtype))


def changed(
    geo: Geometry,
    weight: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
    spread: Tensor | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """W' in the stored layout of `weight`.

    Args:
        weight: W in the stored layout.
        a, b: factors as `Geometry.factor_shapes` has them, float32 or wider.
        spread: `thresholds` for W's dtype or for `dtype`, see the module's docstring; `None`: to the nearest.
        dtype: of W'; `None`: W's.
    """
    dtype, wide = dtype or weight.dtype, work_dtype(weight)
    order = _order(geo, weight)
    if order is not None:  # the same, in a few operations less
        w, columns, rows = matrix(weight, order), matrix(a, order), b.flatten(1)
        total = torch.addmm(_widened(w), rows.to(wide), columns.to(wide), alpha=scale)
    else:
        rows, columns = factors(geo, a, b)
        w = geo.canonical(weight).flatten(2)
        total = torch.baddbmm(_widened(w), rows.to(wide), columns.to(wide), alpha=scale)
    if spread is not None:
        bits = total.view(torch.int32).add_(spread)
        total = bits.bitwise_and_(-(2 ** DROPPED[dtype])).view(torch.float32)
    total = total.to(dtype)
    if order is not None:
        return unfolded(total, weight, order)
    new = _stored(geo, total)
    # a weight in another memory format decides which one the convolution runs in
    return new if weight.is_contiguous() else torch.empty_like(weight, dtype=dtype).copy_(new)


def project(
    geo: Geometry, d_weight: Tensor, a: Tensor, b: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """dA and dB, in the shapes and dtypes of A and B, from the gradient of W'."""
    order = _order(geo, d_weight)
    if order is not None:
        d = matrix(d_weight, order).to(a.dtype)
        d_a, d_b = b.flatten(1).t().mm(d), d.mm(matrix(a, order).t())
        d_a = unfolded(d_a, a, order)
    else:
        d = geo.canonical(d_weight).flatten(2).to(a.dtype)
        rows, columns = factors(geo, a, b)
        d_a, d_b = torch.bmm(rows.transpose(1, 2), d), torch.bmm(d, columns.transpose(1, 2))
        d_a = (d_a.sum(0) if shares(geo, a) else d_a).view(a.shape)
    if scale != 1.0:
        d_a, d_b = d_a.mul_(scale), d_b.mul_(scale)
    return d_a, d_b.view(b.shape)


def _widened(weight: Tensor) -> Tensor:
    """`weight` in float32 or wider, exactly."""
    if weight.dtype == torch.bfloat16 and torch.compiler.is_compiling():
        # through its bits: a compiler that fuses casts goes on with what was rounded to it
        return (weight.view(torch.int16).to(torch.int32) << 16).view(torch.float32)
    return weight.to(work_dtype(weight))


def _stored(geo: Geometry, matrices: Tensor) -> Tensor:
    """`(g, out/g, in/g * prod(kernel))` in the stored layout."""
    return geo.layout(matrices.unflatten(2, (-1, *geo.kernel))).contiguous()


def _order(geo: Geometry, stored: Tensor) -> list[int] | None:
    """The order of axes in which a stored weight is one matrix of outputs by the rest without a copy, if there is one.

    There is none with groups or in a transposed layer.
    """
    plain = geo.groups == 1 and isinstance(geo, Conv)
    return order_of(stored) if plain else None


def factors(geo: Geometry, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """B as `(g, out/g, r')` and A as `(g, r', in/g * prod(kernel))`; r' is r/g, or r where A is shared."""
    g = geo.groups
    columns = a.flatten(1).expand(g, -1, -1) if shares(geo, a) else a.reshape(g, -1, a[0].numel())
    return mixer(geo, b), columns


def mixer(geo: Geometry, b: Tensor) -> Tensor:
    """B as `(g, out/g, r')`."""
    return b.reshape(geo.groups, geo.out // geo.groups, -1)


def shares(geo: Geometry, a: Tensor) -> bool:
    """Whether all groups read through the same A."""
    return not geo.splits(a.shape[0])
