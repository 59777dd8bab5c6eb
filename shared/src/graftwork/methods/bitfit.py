"""BitFit: only the biases train (Ben Zaken et al. 2022, arXiv 2106.10199).

    b = b0 + d                                                              (paper, section 3)

Shapes: d like the bias. Initialisation: zero: the start is the base.

Departures: the change is kept apart from the frozen bias, so the base stays bit-identical and
removal is exact. `new_biases=True` gives a bias to layers that have none (LLaMA has none at all).
Refuses: layers without a bias unless `new_biases`; embeddings (they have none).

Invariants:
1. The start equals the base bit for bit.
2. forward = merged forward = the layer with bias b0 + d.
3. out parameters per site.
4. A model without any bias is refused with the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.methods.base import Call, Delta, Method, Params, work_dtype

CARD: dict[str, Any] = {
    "id": "bitfit",
    "class": "BitFit",
    "kind": "bias",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers", "-embedding", "norm"],
    "parameters": "out",
    "paper": "arXiv 2106.10199",
    "choose": "few examples and a base with biases; the first baseline to beat",
}


@dataclass(frozen=True)
class BitFit(Method):
    """Train biases.

    Args:
        new_biases: also serve layers without a bias, which get a new one of zeros.
    """

    new_biases: bool = False

    id: ClassVar[str] = "bitfit"
    changes: ClassVar[str] = "weight"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        like = torch.zeros(geo.out, device=weight.device) if bias is None else bias
        return {"bias": torch.zeros_like(like, dtype=work_dtype(weight))}

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        if bias is None and not self.new_biases:
            return "BitFit: the layer has no bias; BitFit(new_biases=True) gives it one"
        return None

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        return geo.channels(p["bias"].to(c.y.dtype), c.y)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        return Delta(bias=p["bias"])
