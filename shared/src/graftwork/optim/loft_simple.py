"""LoFT (simple): LoFT without second-moment cross terms (Tastan et al. 2025, arXiv 2505.21289).

    v_B <- b2 v_B + (1 - b2) g~_B^2,    B <- (1 - lr w) B - lr m_hat / (sqrt(v_hat) + eps)

Turns, gradient scaling, transport of m, decay, saved state and refusals are LoFT's. The second moment is elementwise in
the factor and is not transported, and the step is taken in the factor's own space: less memory, nothing of the
weight's size, and no claim to follow AdamW on the weight or to be independent of how B A is split.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graftwork.optim.joint import State
from graftwork.optim.loft import LoFT


class LoFTSimple(LoFT):
    """LoFT with an elementwise second moment in factor space; takes what `LoFT` takes."""

    second = "exp_avg_sq"

    def empty_second(self, tall: Tensor) -> Tensor:
        return torch.zeros_like(tall)

    def carry(self, state: State, r: Tensor) -> None:
        state["exp_avg"].copy_(state["exp_avg"] @ r)

    def accumulate(self, state: State, scaled: Tensor, betas: tuple[float, float]) -> None:
        state["exp_avg"].mul_(betas[0]).add_(scaled, alpha=1 - betas[0])
        state["exp_avg_sq"].mul_(betas[1]).addcmul_(scaled, scaled, value=1 - betas[1])

    def direction(
        self, state: State, partner: Tensor, inverse: Tensor, group: dict[str, Any]
    ) -> Tensor:
        first, second = (1 - beta ** state["step"] for beta in group["betas"])
        root = (state["exp_avg_sq"] / second).sqrt_().add_(group["eps"])
        step: Tensor = (state["exp_avg"] / first).div_(root)
        return step
