"""What both sides of the comparison share: the model, the token ids, the rate and its schedule, by name."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.speed import llama
from graftwork.errors import GraftError

#: linears of a block that carry an adapter
LINEARS = llama.LINEARS
RANK, RATE = 16, 2e-4


@dataclass(frozen=True)
class Setting:
    """Sizes of the model and of a batch.

    Args:
        layers, hidden, vocabulary: of the decoder; its MLP is four times as wide, and a key head serves four query
            heads.
        batch, tokens: sequences of a batch, and their length.
        dtype: of the frozen base; the factors are float32 unless a peft setting says otherwise.
    """

    layers: int
    hidden: int
    vocabulary: int
    batch: int
    tokens: int
    dtype: str

    @property
    def words(self) -> str:
        """The sizes as a person reads them."""
        model = f"{self.layers} layers of {self.hidden}, vocabulary {self.vocabulary:,}"
        return f"{model}, {self.batch} x {self.tokens} tokens, {self.dtype}"


SETTINGS = {
    "llama": Setting(16, 2048, 32000, 4, 2048, "bfloat16"),
    "small": Setting(4, 256, 4096, 4, 128, "float32"),
    "tiny": Setting(2, 64, 128, 2, 16, "float32"),
}


def setting(name: str) -> Setting:
    """The setting of this name.

    Raises:
        GraftError: there is none.
    """
    if name not in SETTINGS:
        raise GraftError(f"setting {name!r}: there are {', '.join(SETTINGS)}")
    return SETTINGS[name]


def base(s: Setting, device: str) -> nn.Module:
    """The frozen base, its weights drawn from a seed on the device; the same in every process there."""
    sizes = argparse.Namespace(
        layers=s.layers, hidden=s.hidden, vocabulary=s.vocabulary, tokens=s.tokens, device=device
    )
    return llama.decoder(sizes, getattr(torch, s.dtype))


def checksum(tensors: dict[str, Tensor]) -> str:
    """A word that differs where names, shapes or values differ, cheaply: sums and a few values in float64."""
    parts = []
    for name, t in sorted(tensors.items()):
        flat = t.detach().reshape(-1)
        total, some = float(flat.double().sum()), flat[:: max(1, flat.numel() // 7)].tolist()
        parts.append(f"{name} {tuple(t.shape)} {total!r} {some}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write_tokens(path: Path, s: Setting, steps: int, seed: int = 0) -> None:
    """Store `steps` batches of token ids, `(steps * batch, tokens)` int64.

    A token is followed by one that it determines three times out of four, and by a draw with frequencies 1 / rank
    else: something that a model can learn in 200 steps, so that loss curves can differ.
    """
    draw = torch.Generator().manual_seed(seed)
    frequency = 1 / torch.arange(1, s.vocabulary + 1, dtype=torch.float64)
    count = steps * s.batch
    free = torch.multinomial(frequency, count * s.tokens, replacement=True, generator=draw)
    free = free.view(count, s.tokens)
    follows = torch.rand(count, s.tokens, generator=draw) < 0.75
    after = torch.randperm(s.vocabulary, generator=draw)
    ids = free.clone()
    for at in range(1, s.tokens):
        ids[:, at] = torch.where(follows[:, at], after[ids[:, at - 1]], free[:, at])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"ids": ids}, path)


def read_tokens(path: Path) -> Tensor:
    """The token ids of a file that `write_tokens` wrote."""
    return load_file(path)["ids"]
