"""MiLoRA: low-rank adaptation of the minor singular triplets (Wang et al. 2024, arXiv 2406.09044).

    W0 = U S V^T,   B0 = U_m (S_m / s)^1/2,   A0 = (S_m / s)^1/2 V_m^T      (paper, eq. 4 to 6)
    W = (W0 - s B0 A0) + s B A

where m are the r smallest singular values, and A and B start as A0 and B0. The weight stays untouched and the change
is computed as PiSSA's, s [B - B0, B0] [A; A - A0], which is exactly 0 at the start.

Shapes: as PiSSA. Initialisation: the r smallest triplets, r/g for each of g groups, by a full SVD.

Departures: the frozen branch in place of a changed weight; dropout and layer kinds as PiSSA.
Refuses: as PiSSA: a rank above the layer's own, min(out, in k) of a group; a rank that the groups do not divide;
weights that are not finite; alpha of 0 or below; half-precision files; dropout > 0 where the weight is read without
calling the layer; Embedding(max_norm) and Embedding(sparse).

Invariants:
1. The start equals the base bit for bit, and the weight is never written to.
2. forward = merged forward = W0 + s (B A - B0 A0) by hand.
3. s B0 A0 is what the truncated SVD of rank h - r leaves over (h the layer's rank), for every s.
4. LoRA's count, r (in/g k + out/g), per site; the frozen factors do not train.
5. At the full rank it starts as PiSSA does, the order of the triplets apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from graftwork.starts import svd
from graftwork.starts.residual import Residual

CARD: dict[str, Any] = {
    "id": "milora",
    "class": "MiLoRA",
    "kind": "low-rank",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers"],
    "parameters": "r (in/g k + out/g)",
    "paper": "arXiv 2406.09044",
    "choose": "what the base knows must stay: only minor singular directions change",
}


@dataclass(frozen=True)
class MiLoRA(Residual):
    """LoRA on the smallest singular triplets, the rest frozen."""

    id: ClassVar[str] = "milora"

    def triplets(self, w: Tensor, k: int) -> svd.Triplets:
        most = min(w.shape[1:])
        return svd.exact(w, range(most - k, most))
