"""Log-probabilities of a prompt's tokens, its perplexity and its Min-K % score (Shi et al. 2024)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_contamination.parameters import check_k

TOKENS = 4096  # of a batch: under a gigabyte of float32 logits over 50,000 words


def perplexity(lp: Sequence[float]) -> float:
    """exp(-mean) of a prompt's log-probabilities (natural logarithm); inf where there is none.

    Raises GraftError for a NaN.
    """
    _check(lp)
    mean = math.fsum(lp) / len(lp) if len(lp) else -math.inf
    try:
        return math.exp(-mean)
    except OverflowError:
        return math.inf


def perplexity_score(lp: Sequence[float]) -> float:
    """1 / (1 + perplexity), in [0, 1]: higher speaks for memorisation; 0 where there is no log-probability."""
    return 1 / (1 + perplexity(lp))


def min_k(lp: Sequence[float], k: float = 20.0) -> float:
    """The mean of the lowest ceil(k % of all) log-probabilities, at least one; -inf where there is none.

    Raises GraftError for `k` outside (0, 100], or a NaN.
    """
    check_k(k)
    _check(lp)
    if not len(lp):
        return -math.inf
    count = max(1, math.ceil(k * len(lp) / 100 - 1e-9))
    return math.fsum(sorted(lp)[:count]) / count


def log_probs(
    model: nn.Module, prompts: Sequence[Sequence[int]], *, rows: int = 64, max_tokens: int = 256
) -> list[list[float]]:
    """log p(t_j | t_<j) for the tokens j = 2..T of each prompt, in float32 whatever the model computes in.

    Args:
        model: a causal language model as in transformers: called with `input_ids` and `attention_mask` of shape
            (rows, tokens), it gives `logits` of shape (rows, tokens, vocabulary).
        prompts: tokens of each.
        rows: prompts in a batch, padded on the right.
        max_tokens: where a prompt is cut.

    Raises:
        GraftError: an empty prompt, or NaN.
    """
    tokens = [list(p[:max_tokens]) for p in prompts]
    out: list[list[float]] = [[] for _ in tokens]
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    device = next(model.parameters()).device
    with torch.no_grad(), scoring(model):
        for chosen in _batches(order, tokens, rows):
            lengths = [len(tokens[i]) for i in chosen]
            if min(lengths) == 0:
                raise GraftError(f"prompt {chosen[0]}: has no token")
            width = max(lengths)
            ids = torch.tensor([tokens[i] + [0] * (width - len(tokens[i])) for i in chosen])
            mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
            with gw.prompt(model, end=lengths):
                logits = _logits(model, ids.to(device), mask.long().to(device))
            for row, i in enumerate(chosen):
                # one row at a time: float32 logits of a whole batch are gigabytes
                out[i] = _picked(logits[row, : lengths[row] - 1], tokens[i][1:], i)
    return out


@contextlib.contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Dropout and the like off in this block, and then each module as it was."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _batches(
    order: Sequence[int], tokens: Sequence[Sequence[int]], rows: int
) -> Iterator[list[int]]:
    """Prompts by rising length, at most `rows` and, padded, TOKENS in a batch."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == rows or (len(batch) + 1) * len(tokens[i]) > TOKENS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _logits(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    found: Any = model(input_ids=ids, attention_mask=mask, use_cache=False)
    logits: Tensor = found.logits
    return logits


def _picked(logits: Tensor, targets: Sequence[int], prompt: int) -> list[float]:
    if not targets:
        return []
    all_of_them = logits.float().log_softmax(-1)
    picked = all_of_them.gather(1, torch.tensor(targets, device=logits.device).unsqueeze(1))
    found: list[float] = picked.squeeze(1).tolist()
    if any(map(math.isnan, found)):
        raise GraftError(f"prompt {prompt}: the model's outputs are NaN; load it in float32")
    return found


def _check(lp: Sequence[float]) -> None:
    if any(math.isnan(x) for x in lp):
        raise GraftError("log-probabilities: one is NaN; load the model in float32")
