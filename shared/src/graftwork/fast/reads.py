"""What a branch's backward pass takes from dy: s dy B and s dy^T p. Two products, or one pass over dy."""

from __future__ import annotations

from torch import Tensor


def both(
    dy: Tensor, b: Tensor, p: Tensor, scale: float, need_b: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """(s dy B, s dy^T p).

    Args:
        dy: (rows, out).
        b: (out, r).
        p: (rows, r), any row stride.
        scale: s.
        need_b: whether the second is wanted.
        out: where the first goes, (rows, r) of any row stride; fresh memory where `None`.
    """
    if out is None:
        dp = dy.mm(b) if scale == 1.0 else p.new_empty(p.shape).addmm_(dy, b, beta=0, alpha=scale)
    else:
        dp = out.addmm_(dy, b, beta=0, alpha=scale)
    db = None
    if need_b:
        db = dy.t().mm(p)
        if scale != 1.0:
            db.mul_(scale)
    return dp, db
