"""DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, arXiv 2402.09353).

    W = diag(m) (W0 + s B A) / ||W0 + s B A||                               (paper, eq. 5)

The norm is over each output channel's own weights (all axes but the output one) and is treated as a
constant in backward (paper, section 4.3). The output is computed as

    y + (m/n - 1) (y - b) + (m/n) s B A x,   n = ||W0 + s B A||,

so the frozen layer runs once.

Shapes: as LoRA, and m `(out,)`. Initialisation: as LoRA; m = ||W0||, so the start is the base.

Departures: a row whose norm is zero has no direction; there m/n is replaced by 1 and m gets no
gradient (the paper's form is NaN). With dropout the magnitude still scales the undropped base
output.
Refuses: as LoRA.

Invariants:
1. The start equals the base up to the rounding of m/n, which is exactly 1 in float32.
2. forward = merged forward = the equation by hand.
3. LoRA's count plus out.
4. With m held at the current row norm it equals LoRA.
5. The norm carries no gradient.
6. A zero row stays finite and is moved by B A alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graftwork.algebra.geometry import Geometry
from graftwork.algebra.linear import Linear
from graftwork.methods.base import Call, Delta, Factors, Params, work_dtype
from graftwork.methods.lora import LoRA

CARD: dict[str, Any] = {
    "id": "dora",
    "class": "DoRA",
    "kind": "low-rank",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers"],
    "parameters": "r (in/g k + out/g) + out",
    "paper": "arXiv 2402.09353",
    "choose": "LoRA falls short at a small rank and slower steps are affordable",
}


@dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA on the direction of each output channel's weights, and a learned magnitude."""

    id: ClassVar[str] = "dora"
    reads_weight: ClassVar[bool] = True

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        magnitude = geo.rows(weight.to(work_dtype(weight))).norm(dim=1)
        return {**super().start(geo, weight, bias), "magnitude": magnitude}

    def factors(self, geo: Geometry, p: Params, training: bool) -> Factors | None:
        plain = super().factors(geo, p, training)
        if plain is None or not isinstance(geo, Linear):
            return None
        return plain._replace(magnitude=p["magnitude"])

    def gain(self, geo: Geometry, p: Params, weight: Tensor) -> Tensor:
        """m / ||W0 + s B A|| per output channel, 1 on rows of norm zero, without the sum's matrix."""
        assert isinstance(geo, Linear)
        return _over(p["magnitude"], geo.changed_norms(weight, p["A"], p["B"], self.scale))

    def ratio(self, geo: Geometry, p: Params, weight: Tensor, delta: Tensor) -> Tensor:
        """m / ||W0 + delta|| per output channel, 1 on rows of norm zero."""
        with torch.no_grad():
            norm = geo.rows(weight.to(delta.dtype) + delta).norm(dim=1)
        return _over(p["magnitude"], norm)

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        # under autocast the norm would be rounded, and the start would not be the base
        with torch.autocast(c.y.device.type, enabled=False):
            if isinstance(geo, Linear):
                ratio = self.gain(geo, p, c.weight)
            else:
                with torch.no_grad():
                    delta = self.scale * geo.product(p["A"], p["B"])
                ratio = self.ratio(geo, p, c.weight, delta)
        # g stays wide: rounded to half precision it would cost as much as the whole layer does
        g = geo.channels(ratio, c.y)
        y = c.y if c.bias is None else c.y - geo.channels(c.bias.to(g.dtype), c.y)
        return (g - 1) * y + (self.scale * g) * self.branch(geo, p, c)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        delta = self.scale * geo.product(p["A"], p["B"])
        return Delta(
            weight=geo.scale_rows(weight + delta, self.ratio(geo, p, weight, delta)) - weight
        )


def _over(m: Tensor, norm: Tensor) -> Tensor:
    """m / norm, and 1, without a gradient to m, where the norm is zero."""
    empty = norm == 0
    m = torch.where(empty, m.detach(), m)
    return torch.where(empty, torch.ones_like(norm), m / torch.where(empty, 1.0, norm))
