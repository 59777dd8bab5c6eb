"""WeGeFT: a weight update that is generated from the frozen weight (Savadikar et al. 2025, arXiv 2312.00700).

    input form:   W = W0 (I + s phi^T psi),   y = W0 x + s (W0 phi^T) (psi x)          (s = alpha / r)
    output form:  W = (I + s phi^T psi) W0,   y = W0 x + s phi^T (psi W0) x

Two small linear maps read the weight and write the change: the input form edits what the layer reads, the output
form what it writes. On a convolution phi and psi mix channels at each position, a pair for each group.

Shapes: phi, psi `(r g, in/g)` in the input form, `(r g, out/g)` in the output form, r rows for each of g groups.
Initialisation: phi zero, psi uniform in +-1/sqrt(width) (Kaiming, a = sqrt 5): the start is the base.

With `shared`, the layers of a kind, those whose names end alike and whose widths agree, train one pair, which then
costs its parameters once: the authors' usual setting. Files hold it once for each layer.

Departures: by default each layer has a pair of its own. The output form changes the weight and not the bias, in the
forward too: in the public layer it transforms the layer's whole output, bias included, while merging changes the weight
alone, and its two maps do not compose there at all. Dropout acts on W0's entries, as in the public layer. Convolutions
and transposed convolutions come with the geometry. The product with W0 is computed at every call, out in r k
multiplications, whatever the batch; merge to be rid of it. In float32 a convolution that is not wide runs once, with
the changed weight.
Refuses: dropout > 0 where a fused owner reads the weight without calling the layer, because nothing says there
whether it trains; a rank above the layer's own, the smaller of a group's in and out; embeddings (one row of phi would
be as long as the table).

Invariants:
1. The start equals the base bit for bit, and phi alone has a gradient on the first step.
2. forward = merged forward = W0 (I + s phi^T psi), or (I + s phi^T psi) W0, by hand.
3. 2 r in (input form) or 2 r out (output form) parameters per site.
4. The change has at most rank r; its columns (input form) lie in the column space of W0, its rows (output form) in
   the row space.
5. W0 = 0 gives no change; W0 = I gives LoRA with B = phi^T and A = psi.
6. Dropout acts in training only, on the branch only.
7. A shared pair counts once, and its gradient is the sum of those of the layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.algebra.geometry import Geometry, split
from graftwork.cards import expand_kinds
from graftwork.methods.base import Call, Delta, Method, Params, rank_above, setting, work_dtype

CARD: dict[str, Any] = {
    "id": "wegeft",
    "class": "WeGeFT",
    "kind": "low-rank",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers", "-embedding"],
    "parameters": "2 r in; output form 2 r out",
    "paper": "arXiv 2312.00700",
    "choose": "one pair of matrices for all layers of a width",
}


@dataclass(frozen=True)
class WeGeFT(Method):
    """A low-rank edit of what a layer reads or writes, generated from its own weight.

    Args:
        rank: r.
        alpha: numerator of the scale; `None` means alpha = rank, that is s = 1.
        form: "input" multiplies W0 from the right, "output" from the left.
        dropout: probability of zeroing an entry of W0, where phi and psi read it, in training.
        shared: one pair for all layers of a kind, "q" of every block, say.
    """

    rank: int = setting(8, low=1)
    alpha: float | None = None
    form: str = setting("input", choices=("input", "output"))
    dropout: float = setting(0.0, low=0.0, high=0.999)
    shared: bool = False

    id: ClassVar[str] = "wegeft"
    reads_weight: ClassVar[bool] = True
    changes: ClassVar[str] = "weight"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds

    @property
    def scale(self) -> float:
        """s of the equation."""
        return 1.0 if self.alpha is None else float(self.alpha) / self.rank

    def shares(self, name: str, geo: Geometry) -> str | None:
        out, in_ = geo.group_shape
        width = in_ if self.form == "input" else out
        return f"{name.rpartition('.')[2]} {geo.groups} {width}" if self.shared else None

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        return rank_above(self, min(geo.group_shape))

    def refuses_fused(self, geo: Geometry) -> str | None:
        if self.dropout > 0:
            return (
                "WeGeFT.dropout > 0 cannot act on a layer that is never called; set it to 0 there"
            )
        return super().refuses_fused(geo)

    def dense_pays(self, geo: Geometry) -> bool:
        # as in LoRA: the branch runs badly at a width of r, the changed weight costs one weight gradient more
        width = geo.in_ if self.form == "input" else geo.out
        return self.dropout == 0 and math.prod(geo.kernel) > 1 and width <= 16 * self.rank

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        out, in_ = geo.group_shape
        width = in_ if self.form == "input" else out
        shape = (self.rank * geo.groups, width)
        phi = torch.zeros(shape, dtype=work_dtype(weight), device=weight.device)
        bound = 1 / math.sqrt(max(1, width))
        return {"phi": phi, "psi": torch.nn.init.uniform_(torch.empty_like(phi), -bound, bound)}

    def written(self, geo: Geometry, p: Params, weight: Tensor) -> Tensor:
        """Input form: s W0 phi^T `(g, out/g, r, *kernel)`."""
        phi = split(self.scale * p["phi"], geo.groups)
        with torch.autocast(weight.device.type, enabled=False):
            return torch.einsum("goi...,gri->gor...", geo.canonical(weight), phi)

    def dense(self, geo: Geometry, p: Params, weight: Tensor) -> Tensor:
        """Input form: s W0 phi^T psi in the stored layout."""
        v, psi = self.written(geo, p, weight), split(p["psi"], geo.groups)
        with torch.autocast(weight.device.type, enabled=False):
            return geo.layout(torch.einsum("gor...,gri->goi...", v, psi)).contiguous()

    def factors_of(self, geo: Geometry, p: Params, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Output form: psi W0 `(r g, in/g, *kernel)` and s phi^T `(out, r)`, LoRA's A and B."""
        phi, psi = (split(p[k], geo.groups) for k in ("phi", "psi"))
        with torch.autocast(weight.device.type, enabled=False):
            a = torch.einsum("goi...,gro->gri...", geo.canonical(weight), psi)
        return a.flatten(0, 1), (self.scale * phi).transpose(1, 2).flatten(0, 1)

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        # the product with W0 is wide and rounded once
        weight = F.dropout(c.weight.to(p["phi"].dtype), self.dropout, c.training)
        if self.form == "output":
            a, b = (t.to(c.y.dtype) for t in self.factors_of(geo, p, weight))
            return geo.lowrank(c.x, a, b, c.y)
        if self.rank >= geo.group_shape[1]:  # r channels are no fewer than the layer's own
            return geo.run(c.x, self.dense(geo, p, weight).to(c.y.dtype), None, c.y)
        # psi mixes input channels at each position, then the layer runs on r g channels; padding commutes with that
        narrow = replace(geo, in_=len(p["psi"]))
        v = narrow.layout(self.written(geo, p, weight)).to(c.y.dtype).contiguous()
        return narrow.run(geo.up(c.x, p["psi"].to(c.y.dtype)), v, None, c.y)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        if self.form == "output":
            return Delta(weight=geo.product(*self.factors_of(geo, p, weight)))
        return Delta(weight=self.dense(geo, p, weight))
