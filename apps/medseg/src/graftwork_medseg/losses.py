"""The training loss: soft Dice plus cross-entropy, written so that it is deterministic on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def dice_ce(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy plus one minus the mean soft Dice of the non-background classes.

    `logits` (N, C, ...) of any float type; `label` (N, ...) integers in [0, C). Both terms come from one
    log-softmax and a one-hot label: torch's own cross-entropy has no deterministic 3D kernel on CUDA.
    Soft Dice is taken over the batch (2 |p y| + 1) / (|p| + |y| + 1), so an absent class costs little.
    """
    log_p = torch.log_softmax(logits.float(), 1)
    classes = torch.arange(logits.shape[1], device=label.device)
    truth = (label.unsqueeze(1) == classes.reshape(1, -1, *[1] * (label.ndim - 1))).to(log_p.dtype)
    cross_entropy = -(log_p * truth).sum(1).mean()
    p = log_p.exp()[:, 1:]
    truth = truth[:, 1:]
    axes = (0, *range(2, p.ndim))
    overlap = (p * truth).sum(axes)
    dice = (2 * overlap + 1) / (p.sum(axes) + truth.sum(axes) + 1)
    return cross_entropy + 1 - dice.mean()
