"""Which examples make a batch: epochs in random order, like lengths together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from graftwork_llm import batches

SYSTEM = "You write behaviour trees for robots."
encode = partial(batches.encode, system=SYSTEM)
WINDOW = 8  # batches whose examples are sorted by length together


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
            cut = [taken[i : i + size] for i in range(0, len(taken), size)]
            ready = [cut[int(i)] for i in draw.permutation(len(cut))]
        yield ready.pop()


def waste(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """The share of padding in some batches."""
    used = sum(lengths[i] for batch in batches for i in batch)
    return 1 - used / sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
