"""Models of known probabilities, a tiny transformer and a tokenizer of characters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from graftwork_contamination import Item

LETTERS = "\0abcdefghijklmnopqrstuvwxyz .?0123456789"


class Letters:
    """One token a character; the first ends a text."""

    eos_token_id = 0
    pad_token_id = 0

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [LETTERS.index(c) for c in text]}

    def decode(self, tokens: list[int]) -> str:
        return "".join(LETTERS[t] for t in tokens)


class Table(nn.Module):
    """The next token's logits depend on the last token alone: row of a table."""

    def __init__(self, logits: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.table = nn.Parameter(logits.to(dtype))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> Any:
        assert attention_mask.shape[1] == input_ids.shape[1] + (past_key_values or 0)
        return SimpleNamespace(
            logits=self.table[input_ids], past_key_values=attention_mask.shape[1]
        )


def uniform(size: int = len(LETTERS)) -> Table:
    return Table(torch.zeros(size, size))


def certain(size: int = len(LETTERS), step: int = 1) -> Table:
    """After token t always t + step; the end token is never reached from `size - 1` other than by wrapping."""
    logits = torch.full((size, size), -1e4)
    for t in range(size):
        logits[t, (t + step - 1) % (size - 1) + 1] = 0
    return Table(logits)


def tiny(seed: int = 0, dropout: float = 0.0, positions: int = 128) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(LETTERS), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=positions,
        attention_dropout=dropout, initializer_range=0.3, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).train(dropout > 0)


def items(count: int, **more: Any) -> list[Item]:
    """`count` of each group, of different lengths, in words of three letters."""
    draw = torch.Generator().manual_seed(5)
    out = []
    for group in ("suspected", "clean"):
        for i in range(count):
            size = 3 * int(torch.randint(3, 6, (), generator=draw))
            text = "".join(
                LETTERS[c] for c in torch.randint(1, 27, (size,), generator=draw).tolist()
            )
            words = [text[at : at + 3] for at in range(0, size, 3)]
            out.append(Item(" ".join(words), group, f"{group}-{i}", **more))
    return out
