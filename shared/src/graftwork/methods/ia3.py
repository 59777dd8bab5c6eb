"""IA3, also written (IA)^3: learned rescaling of channels (Liu et al. 2022, arXiv 2205.05638).

    output:  y = l * (W0 x + b)        input:  y = W0 (l * x) + b          (paper, section 3.3)

The paper scales the outputs of keys and values and the input of the second feed-forward layer; here
`scale` says which side, and per-site overrides mix them: `overrides={"*.fc2": {"scale": "input"}}`.

Shapes: l `(out,)` or `(in,)`. Initialisation: ones: the start is the base.

Departures: serves every layer kind; with no sites named, all layers' outputs are scaled.
Refuses: as LoRA.

Invariants:
1. The start equals the base bit for bit.
2. forward = merged forward = rows (and bias) or columns of W0 multiplied by l.
3. out or in parameters per site.
4. Scaling all inputs by c equals scaling all outputs by c on a layer without bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.methods.base import Call, Delta, Method, Params, setting, work_dtype

CARD: dict[str, Any] = {
    "id": "ia3",
    "class": "IA3",
    "kind": "scaling",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers"],
    "parameters": "out or in",
    "paper": "arXiv 2205.05638",
    "choose": "few examples, many tasks to keep: a vector per layer",
}


@dataclass(frozen=True)
class IA3(Method):
    """Rescale a layer's channels.

    Args:
        scale: "output" multiplies the layer's outputs (bias included), "input" its inputs.
    """

    scale: str = setting("output", choices=("output", "input"))

    id: ClassVar[str] = "ia3"
    reads_weight: ClassVar[bool] = True
    changes: ClassVar[str] = "weight"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = tuple(k for k in layer_kinds if k != "embedding")

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        size = geo.out if self.scale == "output" else geo.in_
        return {"scale": torch.ones(size, dtype=work_dtype(weight), device=weight.device)}

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        offset = p["scale"] - 1  # stays wide: y + (l - 1) y cancels where l is small
        if self.scale == "output":
            return geo.channels(offset, c.y) * c.y
        return geo.scale_in(c.x, offset, c.weight, c.y)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        offset = p["scale"] - 1
        if self.scale == "output":
            return Delta(geo.scale_rows(weight, offset), None if bias is None else bias * offset)
        return Delta(geo.scale_columns(weight, offset))
