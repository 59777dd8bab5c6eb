"""A softmax router over experts: gates by token, and the loss that keeps the experts in use.

    p = softmax(W_g x),   w_i = p_i / (sum of the k largest p) if p_i is among them, else 0,   L_bal = E sum_i f_i P_i

f_i is the share of tokens that have i among their `count` largest and P_i the mean of p_i. Everything is computed in
float32 at least, whatever the autocast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.errors import GraftError


def check_top_k(method: Any) -> None:
    """Refuse, at construction, a `top_k` above `experts`. Raises GraftError."""
    if method.top_k is not None and method.top_k > method.experts:
        what = f"{method.top_k} of {method.experts} experts cannot act at once"
        raise GraftError(f"{type(method).__name__}.top_k: {what}")


def refuses_merge(method: Any) -> str | None:
    """Why a mixture has no one weight, or `None` for a single expert, whose gate is constant."""
    if method.experts == 1:
        return None
    return f"{method.id} weighs its experts by the input, so there is no one weight (experts=1 has one)"


def start(rows: int, in_: int, like: Tensor) -> Tensor:
    """W_g or an A `(rows, in)`, uniform in +-1/sqrt(in), of `like`'s dtype and device."""
    bound = 1 / math.sqrt(in_)
    return torch.nn.init.uniform_(like.new_empty(rows, in_), -bound, bound)


def gates(
    x: Tensor,
    router: Tensor,
    keep: int,
    *,
    count: int = 1,
    balance: float = 0.0,
    leave: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """w `(..., experts)` of tokens `(..., in)`.

    Args:
        router: W_g `(experts, in)`.
        keep: k.
        count: how many experts a token counts for in f.
        balance: weight of L_bal.
        leave: takes balance * L_bal, where somebody collects it (`Call.leave`).
    """
    experts = router.shape[0]
    with torch.autocast(x.device.type, enabled=False):
        wide = torch.promote_types(router.dtype, torch.float32)
        odds = F.linear(x.to(wide), router.to(wide)).softmax(-1)
    if leave is not None and odds.numel() > 0:
        leave(balance * balance_loss(odds, _chosen(odds, count)))
    if keep == experts:
        return odds
    kept = odds * _chosen(odds, keep)
    return kept / kept.sum(-1, keepdim=True)


def balance_loss(odds: Tensor, chosen: Tensor) -> Tensor:
    """L_bal of p and 0-or-1 choices `(..., experts)`."""
    experts = odds.shape[-1]
    share, mean = (t.reshape(-1, experts).mean(0) for t in (chosen, odds))
    return experts * (share * mean).sum()


def _chosen(odds: Tensor, keep: int) -> Tensor:
    return torch.zeros_like(odds).scatter(-1, odds.topk(keep, -1).indices, 1.0)
