"""LoRETTA_adp: a bottleneck adapter whose matrices are tensor trains (Yang et al. 2024, arXiv 2402.11417).

    y = h + s (W_up act(W_down h + b_down) + b_up),   h = f(x)
    W_down^T (out, c) and W_up^T (c, out) = reshape(U_1 U_2 ... U_d),   U_i of shape (rho_(i-1), k_i, rho_i)

with rho_0 = rho_d = 1 and prod k_i the number of entries: the serial adapter of Houlsby et al. (arXiv 1902.00751) with
few numbers. It reads what f returns; the paper's sites are the outputs of attention and of the feed-forward block. The
equation is that of the authors' code and has no number here.

Shapes: cores D0, D1, ... and U0, U1, ... `(rho_(i-1), k_i, rho_i)`, the k_i as in LoRETTA, down_bias `(c,)`, up_bias
`(out,)`. 768 channels at c = 64 give (8, 8, 8, 12, 8), the published (8, 8, 12, 8, 8) in another order, and as many
numbers. Initialisation: core entries as in LoRETTA, the last core of W_up and the biases zero: the start is the base.

Departures: the zero core; any width has cores. The LayerNorms and the classifier that the paper trains along are not
part of it: name them in `also_train`, and count them. Convolutions are not served.
Refuses: merging (the branch is not linear); layers whose weight a fused owner reads without a call.

Invariants:
1. The start equals the base bit for bit; the last core of W_up and its bias alone have a gradient on the first step.
2. forward = the composition by hand; merging is refused.
3. sum rho_(i-1) k_i rho_i + c + out parameters per site: 1,560 in the cores at 768 channels, c = 64, rho = 5.
4. With inner ranks at their maximum it is the dense adapter.
5. Where the ReLU is open all is affine in h; s = 0 is the base.
6. The entries of every trained core start with mean 0, those of W_down with standard deviation (out + c)^(-1/2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graftwork import trains
from graftwork.activations import ACTIVATIONS
from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.methods.base import Call, Method, Params, setting, work_dtype

CARD: dict[str, Any] = {
    "id": "loretta_adp",
    "class": "LoRETTAAdapter",
    "kind": "tensor train",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["linear", "transposed_linear", "block"],
    "parameters": "sum rho k rho over the cores, + c + out",
    "paper": "arXiv 2402.11417",
    "choose": "a serial adapter in a small part of its numbers",
}


@dataclass(frozen=True)
class LoRETTAAdapter(Method):
    """A serial bottleneck adapter of tensor trains.

    Args:
        bottleneck: c, hidden channels.
        tt_rank: rho, the inner ranks of the trains.
        cores: d, cores of a train; fewer where its size has fewer prime factors.
        act: the activation, "relu" or "tanh".
        scale: s.
    """

    bottleneck: int = setting(64, low=1)
    tt_rank: int = setting(5, low=1)
    cores: int = setting(5, low=1, high=6)
    act: str = setting("relu", choices=("relu", "tanh"))
    scale: float = 1.0

    id: ClassVar[str] = "loretta_adp"
    changes: ClassVar[str] = "activation"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = tuple(k for k in layer_kinds if k != "block")
    default_globs: ClassVar[tuple[str, ...]] = ("*.mlp", "*.ffn", "*.feed_forward", "*.mlp_block")

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        blank = torch.zeros(0, dtype=work_dtype(weight), device=weight.device)
        out: dict[str, Tensor] = {}
        for name in "DU":
            cores = trains.start(geo.out, self.bottleneck, self.cores, self.tt_rank, blank)
            out |= {f"{name}{i}": core for i, core in enumerate(cores)}
        out[f"U{len(cores) - 1}"] = torch.zeros_like(cores[-1])
        biases = {"down_bias": self.bottleneck, "up_bias": geo.out}
        return out | {name: blank.new_zeros(size) for name, size in biases.items()}

    def built(self, p: Params) -> tuple[Tensor, Tensor]:
        """W_down `(c, out)` and W_up `(out, c)`."""
        c, out = len(p["down_bias"]), len(p["up_bias"])
        down = trains.product([p[f"D{i}"] for i in range(len(p)) if f"D{i}" in p])
        up = trains.product([p[f"U{i}"] for i in range(len(p)) if f"U{i}" in p])
        return down.reshape(out, c).mT, up.reshape(c, out).mT

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        down, up = self.built(p)
        # wide from the first product on, as in AdaptFormer
        h = geo.up(c.y, down.to(c.y.dtype)) + p["down_bias"]
        h = ACTIVATIONS[self.act](h)
        return geo.up(h, self.scale * up, self.scale * p["up_bias"])
