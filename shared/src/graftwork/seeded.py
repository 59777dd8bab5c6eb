"""Frozen random matrices that no file of ours holds: the same seed, generator and label give the same bits again.

Drawn on the CPU in float32 whatever the device and dtype of the base, so that a graft trained on one machine is
rebuilt on another. The passport holds the generator's name and a hash of what was drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: name of the stream; it changes when the numbers of a seed do
GENERATOR = "torch-cpu-mt19937-uniform-1"


def draw(shape: Sequence[int], bound: float, seed: int, label: str, like: Tensor) -> Tensor:
    """Uniform values in +-bound, another stream for every seed and label.

    Args:
        shape: of the result.
        bound: half the width of the interval.
        seed: the method's.
        label: tells the matrices of one seed apart.
        like: gives the device, and float64 if it is; on the meta device nothing is drawn.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    if like.is_meta:
        return torch.empty(shape, dtype=dtype, device="meta")
    word = hashlib.sha256(f"{GENERATOR} {seed} {label}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(word[:7], "big"))
    values = torch.rand(tuple(shape), generator=generator, dtype=torch.float32)
    return ((2 * values - 1) * bound).to(like.device, dtype)


def kaiming(shapes: Sequence[tuple[int, int]], seed: int, like: Tensor) -> list[Tensor]:
    """Kaiming-uniform matrices, one after the other from one stream: the numbers of Hugging Face PEFT's VeRA.

    Args:
        shapes: (rows, fan in) of each; the bound is sqrt(6 / fan in).
        seed, like: as for `draw`.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    if like.is_meta:
        return [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
    generator = torch.Generator().manual_seed(seed)
    made = []
    for shape in shapes:
        bound = math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(shape[1]))
        values = torch.empty(shape, dtype=torch.float32).uniform_(
            -bound, bound, generator=generator
        )
        made.append(values.to(like.device, dtype))
    return made


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors' names, shapes and values in float32; empty on the meta device."""
    out = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name]
        if t.is_meta:
            return ""
        out.update(f"{name} {tuple(t.shape)} ".encode())
        out.update(t.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return out.hexdigest()
