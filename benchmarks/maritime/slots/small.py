"""A small tagger from scratch: embedded words, their ends and shapes, dilated convolutions; minutes on a CPU."""

from __future__ import annotations

import math
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.maritime.slots.spans import TAGS, Labelled, Span, spans_of, tags_of, words
from benchmarks.trees.training import Plan
from graftwork.errors import GraftError
from graftwork_maritime.dialogues import SPEAKERS, Dialogue

RARE = 2  # words that are seen less often are unknown
BUCKETS = 2048  # of hashed word ends
DROPPED = 0.2  # of the words, in training, are made unknown; half of them with their ends
WIDTH, RATE = 96, 3e-3
DILATIONS = (1, 2, 4, 8)
REACH = sum(DILATIONS)
_SHAPES = ("lower", "Title", "UPPER", "figures", "mark")


class Features:
    """What the tagger sees of a word: itself, its first and last letters, its shape, who says it, in which turn."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = list(known)
        self._number = {word: n for n, word in enumerate(self.known, 1)}

    @classmethod
    def of(cls, dialogues: Iterable[Dialogue]) -> Features:
        """Knows the words that are said often enough."""
        seen = Counter(w for d in dialogues for t in d.turns for w in _said(t.text))
        return cls(sorted(w for w, n in seen.items() if n >= RARE))

    def __call__(self, dialogue: Dialogue) -> list[tuple[int, int, int, int, int, int]]:
        """A row for each word of all turns."""
        rows = []
        for place, turn in enumerate(dialogue.turns):
            for start, end in words(turn.text):
                word = turn.text[start:end]
                low = word.lower()
                rows.append((
                    self._number.get(low, 0), 1 + zlib.crc32(low[:3].encode()) % BUCKETS,
                    1 + zlib.crc32(low[-3:].encode()) % BUCKETS, _shape(word),
                    SPEAKERS.index(turn.speaker), min(place, 2),
                ))  # fmt: skip
        return rows


def _said(text: str) -> list[str]:
    return [text[start:end].lower() for start, end in words(text)]


def _shape(word: str) -> int:
    if not word[0].isalnum():
        return 4
    if any(c.isdigit() for c in word):
        return 3
    return 0 if word.islower() else 2 if word.isupper() and len(word) > 1 else 1


class Tagger(nn.Module):
    """Rows `(batch, words, 6)` of features to logits `(batch, words, tags)`; each sees `REACH` words to both sides."""

    def __init__(self, known: int) -> None:
        super().__init__()
        sizes = ((known + 1, 64), (BUCKETS + 1, 24), (BUCKETS + 1, 24), (5, 8), (3, 4), (3, 4))
        self.parts = nn.ModuleList(nn.Embedding(count, width) for count, width in sizes)
        self.into = nn.Linear(sum(width for _, width in sizes), WIDTH)
        self.layers = nn.ModuleList(
            nn.Conv1d(WIDTH, WIDTH, 3, padding=d, dilation=d) for d in DILATIONS
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in DILATIONS)
        self.out = nn.Linear(WIDTH, len(TAGS))
        self.drop = nn.Dropout(0.2)

    def forward(self, rows: Tensor, inside: Tensor) -> Tensor:
        """`inside` `(batch, words)`: false where a row is padded, so that no word sees its padding."""
        seen = torch.cat([part(rows[..., n]) for n, part in enumerate(self.parts)], -1)
        hidden = self.into(self.drop(seen))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            wide = torch.relu(norm(hidden)) * inside.unsqueeze(-1)
            hidden = hidden + self.drop(layer(wide.transpose(1, 2)).transpose(1, 2))
        return self.out(torch.relu(hidden))  # type: ignore[no-any-return]


@dataclass
class Small:
    """A trained tagger with its features."""

    features: Features
    tagger: Tagger
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def trained(self) -> int:
        """Parameters."""
        return sum(p.numel() for p in self.tagger.parameters())

    @torch.no_grad()
    def extract(self, dialogues: Sequence[Dialogue]) -> list[list[Span]]:
        """The spans of each dialogue."""
        self.tagger.eval()
        found = []
        for dialogue in dialogues:
            score, tag = self.tagger(*_padded([self.features(dialogue)]))[0].softmax(-1).max(-1)
            found.append(in_turns(dialogue, tag.tolist(), score.tolist()))
        return found

    def save(self, folder: Path) -> None:
        """Write weights and known words into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(
            {"known": self.features.known, "state": self.tagger.state_dict()}, folder / "tagger.pt"
        )

    @classmethod
    def load(cls, folder: Path) -> Small:
        """What `save` wrote."""
        raw: dict[str, Any] = torch.load(folder / "tagger.pt", weights_only=True)
        features = Features(raw["known"])
        made = cls(features, Tagger(len(features.known)))
        made.tagger.load_state_dict(raw["state"])
        return made


def in_turns(dialogue: Dialogue, tags: Sequence[int], scores: Sequence[float]) -> list[Span]:
    """Spans of the tags of all words, turn by turn."""
    found, at = [], 0
    for number, turn in enumerate(dialogue.turns, 1):
        end = at + len(words(turn.text))
        found += spans_of(turn.text, number, tags[at:end], scores[at:end])
        at = end
    return found


def all_tags(one: Labelled) -> list[int]:
    """The tags of all words of a dialogue."""
    return [
        tag
        for number, turn in enumerate(one.dialogue.turns, 1)
        for tag in tags_of(turn.text, [s for s in one.spans if s.turn == number])
    ]


def _padded(rows: Sequence[Sequence[tuple[int, ...]]]) -> tuple[Tensor, Tensor]:
    padded = nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)
    lengths = torch.tensor([len(r) for r in rows])
    return padded, torch.arange(padded.shape[1]) < lengths.unsqueeze(1)


def fit(
    training: Sequence[Labelled], plan: Plan, seed: int, say: Callable[[str], None] = print
) -> Small:
    """Train on the CPU.

    Raises:
        GraftError: no training dialogue, or a loss that is no number.
    """
    if not training:
        raise GraftError("no training dialogue; make them with `prepare`")
    begun = time.process_time()  # a busy neighbour does not count
    torch.manual_seed(seed)
    features = Features.of(one.dialogue for one in training)
    made = Small(features, Tagger(len(features.known)))
    rows = [features(one.dialogue) for one in training]
    tags = [torch.tensor(all_tags(one)) for one in training]
    optimizer = torch.optim.AdamW(made.tagger.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.pace)
    draw = torch.Generator().manual_seed(seed)
    order: list[int] = []
    made.tagger.train()
    for step in range(plan.steps):
        if len(order) < plan.batch:
            order += torch.randperm(len(training), generator=draw).tolist()
        chosen, order = order[: plan.batch], order[plan.batch :]
        seen, inside = _padded([rows[i] for i in chosen])
        hidden = torch.rand(seen.shape[:2], generator=draw)
        seen[..., 0][hidden < DROPPED] = 0
        seen[..., 1:3][hidden < DROPPED / 2] = 0
        wanted = nn.utils.rnn.pad_sequence([tags[i] for i in chosen], True, padding_value=-1)
        logits = made.tagger(seen, inside)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(made.tagger.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49 or step == plan.steps - 1:
            made.losses.append(round(loss.item(), 5))
            if not math.isfinite(made.losses[-1]):
                raise GraftError(f"the loss is {made.losses[-1]} at step {step + 1}")
            say(f"step {step + 1} of {plan.steps}, loss {made.losses[-1]}")
    made.seconds = time.process_time() - begun
    return made
