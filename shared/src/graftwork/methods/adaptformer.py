"""AdaptFormer: a parallel bottleneck branch (Chen et al. 2022, arXiv 2205.13535).

    y = f(x) + s W_up act(W_down x + b_down) + s b_up                       (paper, eq. 3 and 4)

f is the whole feed-forward block (the paper's site) or any single layer; on a convolution W_down
takes the layer's geometry and W_up mixes channels. With s = 1 it is the parallel adapter of He et al. (arXiv
2110.04366); the serial one is SerialAdapter.

Shapes: down `(c, in/g, *kernel)`, down_bias `(c,)`, up `(out, c/g, 1...)`, up_bias `(out,)`.
Initialisation: down Kaiming uniform (a = sqrt 5), all else zero: the start is the base.

Departures: serves convolutions and single layers as well as feed-forward blocks; act is a choice, in the paper ReLU.
Refuses: merging (the branch is not linear); layers whose weight a fused owner reads without a call;
embeddings (their input is not a feature vector).

Invariants:
1. The start equals the base bit for bit.
2. forward = the composition by hand; merging is refused.
3. c in/g k + c + out c/g + out parameters per site.
4. With the ReLU always open the branch is the affine low-rank map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graftwork.activations import ACTIVATIONS
from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.methods.base import Call, Method, Params, setting, work_dtype

CARD: dict[str, Any] = {
    "id": "adaptformer",
    "class": "AdaptFormer",
    "kind": "bottleneck",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["layers", "-embedding", "block"],
    "parameters": "c (in/g k + out/g) + c + out",
    "paper": "arXiv 2205.13535",
    "choose": "a nonlinear change beside a feed-forward block or a convolution",
}


@dataclass(frozen=True)
class AdaptFormer(Method):
    """A bottleneck beside a block or layer.

    Args:
        bottleneck: c, hidden channels of the branch.
        scale: s (paper: 0.1).
        act: the activation, "relu" or "gelu".
    """

    bottleneck: int = setting(64, low=1)
    scale: float = 0.1
    act: str = setting("relu", choices=("relu", "gelu"))

    id: ClassVar[str] = "adaptformer"
    changes: ClassVar[str] = "activation"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = tuple(k for k in layer_kinds if k != "block")
    default_globs: ClassVar[tuple[str, ...]] = ("*.mlp", "*.ffn", "*.feed_forward", "*.mlp_block")

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        down, up = geo.factor_shapes(self.bottleneck)
        a = torch.empty(down, dtype=work_dtype(weight), device=weight.device)
        bound = 1 / math.sqrt(max(1, a[0].numel()))
        return {
            "down": torch.nn.init.uniform_(a, -bound, bound),
            "down_bias": a.new_zeros(self.bottleneck),
            "up": a.new_zeros(up),
            "up_bias": a.new_zeros(geo.out),
        }

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        # wide from the first product on: the bottleneck is narrow, and every further rounding in half
        # precision would be multiplied by the scale
        h, down_bias = geo.down(c.x, p["down"].to(c.y.dtype), c.y), p["down_bias"]
        if not geo.splits(self.bottleneck):  # every group has its own copy of the shared bottleneck
            down_bias = down_bias.repeat(geo.groups)
        h = h + geo.channels(down_bias, c.y)
        h = ACTIVATIONS[self.act](h)
        # scaled while it is small: the output is passed over once
        return geo.up(h, self.scale * p["up"], self.scale * p["up_bias"])
