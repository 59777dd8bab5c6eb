"""DiaBlo: diagonal blocks of the weight are trained directly (Gurses et al. 2026, arXiv
2506.03230).

    W = W0 + blockdiag(D_1, ..., D_N)                                      (paper, section 3)

Shapes: D `(g, N, ceil(out/g/N), ceil(in/g/N), *kernel)`. A convolution's blocks lie over channels,
so the branch is a convolution with g N groups; this extension to kernels is ours. An embedding sees
one-hot tokens. Where N does not divide the channels the last block reaches into zero padding.

Initialisation: D = 0: the start is the base, and every block has its full gradient at once.

Departures: blocks that would lie wholly in the padding are left out (the public code keeps, counts
and saves them although they can never train). A layer with fewer than N channels on a side gets as
many blocks as its smaller side; the public code fails there. Inputs of any leading shape are
served. No merge in the base's low precision: the sum is taken in float32 and rounded once.
Refuses: as LoRA.

Invariants:
1. The start equals the base bit for bit and D's gradient is not zero.
2. The gradient of block i is the gradient of W's diagonal block i.
3. forward = merged forward = dense layer with the built matrix.
4. out in k / N parameters where N divides both sides; N = 1 is full fine-tuning of the matrix.
5. Off the blocks the merged change is exactly 0.
6. Permuting whole input blocks together with output blocks permutes D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.algebra.geometry import Geometry
from graftwork.algebra.linear import Embedding
from graftwork.cards import expand_kinds
from graftwork.methods.base import Call, Delta, Method, Params, setting, work_dtype

CARD: dict[str, Any] = {
    "id": "diablo",
    "class": "DiaBlo",
    "kind": "block-diagonal",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers"],
    "parameters": "out in/g k / N",
    "paper": "arXiv 2506.03230",
    "choose": "LoRA's cost without a product of factors, on every layer kind",
}


@dataclass(frozen=True)
class DiaBlo(Method):
    """Train the diagonal blocks of each weight.

    Args:
        blocks: N; more blocks, fewer parameters.
        dropout: probability of zeroing an input element of the branch in training (paper: 0.05).
    """

    blocks: int = setting(64, low=1)
    dropout: float = setting(0.0, low=0.0, high=0.999)

    id: ClassVar[str] = "diablo"
    changes: ClassVar[str] = "weight"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = tuple(k for k in layer_kinds if k != "embedding")

    def refuses_fused(self, geo: Geometry) -> str | None:
        if self.dropout > 0:
            return (
                "DiaBlo.dropout > 0 cannot act on a layer that is never called; set it to 0 there"
            )
        return super().refuses_fused(geo)

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        plan = geo.block_plan(self.blocks)
        shape = (geo.groups, plan.count, plan.rows, plan.cols, *geo.kernel)
        return {"D": torch.zeros(shape, dtype=work_dtype(weight), device=weight.device)}

    def diagonal(self, geo: Geometry, p: Params, training: bool) -> Tensor | None:
        return None if self.dropout > 0 and training else p["D"]

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        x = c.x if isinstance(geo, Embedding) else F.dropout(c.x, self.dropout, c.training)
        return geo.run_blocks(x, p["D"].to(c.y.dtype), geo.block_plan(self.blocks), c.y)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        return Delta(weight=geo.block_weight(p["D"], geo.block_plan(self.blocks)))
