"""Passes over outputs (rows, channels) with a number per channel that is wider than they are.

torch's elementwise product of two dtypes, one of them spread over the rows, runs at a third of a GPU's bandwidth and
rounds what should be summed. The kernels of its synchronised batch norm do just these passes, in float32 and rounded
once; where they are missing (on a CPU), plain operations compute the same.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def scaled(x: Tensor, g: Tensor, bias: Tensor | None = None) -> Tensor:
    """x g + bias in x's dtype, rounded once; x bit for bit where g is 1 and the bias 0.

    Args:
        x: (rows, channels), contiguous.
        g: (channels,), in float32, or float64 where x is.
        bias: (channels,) in g's dtype; `None`: 0.
    """
    if _batch_norms(x, g):
        out: Tensor = torch.batch_norm_elemt(x, None, bias, _full(g, 0.0), g, 0.0)
        return out
    if bias is None:
        return torch.mul(x, g, out=torch.empty_like(x))
    return torch.addcmul(bias, x.to(g.dtype), g).to(x.dtype)


def scaled_rows(weight: Tensor, g: Tensor) -> Tensor:
    """g_o weight_o for a matrix (out, in) of any strides and g (out,) as in `scaled`."""
    if weight.t().is_contiguous():
        return scaled(weight.t(), g).t()
    if weight.is_contiguous() and _batch_norms(weight, g):
        # channels of one sample, in between its axes
        out: Tensor = torch.batch_norm_elemt(weight.unsqueeze(0), None, None, _full(g, 0.0), g, 0.0)
        return out.squeeze(0)
    return torch.mul(weight, g.unsqueeze(1), out=torch.empty_like(weight))


def column_dots(left: Tensor, right: Tensor, like: Tensor, shift: Tensor | None = None) -> Tensor:
    """sum over rows of left (right - shift), (channels,), for two (rows, channels) of one dtype.

    Args:
        like: a tensor (channels,) in the dtype of the result, which is what `scaled` asks of g.
        shift: (channels,) in that dtype; `None`: 0.
    """
    if right.is_contiguous() and _batch_norms(left, like):
        mean = _full(like, 0.0) if shift is None else shift
        found: Tensor = torch.batch_norm_backward_reduce(
            left, right, mean, _full(like, 1.0), None, True, False, False
        )[1]
        return found
    if left.dtype is like.dtype:
        return (left * (right if shift is None else right - shift)).sum(0)
    wide = right.to(like.dtype)
    return (left * (wide if shift is None else wide - shift)).sum(0)


def _full(like: Tensor, value: float) -> Tensor:
    """(channels,) of one value, to be read only."""
    # what is made while a graph is recorded has its values only when that graph is replayed
    if like.is_cuda and torch.cuda.is_current_stream_capturing():
        return torch.full_like(like, value)
    return _constant(like.numel(), value, like.dtype, like.device)


@functools.lru_cache(maxsize=64)
def _constant(n: int, value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.full((n,), value, dtype=dtype, device=device)


def _batch_norms(x: Tensor, g: Tensor) -> bool:
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    return x.is_cuda and x.is_contiguous() and x.numel() > 0 and g.dtype is wide
