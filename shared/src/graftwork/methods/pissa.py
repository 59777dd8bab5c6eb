"""PiSSA: low-rank adaptation of the principal singular triplets (Meng et al. 2024, arXiv 2404.02948).

    W0 = U S V^T,   B0 = U_r (S_r / s)^1/2,   A0 = (S_r / s)^1/2 V_r^T      (paper, eq. 2 and 3)
    W = (W0 - s B0 A0) + s B A                                              (paper, eq. 4)

with A and B starting as A0 and B0. The paper overwrites the weight by W0 - s B0 A0; here the weight stays untouched,
A0 and B0 are kept frozen beside A and B, and the change is computed as

    s (B A - B0 A0) = s [B - B0, B0] [A; A - A0],

a product of rank 2r, each of whose terms is exactly 0 at the start: nothing cancels, so neither the start nor a small
change is lost in rounding, in half precision either. As a plain LoRA of rank 2r it goes to Hugging Face PEFT.

Shapes: A, A0 `(r, in/g, *kernel)`, B, B0 `(out, r/g, 1...)`, as LoRA. Initialisation: the r largest triplets, r/g for
each of g groups, by a randomised SVD with `niter` power iterations (paper, section 4, and appendix on the
fast SVD) or a full one; s = alpha / r as LoRA. Neither depends on a seed of the caller.

Departures: the frozen branch in place of a changed weight. Dropout acts on the input of the whole
change, so that training, too, starts at the base. Layers other than linear ones as in LoRA.
Refuses: a rank above the layer's own, min(out, in k) of a group; a rank that the groups do not divide; weights
that are not finite; alpha of 0 or below; half-precision files (A and A0 would be rounded by more than they differ);
dropout > 0 where a fused owner reads the weight without calling the layer, because dropout acts on an input
nobody passes in; Embedding(max_norm) and Embedding(sparse) (the algebra does).

Invariants:
1. The start equals the base bit for bit, and the weight is never written to.
2. forward = merged forward = W0 + s (B A - B0 A0) by hand.
3. s B0 A0 is the truncated SVD of the weight, for every s; A = A0 and B = B0 at the start.
4. LoRA's count, r (in/g k + out/g), per site; the frozen factors do not train.
5. The gradients are those of the paper's form, W_res + s B A, with W_res constant.
6. A reload decomposes nothing and gives every bit; merging and removing gives the base's bits back.
7. The randomised SVD's triplets agree with the full one's within the error that is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from graftwork.methods.base import setting
from graftwork.starts import svd
from graftwork.starts.residual import Residual

CARD: dict[str, Any] = {
    "id": "pissa",
    "class": "PiSSA",
    "kind": "low-rank",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers"],
    "parameters": "r (in/g k + out/g)",
    "paper": "arXiv 2404.02948",
    "choose": "LoRA converges too slowly: the principal directions train from the start",
}


@dataclass(frozen=True)
class PiSSA(Residual):
    """LoRA on the largest singular triplets, the rest frozen.

    Args:
        niter: power iterations of the randomised SVD; `None` takes a full one.
    """

    niter: int | None = setting(4, low=0, high=64)

    id: ClassVar[str] = "pissa"

    def triplets(self, w: Tensor, k: int) -> svd.Triplets:
        return svd.largest(w, k, self.niter)
