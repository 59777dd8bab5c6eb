"""The loss of a language model under a frozen head, without the logits of all tokens.

    loss = mean over tokens of  logsumexp(z) - z[label],   z = h W^T + b            (torch's cross entropy)
    dh   = (softmax(z) - onehot(label)) W / tokens

With n tokens and v words, plain autograd keeps z in the head's dtype and in float32, and their gradients: 12 n v bytes
in bfloat16. A frozen head has no gradient of its own, so dh can be made with the loss, a few tokens at a time: what is
kept for the backward pass is dh, n x features, and at most `CHUNK` logits exist at a time. The arithmetic is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from graftwork.algebra.recognise import plain_class
from graftwork.attach import grafts_of
from graftwork.errors import GraftError

#: logits that exist at a time: 128 MB in float32
CHUNK = 2**25


def linear_cross_entropy(
    hidden: Tensor,
    head: nn.Linear,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    chunk: int | None = None,
) -> Tensor:
    """`cross_entropy(head(hidden).float(), labels)` in a few rows at a time; `head` stays frozen.

    Args:
        hidden: (..., features), what the head reads; its tokens belong to `labels`, so shift both for next tokens.
        head: the frozen output layer, (vocabulary, features).
        labels: (...) int64, as `hidden` without its last dimension.
        ignore_index: labels that do not count.
        chunk: rows at a time; `None`: as many as make `CHUNK` logits.

    Returns:
        The mean over the labels that count, a float32 scalar (float64 if `hidden` is), NaN if none does. Its gradient
        goes to `hidden` alone; it has no second derivative.

    Raises:
        GraftError: a head that trains, carries an active graft or is no plain Linear; shapes that do not fit.
    """
    if plain_class(head) is not nn.Linear:
        raise GraftError(
            f"linear_cross_entropy: head is a {type(head).__name__}, not a torch.nn.Linear; "
            "take torch's cross_entropy of its logits"
        )
    site = grafts_of(head)
    trains = any(p is not None and p.requires_grad for p in head._parameters.values())
    if trains or (site is not None and site.active):
        raise GraftError(
            "linear_cross_entropy: the head trains or carries an active graft, so it has a gradient of its own; "
            "freeze it, or take torch's cross_entropy of its logits"
        )
    if hidden.shape[:-1] != labels.shape or hidden.shape[-1:] != (head.in_features,):
        raise GraftError(
            f"linear_cross_entropy: hidden {tuple(hidden.shape)} and labels {tuple(labels.shape)} do not fit a head of "
            f"{head.in_features} features; labels are hidden's shape without the last dimension"
        )
    if chunk is not None and chunk < 1:
        raise GraftError(f"linear_cross_entropy: chunk must be at least 1, not {chunk}")
    rows = chunk or max(1, CHUNK // head.out_features)
    weight, bias = head._parameters["weight"], head._parameters["bias"]
    loss: Tensor = _Chunked.apply(hidden, weight, bias, labels, ignore_index, rows)
    return loss


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Any, labels: Tensor, ignore: int, rows: int
    ) -> Tensor:
        h, target = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
        wide = torch.promote_types(h.dtype, torch.float32)
        counts = target != ignore
        share = counts.to(wide) / counts.sum()
        target = torch.where(counts, target, 0)
        dh = torch.empty_like(h) if ctx.needs_input_grad[0] else None
        loss = h.new_zeros((), dtype=wide)
        for at in range(0, len(h), rows):
            part = slice(at, at + rows)
            z = linear(h[part], weight, bias)
            half, z = z.dtype, z.to(wide)
            label = target[part].unsqueeze(1)
            total = z.logsumexp(1, keepdim=True)
            own = (total - z.gather(1, label)).squeeze(1)
            # where nothing counts the share is 0 / 0, and so is the mean
            loss += torch.where(counts[part], own, 0).mul(share[part]).sum()
            if dh is not None:
                g = z.sub_(total).exp_()
                g.scatter_add_(1, label, g.new_full((), -1.0).expand_as(label))
                g.mul_(share[part].unsqueeze(1))
                dh[part] = g.to(half) @ weight.to(half)
        ctx.save_for_backward(dh)
        ctx.shape = hidden.shape
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        (dh,) = ctx.saved_tensors
        # one dimension, not none: the factor is rounded with the product, not before it
        return (dh * g.view(1)).to(dh.dtype).view(ctx.shape), None, None, None, None, None
