"""Matrices with orthonormal rows: kept so while they train, and starts that keeping them so returns bit for bit.

Rows of a Sylvester-Hadamard matrix of size 4^k are 2^k times orthonormal, with entries of +-1: divided by the power of
two, their products and sums are exact in every floating-point format. So `orthonormal` gives such a start back
unrounded, on every device and after every cast, and what was set equal to it stays equal.
"""

from __future__ import annotations

import torch
from torch import Tensor


def orthonormal(a: Tensor) -> Tensor:
    """The rows of `a` `(..., r, d)`, r <= d, made orthonormal from the first to the last (Gram-Schmidt).

    By two Cholesky factorisations of the Gram matrix in float64, so that rows that have come close to each other in
    training are no problem. Differentiable; moves the row space of `a` only where `a` itself moves it.
    """
    wide = torch.float32 if a.device.type == "mps" else torch.float64  # which has no float64
    with torch.autocast(a.device.type, enabled=False):
        rows: Tensor = a.to(wide)
        rows = rows / rows.norm(dim=-1, keepdim=True)
        for _ in range(2):
            # no check: it would wait for the device, and NaN must come out where NaN went in
            lower, _ = torch.linalg.cholesky_ex(rows @ rows.mT)
            rows = torch.linalg.solve_triangular(lower, rows, upper=False)
    return rows.to(a.dtype)


def hadamard_rows(which: Tensor, size: int) -> Tensor:
    """Rows of an orthogonal `size x size` matrix whose entries are 0 or +- a power of two.

    It has Hadamard blocks of 4^k on its diagonal, as large as fit, the largest first.

    Args:
        which: `(r,)` whole numbers below `size`.

    Returns:
        `(r, size)` in float32.
    """
    out = torch.zeros(len(which), size)
    begin = 0
    while begin < size:
        half = ((size - begin).bit_length() - 1) // 2  # the block is 4^half wide
        width = 4**half
        inside = (which >= begin) & (which < begin + width)
        common = (which[inside] - begin)[:, None] & torch.arange(width)[None]
        odd = torch.zeros_like(common)
        for bit in range(2 * half):
            odd ^= (common >> bit) & 1
        out[inside, begin : begin + width] = (1 - 2 * odd).float() / 2**half
        begin += width
    return out


def exact_rows(rank: int, like: Tensor, size: int) -> Tensor:
    """Random orthonormal rows `(rank, size)` that `orthonormal` returns bit for bit.

    Rows of the largest blocks come first, so that they spread over many features; columns are permuted and signed.
    Drawn by torch's global generator.

    Args:
        like: gives dtype and device; on the meta device nothing is drawn.
    """
    if like.is_meta:
        return like.new_empty(rank, size)
    widest = 4 ** ((size.bit_length() - 1) // 2)
    full = size // widest * widest
    order = torch.cat([torch.randperm(full), full + torch.randperm(size - full)])
    signs = 1.0 - 2.0 * torch.randint(2, (size,))
    rows = hadamard_rows(order[:rank], size)[:, torch.randperm(size)] * signs
    return rows.to(like)
