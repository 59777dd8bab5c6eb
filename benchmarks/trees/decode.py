"""Greedy answers in batches: padding on the left, a key-value cache, and edits at positions told where prompts lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import graftwork as gw
from benchmarks.trees.training import picked_logits
from graftwork_llm.batches import Example, collate


def answers(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, most: int, rows: int, device: str
) -> list[str]:  # fmt: skip
    """The texts of `greedy`."""
    found = greedy(model, tokenizer.eos_token_id, examples, most=most, rows=rows, device=device)
    return [tokenizer.decode(tokens) for tokens in found]


@torch.no_grad()
def greedy(
    model: nn.Module, end: int, examples: Sequence[Example], *, most: int, rows: int, device: str
) -> list[list[int]]:  # fmt: skip
    """The likeliest token, one by one, behind each prompt; without the end token.

    Args:
        model: the causal language model, grafted or not; a peft model's own `generate` is called.
        end: the token that ends an answer; it pads, too.
        most: tokens of an answer at the most.
        rows: prompts that are answered at once; prompts of like length go together.
    """
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt))
    out: list[list[int]] = [[] for _ in examples]
    for at in range(0, len(order), rows):
        chosen = order[at : at + rows]
        prompts = [examples[i].prompt for i in chosen]
        width = max(map(len, prompts))
        padding = [width - len(p) for p in prompts]
        ids = torch.tensor([[end] * n + list(p) for n, p in zip(padding, prompts, strict=True)])
        mask = (torch.arange(width) >= torch.tensor(padding).unsqueeze(1)).long()
        with gw.prompt(model, start=padding, end=width):
            found = model.generate(  # type: ignore[operator]
                input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=most,
                do_sample=False, use_cache=True, pad_token_id=end, eos_token_id=end,
            )  # fmt: skip
        for i, row in zip(chosen, found[:, width:].tolist(), strict=True):
            out[i] = row[: row.index(end)] if end in row else row
    return out


@torch.no_grad()
def forced(
    model: nn.Module, examples: Sequence[Example], *, pad: int, rows: int, device: str
) -> tuple[float, float]:
    """How often the answer given is the greedy one, and the mean loss, from one forward pass.

    The greedy answer is the given one exactly where every token of it is the likeliest behind those before it, so
    nothing has to be generated. `loss` is the mean over examples of the mean over an answer's tokens.
    """
    model.eval()
    right, loss = 0, 0.0
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]))
    for at in range(0, len(order), rows):
        batch = collate([examples[i] for i in order[at : at + rows]], pad, device)
        logits = picked_logits(model, batch)
        wrong = torch.zeros(len(batch.ends), device=device)
        wrong.index_add_(0, batch.rows, (logits.argmax(-1) != batch.targets).float())
        right += int((wrong == 0).sum())
        each = nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none")
        loss += float((each * batch.weights).sum()) * len(batch.ends)
    return right / len(examples), loss / len(examples)
