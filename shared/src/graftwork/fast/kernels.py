"""Kernels that need Triton: one pass over dy that gives s dy B and s dy^T p (`reads`), and W + s B A (`changed`).

In the first a program holds a block of columns and walks over its share of the rows. s dy^T p adds up in registers,
one partial sum per share; s dy B adds up over the blocks of columns in float32 memory, whose order of addition is not
fixed: the last bits may differ from run to run.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

# comes with torch where it exists; elsewhere this module is importable and nothing more
_THERE = importlib.util.find_spec("triton") is not None
triton: Any = importlib.import_module("triton") if _THERE else None
tl: Any = importlib.import_module("triton.language") if _THERE else None

#: columns and rows of a block, and shares of the rows
COLUMNS, ROWS, SHARES = 128, 64, 8


# Without annotations: the kernel compiler looks every one up among the globals, and takes constants alone.
def _walk(  # type: ignore[no-untyped-def]
    dy,
    b,
    p,
    dp,
    db,
    rows,
    out,
    dy_stride,
    p_stride,
    scale,
    rank: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    share: tl.constexpr,
) -> None:
    o = tl.program_id(0) * columns + tl.arange(0, columns)
    which = tl.program_id(1)
    r = tl.arange(0, rank)
    here = o < out
    up = tl.load(b + o[:, None] * rank + r[None, :], mask=here[:, None], other=0.0)
    total = tl.zeros([columns, rank], dtype=tl.float32)
    for start in range(0, share, block):
        n = (which * share + start + tl.arange(0, block)).to(tl.int64)
        there = n < rows
        both = there[:, None] & here[None, :]
        part = tl.load(dy + n[:, None] * dy_stride + o[None, :], mask=both, other=0.0)
        hidden = tl.load(p + n[:, None] * p_stride + r[None, :], mask=there[:, None], other=0.0)
        total += tl.dot(tl.trans(part), hidden)
        place = dp + n[:, None] * rank + r[None, :]
        tl.atomic_add(place, scale * tl.dot(part, up), mask=there[:, None], sem="relaxed")
    place = db + which.to(tl.int64) * out * rank + o[:, None] * rank + r[None, :]
    tl.store(place, scale * total, mask=here[:, None])


_pass: Any = triton.jit(_walk) if _THERE else None


def one_read(dy: Tensor, b: Tensor, p: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(s dy B, s dy^T p) in float32.

    Args:
        dy: (rows, out), its columns side by side.
        b: (out, r), contiguous; r a power of two from 16 on.
        p: (rows, r), its columns side by side.
        scale: s.
    """
    rows, out = dy.shape
    rank = b.shape[1]
    share = -(-rows // (SHARES * ROWS)) * ROWS
    shares = -(-rows // share)
    dp = torch.zeros(rows, rank, dtype=torch.float32, device=dy.device)
    db = torch.empty(shares, out, rank, dtype=torch.float32, device=dy.device)
    grid = (triton.cdiv(out, COLUMNS), shares)
    strides = dy.stride(0), p.stride(0)
    _pass[grid](dy, b, p, dp, db, rows, out, *strides, scale, rank, COLUMNS, ROWS, share)
    return dp, db.sum(0)


def _add(  # type: ignore[no-untyped-def]
    weight,
    a,
    b,
    to,
    out,
    in_,
    scale,
    multiplier,
    half,
    rank: tl.constexpr,
    share: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    o = tl.program_id(0) * rows + tl.arange(0, rows)
    n = tl.program_id(1) * columns + tl.arange(0, columns)
    here, there = o < out, n < in_
    both = here[:, None] & there[None, :]
    total = tl.zeros([rows, columns], dtype=tl.float32)
    for start in range(0, rank, share):
        r = start + tl.arange(0, share)
        inside = r < rank
        place = b + o[:, None] * rank + r[None, :]
        up = tl.load(place, mask=here[:, None] & inside[None, :], other=0.0).to(tl.float32)
        place = a + r[:, None] * in_ + n[None, :]
        down = tl.load(place, mask=inside[:, None] & there[None, :], other=0.0).to(tl.float32)
        # TF32 keeps three more bits of the factors than their copies in bfloat16, which the branch multiplies, do
        total = tl.dot(up, down, total, input_precision="tf32")
    place = o[:, None] * in_ + n[None, :]
    total = tl.load(weight + place, mask=both, other=0.0).to(tl.float32) + scale * total
    steps = (n * multiplier + half) & (2 * half - 1)
    bits = (total.to(tl.int32, bitcast=True) + steps[None, :]) & (-2 * half)
    tl.store(to + place, bits.to(tl.float32, bitcast=True).to(tl.bfloat16), mask=both)


_sum: Any = triton.jit(_add) if _THERE else None


def change(
    weight: Tensor, a: Tensor, b: Tensor, scale: float, multiplier: int, bits: int
) -> Tensor:
    """W + s B A in bfloat16, rounded by the thresholds of `conv_weight.spread_over`.

    Args:
        weight: W (out, in) in bfloat16, contiguous.
        a, b: A (r, in) and B (out, r) in float32, contiguous.
        scale: s.
        multiplier: of a threshold with its column.
        bits: that rounding drops.
    """
    to = torch.empty_like(weight)
    out, in_ = weight.shape
    grid = (triton.cdiv(out, ROWS), triton.cdiv(in_, COLUMNS))
    half, rank = 2 ** (bits - 1), a.shape[0]
    share = 16 if rank <= 16 else 32
    _sum[grid](weight, a, b, to, out, in_, scale, multiplier, half, rank, share, ROWS, COLUMNS)
    return to
