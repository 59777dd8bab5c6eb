"""A frozen matrix with its low-rank change, W' = W + s B A, rounded to the matrix's own steps.

In float32 and wider this is a sum like any other. In half precision an update below half a step would be rounded away
everywhere, so W' is rounded up or down by a threshold per column, as in `conv_weight`: where there is no update,
W' is W bit for bit. On a GPU with Triton that is one pass over W; elsewhere plain operations compute the same. Where
the products of float32 round what they multiply (TF32), W' would be rounded without a threshold: no such layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graftwork.fast.conv_weight import DROPPED, SPREAD_FROM, golden, spread_over
from graftwork.fast.reads import has_triton

#: whether half-precision layers may take this form: less time, at errors of the branch's size in outputs and
#: gradients, but W' is rounded alike for all rows, which moves a loss curve by more than two runs differ
allowed_in_half = False
#: elements of x for each of W from which on W' costs less than passes over x and y do
WIDE = 4
#: rows for each column of what W' is multiplied by, from which on it costs less than a second pass over the product
LONG = 3


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether to keep W' of a matrix W (out, in) of x's dtype for the backward pass too: where it is small beside x."""
    if weight.dtype in DROPPED or x.numel() < WIDE * weight.numel():
        return False
    return weight.dtype is not torch.float32 or not weight.is_cuda or _unrounded()


def pays_once(rows: int, columns: int, weight: Tensor) -> bool:
    """Whether one product of (rows, columns) with W is cheaper with a W' that is made for it and dropped.

    The branch's own small product is another pass over the output; W' is one over W. In half precision alone, in
    which W' is made so fast that it is made again for the backward pass.
    """
    return (
        allowed_in_half
        and rows >= LONG * columns
        and weight.dtype in DROPPED
        and weight.shape[1] >= SPREAD_FROM
        and one_pass(weight)
    )


def _unrounded() -> bool:
    """Whether a GPU multiplies float32 as it is."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch's older and newer switches say different things
        return False


def changed_matrix(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W' (out, in) in W's dtype.

    Args:
        weight: W (out, in), contiguous.
        a, b: A (r, in) and B (out, r) in float32, or float64 where W is.
        scale: s.
    """
    if weight.dtype not in DROPPED:
        return torch.addmm(weight, b, a, alpha=scale)
    bits = DROPPED[weight.dtype]
    if one_pass(weight):
        from graftwork.fast.kernels import change

        return change(weight, a.contiguous(), b.contiguous(), scale, golden(bits), bits)
    total = torch.addmm(weight.float(), b.float(), a.float(), alpha=scale)
    steps = spread_over(weight.shape[1], weight.dtype, weight.device)
    whole = total.view(torch.int32).add_(steps).bitwise_and_(-(2**bits))
    return whole.view(torch.float32).to(weight.dtype)


def one_pass(weight: Tensor) -> bool:
    """Whether a half-precision W' is made in one pass over `weight`."""
    return (
        weight.is_cuda
        and weight.dtype is torch.bfloat16
        and weight.numel() < 2**31
        and has_triton()
    )
