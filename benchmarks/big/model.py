"""A 7B-shaped decoder with random weights, the adapters on it, and a meter of seconds and memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.speed.llama import LINEARS
from graftwork.errors import GraftError
from graftwork_runs import Row

RANK = 16
SITES = [f"*.{name}" for name in LINEARS]


@dataclass(frozen=True)
class Size:
    """Sizes of a decoder with as many key heads as query heads."""

    layers: int
    hidden: int
    mlp: int
    vocabulary: int
    heads: int


SIZES = {
    "7b": Size(32, 4096, 11008, 32000, 32),
    "1b": Size(16, 2048, 5504, 32000, 16),
    "tiny": Size(2, 64, 176, 256, 4),
}


def decoder(size: Size, device: str, positions: int = 2048) -> Any:
    """The frozen base in bfloat16, in eval mode, its weights drawn from a seed on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=size.hidden,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        vocab_size=size.vocabulary,
        max_position_embeddings=positions,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def ours(model: nn.Module, name: str = "default", seed: int = 0) -> gw.Graft:
    """LoRA on all linears of the blocks, moved off its start so that it changes the output."""
    graft = gw.graft(model, gw.LoRA(RANK), sites=SITES, seed=seed, name=name)
    stir(graft.parameters(), seed)
    return graft


def peft(model: nn.Module, seed: int = 0) -> Any:
    """The same adapter through peft; the model that it returns."""
    import peft as theirs

    config = theirs.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LINEARS)
    wrapped = theirs.get_peft_model(model, config)
    stir((p for n, p in wrapped.named_parameters() if "lora_" in n), seed)
    return wrapped.eval()


def stir(parameters: Any, seed: int) -> None:
    """Add small noise that a seed gives."""
    with torch.no_grad():
        for n, p in enumerate(parameters):
            draw = torch.Generator(device=p.device).manual_seed(1000 * seed + n)
            p.add_(0.01 * torch.randn(p.shape, generator=draw, device=p.device, dtype=p.dtype))


class Meter:
    """Measures single operations and keeps them as rows.

    Args:
        case: of the rows.
        cuda: whether the device's memory counts.
    """

    def __init__(self, case: str, cuda: bool) -> None:
        self.case, self.cuda = case, cuda
        self.rows: list[Row] = []

    def take(self, variant: str, operation: Callable[[], Any]) -> Any:
        """What `operation` returns; its seconds, the peak of memory, and what of it was more than before.

        An operation that fails becomes a row that says why, and `None`.
        """
        before = self._settle()
        begun = time.perf_counter()
        try:
            out = operation()
        except (RuntimeError, ImportError, GraftError, ValueError, OSError, TypeError) as error:
            note = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            self._add(Row(case=self.case, variant=variant, metric="seconds", value=None, note=note))
            return None
        if self.cuda:
            torch.cuda.synchronize()
        self.add(variant, "seconds", time.perf_counter() - begun, "s")
        if self.cuda:
            peak = torch.cuda.max_memory_allocated()
            self.add(variant, "peak", peak / 2**30, "GiB")
            self.add(variant, "more than before", (peak - before) / 2**30, "GiB")
        return out

    def add(self, variant: str, metric: str, value: float, unit: str | None = None) -> None:
        """One more row."""
        value = float(f"{value:.4g}")
        self._add(Row(case=self.case, variant=variant, metric=metric, value=value, unit=unit))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        shown = row.note if row.value is None else f"{row.value:g} {row.unit or ''}"
        print(f"{row.case}: {row.variant}: {row.metric} {shown}", flush=True)

    def _settle(self) -> int:
        gc.collect()
        if not self.cuda:
            return 0
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()


def same_bits(tensors: dict[str, Tensor], kept: dict[str, Tensor]) -> int:
    """How many elements of `kept` are not what they were, bit for bit."""
    return sum(
        int((tensors[n].view(torch.int16) != t.view(torch.int16)).sum()) for n, t in kept.items()
    )
