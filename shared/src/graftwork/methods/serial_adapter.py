"""The serial bottleneck adapter (Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2021, arXiv 2005.00247).

    y = h + s (W_up act(W_down h + b_down) + b_up),   h = f(x)              (paper, figure 2)

f is the attention and the feed-forward block, before the skip is added (Houlsby), the feed-forward block alone
(Pfeiffer), or any single layer; of a convolution every position's channels are adapted alike. The parallel adapter,
which reads x in place of h, is AdaptFormer.

Shapes: down `(c, out)`, down_bias `(c,)`, up `(out, c)`, up_bias `(out,)`. Initialisation: down Kaiming uniform
(a = sqrt 5), all else zero: the start is the base.

Departures: up is zero, in the paper truncated normal noise of standard deviation 0.01. The LayerNorms that the paper
trains along are not part of it: name them in `also_train`, and count them. Convolutions are served too.
Refuses: merging (the branch is not linear); layers whose weight a fused owner reads without a call.

Invariants:
1. The start equals the base bit for bit; up and its bias alone have a gradient on the first step.
2. forward = the composition by hand, on convolutions at every position; merging is refused.
3. 2 c out + c + out parameters per site, whatever it reads.
4. Where the ReLU is open all is affine in h; s = 0 is the base.
5. Behind the identity it is AdaptFormer of the same tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.activations import ACTIVATIONS
from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.methods.base import Call, Method, Params, setting, work_dtype

CARD: dict[str, Any] = {
    "id": "serial_adapter",
    "class": "SerialAdapter",
    "kind": "bottleneck",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["layers", "-embedding", "block"],
    "parameters": "2 c out + c + out",
    "paper": "arXiv 1902.00751; arXiv 2005.00247",
    "choose": "a nonlinear change of what a block returns; comparisons with adapters",
}


@dataclass(frozen=True)
class SerialAdapter(Method):
    """A bottleneck behind a block or layer.

    Args:
        bottleneck: c, hidden channels.
        act: the activation, "relu" or "gelu".
        scale: s.
    """

    bottleneck: int = setting(64, low=1)
    act: str = setting("relu", choices=("relu", "gelu"))
    scale: float = 1.0

    id: ClassVar[str] = "serial_adapter"
    changes: ClassVar[str] = "activation"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = tuple(k for k in layer_kinds if k != "block")
    default_globs: ClassVar[tuple[str, ...]] = ("*.mlp", "*.ffn", "*.feed_forward", "*.mlp_block")

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        down = torch.empty(self.bottleneck, geo.out, dtype=work_dtype(weight), device=weight.device)
        return {
            "down": torch.nn.init.uniform_(down, -(geo.out**-0.5), geo.out**-0.5),
            "down_bias": down.new_zeros(self.bottleneck),
            "up": down.new_zeros(geo.out, self.bottleneck),
            "up_bias": down.new_zeros(geo.out),
        }

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        # wide from the first product on, as in AdaptFormer
        h = F.linear(c.y.movedim(geo.axis, -1), p["down"].to(c.y.dtype)) + p["down_bias"]
        h = ACTIVATIONS[self.act](h)
        y = F.linear(h, self.scale * p["up"], self.scale * p["up_bias"])
        return y.movedim(-1, geo.axis)
