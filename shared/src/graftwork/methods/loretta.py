"""LoRETTA: low-rank factors stored as tensor trains (Yang et al. 2024, arXiv 2402.11417), the form LoRETTA_rep.

    W = W0 + s B A,   s = alpha / r
    A^T (in, r) and B^T (r, out) = reshape(U_1 U_2 ... U_d),   U_i of shape (rho_(i-1), k_i, rho_i)    (tensor train)

with rho_0 = rho_d = 1 and prod k_i the number of entries of the factor. LoRA's two factors are not trained but built,
at every call, from chains of small cores: a few hundred numbers where LoRA has thousands. It is no faster.

Shapes: A and B in LoRA's, A `(r, in/g, *kernel)`, B `(out, r/g, 1...)`; cores A0, A1, ... and B0, B1, ...
`(rho_(i-1), k_i, rho_i)`. The k_i are made of the prime factors of the number of entries, the largest first, each put
to the k that is the smallest so far; ascending, the largest next to last. 768 inputs at r = 8 give (8, 8, 12, 8), as
published; a prime width gives one long core and saves less. An inner rho_i is the setting, or all that its cut allows.

Initialisation: core entries normal with standard deviation sigma^(1/d) / sqrt(rho_i), so that those of a factor
have sigma = (in + out of it)^(-1/2); the last core of B is zero: the start is the base.

Departures: the zero core; the public code starts both factors at random, hence not at the base. It has a fixed table of
widths, here any width has cores; merging reads a weight there that the tensorised layer lacks, here it is exact. The
LayerNorms that the paper trains along are not part of it: name them in `also_train`, and count them. Convolutions as
in LoRA. The adapter form is in `loretta_adp`.
Refuses: dropout > 0 where a fused owner reads the weight without calling the layer, because dropout acts on an
input nobody passes in; a rank above the layer's own, min(out, in k) of a group; embeddings.

Invariants:
1. The start equals the base bit for bit, and the last core of B alone has a gradient on the first step.
2. forward = merged forward = W0 + s B A by hand, the factors built entry by entry.
3. sum rho_(i-1) k_i rho_i parameters per factor: 580 at 768 inputs, r = 8, rho = 5.
4. The change has at most rank r, and rho where a train is cut between its r and the rest, as the published shapes are;
   every unfolding of a train has at most rank rho.
5. With inner ranks at their maximum a tensor train is any matrix; with rho = 1 its entries are products of vectors'.
6. A's entries start with mean 0 and standard deviation sigma.
7. Dropout acts in training only, on the branch only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork import trains
from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.methods.base import (
    Call,
    Delta,
    Factors,
    Method,
    Params,
    rank_above,
    setting,
    work_dtype,
)
from graftwork.starts import svd

CARD: dict[str, Any] = {
    "id": "loretta",
    "class": "LoRETTA",
    "kind": "tensor train",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers", "-embedding"],
    "parameters": "sum rho k rho over the cores of A and B",
    "paper": "arXiv 2402.11417",
    "choose": "the smallest files of a change that merges",
}


@dataclass(frozen=True)
class LoRETTA(Method):
    """LoRA whose factors are tensor trains.

    Args:
        rank: r, the width of the update.
        tt_rank: rho, the inner ranks of the trains.
        cores: d, cores of a train; fewer where its size has fewer prime factors.
        alpha: numerator of the scale; `None` means alpha = rank, that is s = 1.
        dropout: probability of zeroing an input element of the branch in training.
    """

    rank: int = setting(8, low=1)
    tt_rank: int = setting(5, low=1)
    cores: int = setting(4, low=1, high=6)
    alpha: float | None = None
    dropout: float = setting(0.0, low=0.0, high=0.999)

    id: ClassVar[str] = "loretta"
    changes: ClassVar[str] = "weight"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds

    @property
    def scale(self) -> float:
        """s of the equation."""
        return 1.0 if self.alpha is None else float(self.alpha) / self.rank

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        return rank_above(self, (geo.groups if geo.splits(self.rank) else 1) * svd.width(geo))

    def refuses_fused(self, geo: Geometry) -> str | None:
        if self.dropout > 0:
            return (
                "LoRETTA.dropout > 0 cannot act on a layer that is never called; set it to 0 there"
            )
        return super().refuses_fused(geo)

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        like = torch.empty(0, dtype=work_dtype(weight), device=weight.device)
        out: dict[str, Tensor] = {}
        for name, (rows, *rest) in zip("AB", geo.factor_shapes(self.rank), strict=True):
            cores = trains.start(rows, math.prod(rest), self.cores, self.tt_rank, like)
            out |= {f"{name}{i}": core for i, core in enumerate(cores)}
        return {**out, f"B{len(cores) - 1}": torch.zeros_like(cores[-1])}

    def built(self, geo: Geometry, p: Params) -> tuple[Tensor, Tensor]:
        """A `(r, in/g, *kernel)` and B `(out, r/g, 1...)`."""
        (a_rows, *a_rest), (b_rows, b_width, *ones) = geo.factor_shapes(self.rank)
        a = trains.product([p[f"A{i}"] for i in range(len(p)) if f"A{i}" in p])
        b = trains.product([p[f"B{i}"] for i in range(len(p)) if f"B{i}" in p])
        a = a.reshape(-1, a_rows).mT.reshape(a_rows, *a_rest)
        return a, b.reshape(b_width, b_rows).mT.reshape(b_rows, b_width, *ones)

    def factors(self, geo: Geometry, p: Params, training: bool) -> Factors | None:
        return None if self.dropout > 0 and training else Factors(*self.built(geo, p), self.scale)

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        a, b = (t.to(c.y.dtype) for t in self.built(geo, p))
        h = geo.down(F.dropout(c.x, self.dropout, c.training), a, c.y)
        return geo.up(self.scale * h, b)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        return Delta(weight=self.scale * geo.product(*self.built(geo, p)))
