"""The base and its fine-tunings: a small causal transformer, or one from a folder; LoRA at a rank, or all weights.

The loss is on the whole text, question and answer, as in the paper; padding is masked by length and one end token
is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.contamination.text import Words
from graftwork.errors import GraftError

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FULL = "full"  # a tuning; another is LoRA's rank
FULL_RATE, LORA_RATE = 1e-3, 2e-3
FOLDER_FULL_RATE, FOLDER_LORA_RATE = 5e-5, 5e-4  # of a pretrained model from a folder


@dataclass(frozen=True)
class Size:
    """The small transformer and the numbers of examples."""

    width: int = 192
    layers: int = 4
    base: int = 5000
    base_epochs: int = 3
    train: int = 300
    group: int = 100
    batch: int = 32
    positions: int = 160


def blank(size: Size, seed: int) -> Any:
    """The transformer before it has read anything."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    heads = max(1, size.width // 32)
    config = LlamaConfig(
        vocab_size=len(Words()), hidden_size=size.width, intermediate_size=8 * size.width // 3,
        num_hidden_layers=size.layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=size.positions, bos_token_id=None, eos_token_id=0, pad_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def read_model(folder: Path) -> Any:
    """A causal language model of transformers in float32.

    Raises GraftError for a folder without one.
    """
    from graftwork.cli.bases import from_folder

    return from_folder(folder).float()


def read_tokenizer(folder: Path) -> Any:
    """Its tokenizer.

    Raises GraftError for a folder without one.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise GraftError(f"{folder}: holds no tokenizer ({error})") from None


def tuned(
    model: nn.Module, tuning: str, folder: bool
) -> tuple[gw.Graft | None, list[Tensor], float]:
    """What trains, and its rate: a graft in place, or for FULL all weights.

    Raises GraftError for a tuning that is neither FULL nor a rank.
    """
    if tuning == FULL:
        return None, list(model.parameters()), FOLDER_FULL_RATE if folder else FULL_RATE
    if not tuning.isdigit() or int(tuning) < 1:
        raise GraftError(f"tuning {tuning!r}: is {FULL!r} or a rank of LoRA")
    rank = int(tuning)
    graft = gw.graft(model, gw.LoRA(rank, alpha=2 * rank), sites=[f"*.{n}" for n in LINEARS])
    rate = FOLDER_LORA_RATE if folder else LORA_RATE
    return graft, list(graft.parameters()), rate


def fit(
    model: nn.Module,
    parameters: Sequence[Tensor],
    texts: Sequence[Sequence[int]],
    *,
    epochs: int,
    rate: float,
    batch: int,
    end: int,
    seed: int,
) -> float:
    """Train in place by AdamW, warm-up of a tenth and a cosine; the mean loss a token of the last epoch.

    Raises GraftError when the loss is no number any more.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.0)
    steps = epochs * math.ceil(len(texts) / batch)
    warm = max(1, steps // 10)

    def pace(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, pace)
    draw = np.random.default_rng(seed)
    model.train()
    total = torch.zeros((), device=device)
    count = 0
    for epoch in range(epochs):
        order = draw.permutation(len(texts))
        for at in range(0, len(order), batch):
            ids, labels, mask = collate([texts[i] for i in order[at : at + batch]], end)
            optimizer.zero_grad(set_to_none=True)
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(device)
            )
            loss.backward()
            optimizer.step()
            schedule.step()
            if epoch == epochs - 1:
                tokens = int((labels[:, 1:] >= 0).sum())
                total += loss.detach() * tokens
                count += tokens
    mean = float(total) / max(1, count)
    if not math.isfinite(mean):
        raise GraftError(f"the loss is {mean}; lower the rate")
    model.eval()
    return mean


def collate(texts: Sequence[Sequence[int]], end: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels (-100 on the padding) and mask (rows, width), one end token behind each text."""
    lengths = torch.tensor([len(t) + 1 for t in texts])
    width = int(lengths.max())
    ids = torch.tensor([[*t, *[end] * (width - len(t))] for t in texts])
    mask = torch.arange(width) < lengths.unsqueeze(1)
    return ids, ids.masked_fill(~mask, -100), mask.long()
