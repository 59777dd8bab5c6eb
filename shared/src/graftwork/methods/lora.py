"""LoRA: low-rank adaptation (Hu et al. 2021, arXiv 2106.09685), with other papers' scales.

    W = W0 + s B A,   s = alpha / r                                       (paper, eq. 3)

    rsLoRA (2312.03732): s = alpha / sqrt(r);   SFed-LoRA (2603.08058): s = alpha sqrt(N / r), where N clients
    average their A and keep their B. N belongs there only if their first A are independent, or the server draws A with
    a standard deviation smaller by sqrt(N), `graftwork.federated.common_start`; from one common start of the usual
    size the first steps are N times too large.

Shapes: A `(r, in/g, *kernel)`, B `(out, r/g, 1...)`: A takes the layer's own geometry, B mixes
channels at each position. Where the groups g do not divide r, all groups share A and B is `(out,
r, 1...)`. An embedding sees one-hot tokens: A `(r, tokens)`, B `(features, r)`.

Initialisation: A uniform in +-1/sqrt(fan in) (Kaiming, a = sqrt 5), B zero: the start is the base.
On an embedding A is zero and B standard normal, because gradients reach A one token at a time.

Departures: none for linear layers; convolutions and embeddings as in Hugging Face PEFT, plus
dilation, padding modes, groups and transposed convolutions, which it lacks.
Refuses: without `any_rank`, a rank above a named layer's own in a new graft (files that hold one load): min(out, in k),
where the groups divide r their number times that of one group; Embedding(max_norm) and Embedding(sparse) (the algebra
does); dropout > 0 where a fused owner reads the weight without calling the layer, because dropout acts on an input
nobody passes in.

Invariants:
1. The start equals the base bit for bit.
2. forward = merged forward = W0 + s B A by hand.
3. r(in/g * prod(kernel)) + out * r/g parameters per site.
4. A has no gradient on the first step, B has.
5. rsLoRA at r = 1 equals LoRA at r = 1.
6. Dropout acts in training only, on the branch only.
7. One client is rsLoRA, step for step; four times the clients double the scale, four times the rank halves it.
8. (s, A, B) and (1, A, s B) are one function, and gradient descent steps differ; clients with other B merge to others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.algebra.geometry import Geometry
from graftwork.algebra.linear import Embedding
from graftwork.cards import expand_kinds
from graftwork.methods.base import (
    Call,
    Delta,
    Factors,
    Method,
    Params,
    dropped,
    rank_above,
    setting,
    work_dtype,
)

CARD: dict[str, Any] = {
    "id": "lora",
    "class": "LoRA",
    "kind": "low-rank",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers"],
    "parameters": "r (in/g k + out/g)",
    "paper": "arXiv 2106.09685; rsLoRA arXiv 2312.03732; SFed-LoRA arXiv 2603.08058",
    "choose": "the default: every layer kind, the fastest forms, exchange with peft",
}


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank adaptation.

    Args:
        rank: r, the width of the update.
        alpha: numerator of the scale; `None` means alpha = rank, that is s = 1.
        rslora: divide by sqrt(rank) instead of rank.
        dropout: probability of zeroing an input element of the branch in training.
        clients: N, how many clients of a federation average A: the scale is alpha sqrt(N / rank). It is
            part of the trained change, so it stays the same from round to round. Unequal weights p make it
            1 / sum p^2, `graftwork.federated.effective_clients`.
    """

    rank: int = setting(8, low=1)
    alpha: float | None = None
    rslora: bool = False
    dropout: float = setting(0.0, low=0.0, high=0.999)
    clients: float | None = setting(None, low=1)

    id: ClassVar[str] = "lora"
    changes: ClassVar[str] = "weight"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = tuple(k for k in layer_kinds if k != "embedding")

    @property
    def scale(self) -> float:
        """s of the equation."""
        alpha = float(self.rank if self.alpha is None else self.alpha)
        if self.clients is not None:
            return alpha * math.sqrt(self.clients / self.rank)
        return alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def refuses_rank(self, geo: Geometry) -> str | None:
        return rank_above(self, geo.largest_rank(self.rank))

    def refuses_fused(self, geo: Geometry) -> str | None:
        if self.dropout > 0:
            return "LoRA.dropout > 0 cannot act on a layer that is never called; set it to 0 there"
        return super().refuses_fused(geo)

    def dense_pays(self, geo: Geometry) -> bool:
        # A's k^n kernel makes the branch cost rank/out of the layer three times over, at a width that
        # convolutions run badly at; the product costs one weight gradient more, once
        narrow = geo.out <= 16 * self.rank
        return self.dropout == 0 and math.prod(geo.kernel) > 1 and narrow

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        a_shape, b_shape = geo.factor_shapes(self.rank)
        a = torch.zeros(a_shape, dtype=work_dtype(weight), device=weight.device)
        b = torch.zeros(b_shape, dtype=a.dtype, device=a.device)
        if isinstance(geo, Embedding):
            torch.nn.init.normal_(b)
        else:
            bound = 1 / math.sqrt(max(1, a[0].numel()))
            torch.nn.init.uniform_(a, -bound, bound)
        return {"A": a, "B": b}

    def factors(self, geo: Geometry, p: Params, training: bool) -> Factors | None:
        if self.dropout > 0 and training:
            return None
        return Factors(p["A"], p["B"], self.scale)

    def dropped_factors(self, geo: Geometry, p: Params) -> tuple[Factors, float] | None:
        own = type(self).change is LoRA.change and type(self).branch is LoRA.branch
        if not own or isinstance(geo, Embedding):
            return None
        return Factors(p["A"], p["B"], self.scale), self.dropout

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        return self.branch(geo, p, c, self.scale)

    def branch(self, geo: Geometry, p: Params, c: Call, scale: float = 1.0) -> Tensor:
        """`B (scale A x)`: scaled where it is r channels wide, which is cheaper and rounds less."""
        a, b = p["A"].to(c.y.dtype), p["B"].to(c.y.dtype)
        if isinstance(geo, Embedding):  # tokens cannot be dropped out, their features can
            h = F.dropout(geo.down(c.x, a, c.y), self.dropout, c.training)
        else:
            h = geo.down(dropped(c, self.dropout), a, c.y)
        return geo.up(h if scale == 1.0 else scale * h, b)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        return Delta(weight=self.scale * geo.product(p["A"], p["B"]))
