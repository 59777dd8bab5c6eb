"""Prompts and answers as tokens: the chat form, rows padded on the right, and which tokens count in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """Token numbers of a prompt and of its answer, which ends with the end token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right, and where the answers' tokens are, so that no step waits for a device to say it.

    `ids` and `mask` `(rows, tokens)`; `ends` where each prompt ends. For each of the answers' n tokens: `targets`
    `(n,)`, the token; `places` `(n,)`, the position before it in the flattened rows, which predicts it; `rows` `(n,)`;
    `weights` `(n,)`, its share in the mean over rows of the mean over a row's answer.
    """

    ids: Tensor
    mask: Tensor
    ends: tuple[int, ...]
    targets: Tensor
    places: Tensor
    rows: Tensor
    weights: Tensor


def encode(tokenizer: Any, prompt: str, answer: str | None = None, *, system: str) -> Example:
    """A prompt in the model's chat form, and the answer with its end; both tokenised apart, as when generating.

    Args:
        tokenizer: of transformers; without a chat template the prompt is `system` and `prompt` as paragraphs.
        prompt: what the user says.
        answer: `None` where it is to be generated.
        system: what the model is told first.
    """
    first = tokenizer(chat_form(tokenizer, prompt, system), add_special_tokens=False)["input_ids"]
    if answer is None:
        return Example(tuple(first))
    last = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return Example(tuple(first), (*last, tokenizer.eos_token_id))


def chat_form(tokenizer: Any, prompt: str, system: str) -> str:
    """The text that an answer follows; a template that knows no system role gets it before the prompt."""
    if not getattr(tokenizer, "chat_template", None):
        return f"{system}\n\n{prompt}\n\n"
    from jinja2.exceptions import TemplateError

    user = {"role": "user", "content": prompt}
    both = {"role": "user", "content": f"{system}\n\n{prompt}"}
    settings = {"tokenize": False, "add_generation_prompt": True}
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "system", "content": system}, user], **settings
        )
    except TemplateError:
        text = tokenizer.apply_chat_template([both], **settings)
    return str(text)


def collate(examples: Sequence[Example], pad: int, device: str) -> Batch:
    """Rows padded on the right to the longest."""
    width, count = max(map(len, examples)), len(examples)
    ids = np.full((count, width), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, e in enumerate(examples):
        ids[row, : len(e)] = (*e.prompt, *e.answer)
        mask[row, : len(e)] = 1
    sizes = np.array([len(e.answer) for e in examples])
    rows = np.repeat(np.arange(count), sizes)
    starts = [row * width + len(e.prompt) - 1 for row, e in enumerate(examples)]
    places = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, sizes, strict=True)])
    weights = (1.0 / (count * sizes[rows])).astype(np.float32)
    targets = ids.reshape(-1)[places + 1]
    on = [torch.from_numpy(t).to(device) for t in (ids, mask, targets, places, rows, weights)]
    return Batch(on[0], on[1], tuple(len(e.prompt) for e in examples), *on[2:])
