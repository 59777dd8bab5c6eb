"""Small transformers for the experiments: blocks, a decoder of text, and an encoder of digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention of `(rows, positions, width)` with projections of its own for queries, keys and values."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.o(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """Tokens `(rows, n)` to logits `(rows, n, tokens)`, n at most `context`; the feed-forward network has `hidden`."""

    def __init__(
        self, tokens: int, width: int, depth: int, heads: int, context: int, hidden: int | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed, self.place = nn.Embedding(tokens, width), nn.Embedding(context, width)
        for table in (self.embed, self.place):
            nn.init.normal_(table.weight, std=0.02)
        blocks = [Block(width, heads, hidden or 4 * width, True) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        at = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.embed(x) + self.place(at))))


class Encoder(nn.Module):
    """Images `(n, 64)` of 8 x 8, each row a token behind a class token, to logits `(n, classes)`."""

    def __init__(self, width: int, depth: int, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(8, width), nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, 9, width))
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width, False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """`(n, width)` of the class token."""
        rows = self.embed(x.unflatten(-1, (8, 8)))
        h = torch.cat([self.token.expand(len(x), -1, -1), rows], 1) + self.place
        return self.norm(self.blocks(h)[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
