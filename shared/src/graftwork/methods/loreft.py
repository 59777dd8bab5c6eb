"""LoReFT: low-rank edits of hidden states (Wu et al. 2024, arXiv 2404.03592).

    h <- h + R^T (W h + b - R h),   R R^T = I                              (paper, eq. 2)

at chosen positions behind each block; `graftwork.interventions` says which positions, and what is shared with DiReFT.
`orthonormal=False` is the paper's NoReFT (its appendix E): the same with R as it is.

Shapes: R, W `(r, d)`, b `(r,)`, d the width of the hidden states; untied `(2, r, d)` and `(2, r)`: the first positions'
edit and the last ones'. R trains as a plain matrix whose rows are made orthonormal at each call, from the first to the
last, in float64; the edit is computed in float32 at least, whatever the model's precision.

Initialisation: R random orthonormal. `start_at="zero"`: W = R and b = 0, the base bit for bit; R is then made of
signed powers of two, which orthonormalising returns unrounded on every device and after every cast, and W - R is
exactly 0. `start_at="paper"`: R from normal noise (uniform, too, for NoReFT), W and b uniform in +-1/sqrt(d), as the
public code: the edit is not zero; it takes out most of R h.

Departures: the zero start; those of `graftwork.interventions` (dropout, short prompts, no pad token). "Untied" is two
edits, as in the public code; the paper writes one for each position. W and b are kept in float32, in the code in
bfloat16. The classification head is `also_train`.
Refuses: merging; half-precision files (W and R would be rounded by more than they differ); a rank above the width of
the hidden states; at a call, positions that lie beyond a prompt. With where other than "all": a single layer is not
told where the prompt ends; blocks without batch_first=True. A layer whose weight a fused owner reads.

Invariants:
1. R R^T = I within 1e-5 after training steps, and for rows that are nearly parallel.
2. The start equals the base bit for bit; with start_at="paper" it does not, and is the code's.
3. R Phi(h) = W h + b, and Phi(h) - h lies in the rows of R.
4. At r = d, Phi(h) = R^T (W h + b); a rank of 0 or above d is refused.
5. With W = 0, Phi(Phi(h)) = Phi(h), and Phi(h) = h + R^T (b - R h).
6. Other positions keep their bits at the edited block, and so does all below it; the edited are those of the paper.
7. forward = the affine map by hand; merging is refused with the reason.
8. 2 r d + r parameters per block, twice that untied; the base has no gradient.
9. A reload gives the same bits; only R, W and b are stored.
10. Generated tokens are not edited: with and without a cache the same, under padding and beams too.
11. orthonormal=False is h + R^T (W h + b - R h) with R as it trains, from the same start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.algebra.geometry import Geometry
from graftwork.interventions import Intervention
from graftwork.methods.base import Params, setting, work_dtype
from graftwork.starts.orthonormal import exact_rows, orthonormal

CARD: dict[str, Any] = {
    "id": "loreft",
    "class": "LoReFT",
    "kind": "intervention",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["linear", "transposed_linear", "block"],
    "parameters": "r (2 out + 1)",
    "paper": "arXiv 2404.03592",
    "choose": "fewest numbers in a transformer; prompt edits cost nothing while it decodes",
}


@dataclass(frozen=True)
class LoReFT(Intervention):
    """Edit hidden states in a learned low-rank subspace.

    Args:
        start_at: "zero" starts at the base, "paper" as the public code.
        orthonormal: keep the rows of R orthonormal; NoReFT does not.
    """

    start_at: str = setting("zero", choices=("zero", "paper"))
    orthonormal: bool = True

    half_files: ClassVar[bool] = False
    id: ClassVar[str] = "loreft"

    @property
    def starts_at_base(self) -> bool:
        return self.start_at == "zero"

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        like = torch.empty((), dtype=work_dtype(weight), device=weight.device)
        made = [self._start(geo.out, like) for _ in range(1 if self.tied else 2)]
        joined = {k: torch.stack([t[k] for t in made]) for k in made[0]}
        return {k: t[0].clone() for k, t in joined.items()} if self.tied else joined

    def _start(self, d: int, like: Tensor) -> dict[str, Tensor]:
        if self.start_at == "zero":
            r = exact_rows(self.rank, like, d)
            return {"R": r, "W": r.clone(), "b": like.new_zeros(self.rank)}
        bound = d**-0.5
        w = torch.nn.init.uniform_(like.new_empty(self.rank, d), -bound, bound)
        b = torch.nn.init.uniform_(like.new_empty(self.rank), -bound, bound)
        if not self.orthonormal:
            return {"R": torch.nn.init.uniform_(torch.empty_like(w), -bound, bound), "W": w, "b": b}
        return {"R": orthonormal(torch.nn.init.normal_(torch.empty_like(w))), "W": w, "b": b}

    def edit(self, p: Params, h: Tensor) -> Tensor:
        r = orthonormal(p["R"]) if self.orthonormal else p["R"]
        return F.linear(F.linear(h, p["W"] - r, p["b"]), r.mT)
