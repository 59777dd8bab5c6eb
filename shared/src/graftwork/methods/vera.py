"""VeRA: vector-based random matrix adaptation (Kopiczko et al. 2023, arXiv 2310.11454).

    W = W0 + diag(b) B diag(d) A                                            (paper, eq. 2)

A and B are random, frozen and the same for all layers; only the two vectors train. They are drawn at the largest shape
among the graft's layers, and a layer uses their upper left corner, as in Hugging Face PEFT, whose numbers they are
too, bit for bit. No file of ours holds them: the seed draws them again, and the passport holds their hash.

Shapes: A `(r, width_in)` and B `(width_out, r)`, cut to `(r, in/g k)` and `(out, r/g)` and read as LoRA's A `(r, in/g,
*kernel)` and B `(out, r/g, 1...)`; d `(r,)`, b `(out,)`. Initialisation: b zero, d 0.1: the start is the base. A and B
uniform in +-sqrt(6 / width_in) and +-sqrt(6 / r) (Kaiming, section 3.3), the widths of the whole matrices.

Departures: none on linear layers; convolutions as in LoRA. A graft whose sites take several settings shares among the
sites of each. In memory every site keeps its corner. r may be above a layer's own rank: d weighs random directions, and
r costs one number each.
Refuses: a layer wider than the shared matrices, where `width_in` or `width_out` is given or a loaded graft has
it; dropout > 0 where a fused owner reads the weight without calling the layer, because dropout acts on an input
nobody passes in; embeddings.

Invariants:
1. The start equals the base bit for bit; b alone has a gradient on the first step.
2. forward = merged forward = W0 + diag(b) B diag(d) A by hand.
3. out + r parameters per site; A and B are in no file, and never train.
4. All layers use corners of the same two matrices, and another seed gives others.
5. b = 0 is the base; the change is linear in b and in d.
6. Dropout acts in training only, on the branch only.
7. The matrices are those that Hugging Face PEFT draws from the same key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork import seeded
from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.methods.base import (
    Call,
    Delta,
    Factors,
    Method,
    Params,
    setting,
    work_dtype,
)

CARD: dict[str, Any] = {
    "id": "vera",
    "class": "VeRA",
    "kind": "shared random",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers", "-embedding"],
    "parameters": "out + r",
    "paper": "arXiv 2310.11454",
    "choose": "very many adapters of one base: two vectors per layer",
}


@dataclass(frozen=True)
class VeRA(Method):
    """Two trained vectors around two frozen random matrices that all layers share.

    Args:
        rank: r.
        d_initial: where d starts.
        seed: draws A and B; Hugging Face PEFT's `projection_prng_key`.
        dropout: probability of zeroing an input element of the branch in training.
        width_in, width_out: sizes of the shared matrices; `None` takes the largest among the graft's layers.
    """

    rank: int = setting(256, low=1)
    d_initial: float = 0.1
    seed: int = setting(0, low=0, high=2**63 - 1)
    dropout: float = setting(0.0, low=0.0, high=0.999)
    width_in: int | None = setting(None, low=1, high=2**20)
    width_out: int | None = setting(None, low=1, high=2**20)

    id: ClassVar[str] = "vera"
    changes: ClassVar[str] = "weight"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds

    def fitted(self, geometries: Sequence[Geometry]) -> Method:
        return replace(
            self,
            width_in=self.width_in or max(map(fan_in, geometries)),
            width_out=self.width_out or max(geo.out for geo in geometries),
        )

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        for name, have, needs in (
            ("width_in", self.width_in, fan_in(geo)),
            ("width_out", self.width_out, geo.out),
        ):
            if have is not None and have < needs:
                return f"a layer wider than the shared matrices: VeRA.{name} is {have}, it needs {needs}"
        return None

    def refuses_fused(self, geo: Geometry) -> str | None:
        if self.dropout > 0:
            return "VeRA.dropout > 0 cannot act on a layer that is never called; set it to 0 there"
        return super().refuses_fused(geo)

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        b = torch.zeros(geo.out, dtype=work_dtype(weight), device=weight.device)
        return {"b": b, "d": b.new_full((self.rank,), self.d_initial)}

    def seeded(self, geo: Geometry, weight: Tensor) -> dict[str, Tensor]:
        a_shape, b_shape = geo.factor_shapes(self.rank)
        wide, high = self.width_in or fan_in(geo), self.width_out or geo.out
        a, b = seeded.kaiming([(self.rank, wide), (high, self.rank)], self.seed, weight)
        a, b = a[:, : fan_in(geo)].reshape(a_shape), b[: geo.out, : b_shape[1]].reshape(b_shape)
        return {"A": a.clone(), "B": b.clone()}

    def scaled(self, p: Params) -> tuple[Tensor, Tensor]:
        """diag(d) A and diag(b) B, in A's and B's shapes."""
        a, b = p["A"], p["B"]
        d, gain = p["d"].reshape(-1, *[1] * (a.dim() - 1)), p["b"].reshape(-1, *[1] * (b.dim() - 1))
        return d * a, gain * b

    def factors(self, geo: Geometry, p: Params, training: bool) -> Factors | None:
        return None if self.dropout > 0 and training else Factors(*self.scaled(p), 1.0)

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        a, b = (t.to(c.y.dtype) for t in self.scaled(p))
        return geo.lowrank(F.dropout(c.x, self.dropout, c.training), a, b, c.y)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        return Delta(weight=geo.product(*self.scaled(p)))


def fan_in(geo: Geometry) -> int:
    """Entries of the weight that one output reads."""
    return geo.group_shape[1] * math.prod(geo.kernel)
