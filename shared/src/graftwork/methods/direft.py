"""DiReFT: low-rank edits of hidden states without the projection (Wu et al. 2024, arXiv 2404.03592).

    h <- h + R^T (W h + b)                                                 (paper, eq. 3; there W2 = R, W1 = W)

at chosen positions behind each block; `graftwork.interventions` says which positions, and what is shared with LoReFT.

Shapes: R, W `(r, d)`, b `(r,)`, d the width of the hidden states; untied `(2, r, d)` and `(2, r)`.
Initialisation: `start_at="zero"`: R uniform in +-1/sqrt(d), W = 0 and b = 0: the start is the base.
`start_at="paper"`: W and b uniform too, as linear layers are in the public code: not the base.

Departures: the zero start; those of `graftwork.interventions`. In the public code this is `NodireftIntervention`;
what it calls DiReFT keeps R orthonormal: `orthonormal=True`, with R as LoReFT's. R has no bias of its own.
Refuses: merging; a rank above the width of the hidden states; at a call, positions that lie beyond a prompt. With
where other than "all": a single layer is not told where the prompt ends; blocks without batch_first=True. A layer
whose weight a fused owner reads.

Invariants:
1. The start equals the base bit for bit; with start_at="paper" it does not.
2. forward = h + R^T (W h + b) by hand, at the edited positions alone; merging is refused.
3. 2 r d + r parameters per block, twice that untied.
4. With W + R in the place of W and R orthonormal, LoReFT computes the same.
5. With orthonormal=True, R R^T = I after training steps.
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
    "id": "direft",
    "class": "DiReFT",
    "kind": "intervention",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["linear", "transposed_linear", "block"],
    "parameters": "r (2 out + 1)",
    "paper": "arXiv 2404.03592",
    "choose": "as LoReFT, without the time that orthonormal rows take",
}


@dataclass(frozen=True)
class DiReFT(Intervention):
    """Add a low-rank affine map of hidden states.

    Args:
        start_at: "zero" starts at the base, "paper" as the public code.
        orthonormal: keep the rows of R orthonormal.
    """

    start_at: str = setting("zero", choices=("zero", "paper"))
    orthonormal: bool = False

    id: ClassVar[str] = "direft"

    @property
    def starts_at_base(self) -> bool:
        return self.start_at == "zero"

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        d, groups = geo.out, () if self.tied else (2,)
        zero = torch.zeros((), dtype=work_dtype(weight), device=weight.device)
        bound = d**-0.5
        made = {
            "R": zero.new_zeros(*groups, self.rank, d),
            "W": zero.new_zeros(*groups, self.rank, d),
            "b": zero.new_zeros(*groups, self.rank),
        }
        for name in ("R", "W", "b") if self.start_at == "paper" else ("R",):
            torch.nn.init.uniform_(made[name], -bound, bound)
        if self.orthonormal:
            rows = [exact_rows(self.rank, zero, d) for _ in range(1 if self.tied else 2)]
            made["R"] = torch.stack(rows).reshape(made["R"].shape)
        return made

    def edit(self, p: Params, h: Tensor) -> Tensor:
        r = orthonormal(p["R"]) if self.orthonormal else p["R"]
        return F.linear(F.linear(h, p["W"], p["b"]), r.mT)
