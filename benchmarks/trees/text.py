"""Examples as tokens: the chat form of a prompt, batches of like length, and which tokens count in the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SYSTEM = "You write behaviour trees for robots."
WINDOW = 8  # batches whose examples are sorted by length together


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


def encode(tokenizer: Any, prompt: str, answer: str | None = None) -> Example:
    """A prompt in the model's chat form, and the answer with its end; both tokenised apart, as when generating."""
    chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    first = tokenizer(text, add_special_tokens=False)["input_ids"]
    if answer is None:
        return Example(tuple(first))
    last = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return Example(tuple(first), (*last, tokenizer.eos_token_id))


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


def draws(lengths: Sequence[int], size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Indices of each step's examples: epochs in random order, like lengths together within `WINDOW` batches.

    Every batch is full: what an epoch has left over comes with the next one.
    """
    draw = np.random.default_rng(seed)
    waiting: list[int] = []
    ready: list[list[int]] = []
    for _ in range(steps):
        if not ready:
            while len(waiting) < size * WINDOW:
                waiting += [int(i) for i in draw.permutation(len(lengths))]
            taken, waiting = waiting[: size * WINDOW], waiting[size * WINDOW :]
            taken.sort(key=lambda i: lengths[i])
            batches = [taken[i : i + size] for i in range(0, len(taken), size)]
            ready = [batches[int(i)] for i in draw.permutation(len(batches))]
        yield ready.pop()


def waste(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """The share of padding in some batches."""
    used = sum(lengths[i] for batch in batches for i in batch)
    return 1 - used / sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
