"""Norm-affine tuning: scale, shift and running statistics of the norms train (Frankle et al. 2021,
arXiv 2003.00152 for batch norm; Zhao et al. 2024, arXiv 2312.11420 for layer norm).

    y = gamma * (x - mean) / sqrt(var + eps) + beta, with gamma and beta free

The graft owns a copy of each norm: affine tensors train, and running statistics (batch norm) move
in training as usual, inside the copy. `off()` and removal give back the frozen norm with its own
statistics.

Shapes and initialisation: those of the norm itself: the start is the base (in eval mode; in
training mode a batch norm normalises by the batch, as fine-tuning it would).

Departures: running statistics belong to the graft (papers say nothing of saving them; peft loses
them).
Refuses: norms without affine tensors and without statistics, which have nothing to train.
Merging puts the copy's tensors in the norm's place; unmerging puts the old ones back.

Invariants:
1. In eval mode the start equals the base bit for bit.
2. forward = merged forward = the norm with the new affine tensors and statistics.
3. 2 out parameters per norm.
4. off() and remove() give back the base's statistics, bit for bit, after training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graftwork.cards import expand_kinds
from graftwork.methods.base import Method

CARD: dict[str, Any] = {
    "id": "norm_affine",
    "class": "NormAffine",
    "kind": "norm",
    "changes": "module",
    "mergeable": True,
    "layer_kinds": ["norm"],
    "parameters": "2 out",
    "paper": "arXiv 2003.00152; arXiv 2312.11420",
    "choose": "a shift of statistics: another scanner, style or domain",
}


@dataclass(frozen=True)
class NormAffine(Method):
    """Train the affine part and the statistics of normalisation layers."""

    id: ClassVar[str] = "norm_affine"
    changes: ClassVar[str] = "module"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds
