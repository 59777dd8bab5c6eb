"""The training loss: soft Dice plus cross-entropy, written so that it is deterministic on a GPU.

Partial labels. In a case where the organs U are not annotated, a voxel labelled background may lie in any
of them. The marginal loss (Shi et al., Medical Image Analysis 70, 2021, arXiv 2007.03868, section 3.2;
the same merge as Fang and Yan, IEEE TMI 39, 2020) scores what the annotation does tell: with class
probabilities p it uses

    q_0 = p_0 + sum of p_k over U,    q_k = p_k for annotated k,    q_k left out for k in U

in the cross-entropy, and in the Dice the annotated organs alone. Moving probability between background
and an organ of U leaves every q as it is: the loss has no opinion on it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dice_ce(logits: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean cross-entropy plus one minus the mean soft Dice of the non-background classes.

    `logits` (N, C, ...) of any float type; `label` (N, ...) integers in [0, C); `known` (N, C) booleans:
    which classes are annotated in each case, background always (None: all). Both terms come from one
    log-softmax and a one-hot label: torch's own cross-entropy has no deterministic 3D kernel on CUDA.
    Soft Dice is taken over the batch (2 |p y| + 1) / (|p| + |y| + 1), so an absent class costs little; an
    organ's Dice runs over the cases where it is annotated, and an organ annotated in none has no term.
    """
    log_p = torch.log_softmax(logits.float(), 1)
    classes = torch.arange(logits.shape[1], device=label.device)
    truth = (label.unsqueeze(1) == classes.reshape(1, -1, *[1] * (label.ndim - 1))).to(log_p.dtype)
    if known is None:
        cross_entropy = -(log_p * truth).sum(1).mean()
        p = log_p.exp()[:, 1:]
    else:
        log_q, truth, seen = _marginal(log_p, truth, known.to(log_p.device))
        cross_entropy = -(log_q * truth).sum(1).mean()
        p = log_q.exp()[:, 1:] * seen[:, 1:]
    truth = truth[:, 1:]
    axes = (0, *range(2, p.ndim))
    overlap = (p * truth).sum(axes)
    dice = (2 * overlap + 1) / (p.sum(axes) + truth.sum(axes) + 1)
    if known is None:
        return cross_entropy + 1 - dice.mean()
    counted = known[:, 1:].any(0).to(dice)
    return cross_entropy + ((1 - dice) * counted).sum() / counted.sum().clamp_min(1)


def _marginal(log_p: Tensor, truth: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log q (0 where a class is left out), the merged one-hot label, and which classes stay; (N, C, ...)."""
    seen = known.reshape(*known.shape, *[1] * (log_p.ndim - 2))
    merged = ~seen
    merged[:, 0] = True
    background = log_p.masked_fill(~merged, -torch.inf).logsumexp(1, keepdim=True)
    log_q = torch.cat([background, log_p[:, 1:].masked_fill(~seen[:, 1:], 0.0)], 1)
    unknown = (truth * merged).sum(1, keepdim=True)
    return log_q, torch.cat([unknown, truth[:, 1:] * seen[:, 1:]], 1), seen.to(log_p.dtype)
