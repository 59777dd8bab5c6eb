"""A frozen causal language model as a tagger: a graft in its linears, and a linear head that belongs to the graft.

A causal model sees nothing of what follows a word, and a number is "persons on board" only by what follows it. So it
reads the dialogue twice and the words of the second reading are tagged (Springer et al., arXiv 2402.15449).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.maritime.slots.small import all_tags, in_turns
from benchmarks.maritime.slots.spans import TAGS, Labelled, Span, words
from benchmarks.trees.arms import LINEARS, RANK
from benchmarks.trees.text import draws
from benchmarks.trees.training import Plan
from graftwork.errors import GraftError
from graftwork_maritime.dialogues import Dialogue

RATE = 1e-3
SITES = [f"*.{name}" for name in LINEARS]


class Tagger(nn.Module):
    """The model without its vocabulary's head, and a head of tags that begins at zero."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__()
        self.base = base
        self.head = nn.Linear(width, len(TAGS))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Logits `(n, tags)` at `places` `(n,)` of the flattened rows `(batch, tokens)`."""
        hidden = self.base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self.head(hidden.flatten(0, 1).index_select(0, places).float())  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Reading:
    """Tokens of a dialogue, and the last token of each word of all turns."""

    ids: tuple[int, ...]
    places: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


def reading(tokenizer: Any, dialogue: Dialogue, times: int) -> Reading:
    """The dialogue's text, `times` over; the words are those of the last time."""
    text = ""
    ends: list[int] = []
    for _ in range(times):
        ends = []
        for turn in dialogue.turns:
            text += f"{turn.speaker.upper()}: "
            ends += [len(text) + end for _, end in words(turn.text)]
            text += f"{turn.text}\n"
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [start for start, _ in found["offset_mapping"]]
    places = np.searchsorted(starts, ends, side="left") - 1
    return Reading(tuple(found["input_ids"]), tuple(int(p) for p in places))


def collate(readings: Sequence[Reading], pad: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Rows padded on the right, their mask, and the words' places in the flattened rows."""
    width = max(map(len, readings))
    ids = torch.full((len(readings), width), pad)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(readings):
        ids[row, : len(one)] = torch.tensor(one.ids)
        mask[row, : len(one)] = 1
    places = torch.tensor([row * width + p for row, one in enumerate(readings) for p in one.places])
    return ids.to(device), mask.to(device), places.to(device)


@dataclass
class Grafted:
    """A trained tagger and its graft, which holds the head."""

    tagger: Tagger
    graft: gw.Graft
    tokenizer: Any
    device: str
    times: int
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def trained(self) -> int:
        """Parameters."""
        return sum(p.numel() for p in self.graft.parameters())

    @torch.no_grad()
    def extract(self, dialogues: Sequence[Dialogue], rows: int = 16) -> list[list[Span]]:
        """The spans of each dialogue; `rows` of similar length are read at a time."""
        self.tagger.eval()
        known = [reading(self.tokenizer, d, self.times) for d in dialogues]
        order = sorted(range(len(known)), key=lambda i: len(known[i]))
        found: dict[int, list[Span]] = {}
        for first in range(0, len(order), rows):
            chosen = order[first : first + rows]
            batch = collate([known[i] for i in chosen], self.tokenizer.pad_token_id, self.device)
            score, tag = (t.tolist() for t in self.tagger(*batch).softmax(-1).max(-1))
            at = 0
            for i in chosen:
                end = at + len(known[i].places)
                found[i] = in_turns(dialogues[i], tag[at:end], score[at:end])
                at = end
        return [found[i] for i in range(len(dialogues))]

    def save(self, folder: Path) -> None:
        """Write the graft's folder."""
        gw.save(self.graft, folder, overwrite=True)


def _bare(load: Callable[[], tuple[Any, Any]], device: str) -> tuple[Tagger, Any]:
    model, tokenizer = load()
    return Tagger(model.model, model.config.hidden_size).to(device), tokenizer


def read(load: Callable[[], tuple[Any, Any]], folder: Path, device: str, times: int) -> Grafted:
    """What `save` wrote, on the base that `load` gives with its tokenizer."""
    tagger, tokenizer = _bare(load, device)
    return Grafted(tagger, gw.load(tagger, folder), tokenizer, device, times)


def fit(
    load: Callable[[], tuple[Any, Any]], training: Sequence[Labelled], plan: Plan, seed: int, *,
    device: str, times: int = 2, method: bool = True, say: Callable[[str], None] = print,
) -> Grafted:  # fmt: skip
    """Train LoRA and the head, or the head alone where `method` is false.

    Args:
        load: gives the frozen causal model and its tokenizer.
        times: how often a dialogue is read; the last reading is tagged.

    Raises:
        GraftError: no training dialogue, or a loss that is no number.
    """
    if not training:
        raise GraftError("no training dialogue; make them with `prepare`")
    begun = time.perf_counter()
    tagger, tokenizer = _bare(load, device)
    torch.manual_seed(seed)
    sites = SITES if method else []
    graft = gw.graft(tagger, gw.LoRA(rank=RANK), sites=sites, also_train=["head"])
    made = Grafted(tagger, graft, tokenizer, device, times)
    readings = [reading(tokenizer, one.dialogue, times) for one in training]
    tags = [all_tags(one) for one in training]
    optimizer = torch.optim.AdamW(graft.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.pace)
    tagger.train()
    for step, rows in enumerate(draws([len(r) for r in readings], plan.batch, plan.steps, seed)):
        batch = collate([readings[i] for i in rows], tokenizer.pad_token_id, device)
        wanted = torch.tensor([tag for i in rows for tag in tags[i]], device=device)
        loss = nn.functional.cross_entropy(tagger(*batch), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(graft.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 24 or step == plan.steps - 1:
            made.losses.append(round(loss.item(), 5))
            if not math.isfinite(made.losses[-1]):
                raise GraftError(f"the loss is {made.losses[-1]} at step {step + 1}")
            say(f"step {step + 1} of {plan.steps}, loss {made.losses[-1]}")
    made.seconds = time.perf_counter() - begun
    return made
