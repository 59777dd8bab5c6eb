"""NOBLE: non-linear low-rank branches for pre-training (Smith 2026, arXiv 2603.06492).

    y = W x + b + U f(D x + d)                                              (paper, section 3)
    CosNet:  h = cos(w1 * z + p1),   f(z) = cos(w2 * (M h + c) + p2)
    other f: act(z), or act(M act(z) + c) with two layers; cos, GELU, SiLU, tanh, leaky ReLU, none (linear control)

The paper trains branch and weight together, from scratch, and keeps the branch for good: it is a part of the network
and no adapter, and it costs at inference, 2 r (in + out) + 2 r^2 operations and 2 r cosines a token. `pretrain`, of
`graftwork.pretraining`, makes a graft and its base such a network. On a frozen base the branch trains alone; the paper
makes no claim for that.

Shapes: down D `(r, in)`, down_bias d `(r,)`, up U `(out, r)`; with two layers mix M `(r, r)`, mix_bias c `(r,)`; under
cos freq1, phase1, freq2, phase2 `(r,)`. Initialisation: D normal (1/sqrt(in)), U zero: the start is the base. The
paper's is up_std = 0.01, normal (0.01/sqrt(r)), which is not. M normal (0.5/sqrt(r)), c uniform in +-1/sqrt(r),
frequencies uniform in [0.8, 1.2], phases normal (0.1), d zero; `pretrain` draws W normal (0.5/sqrt(in)), half the
usual, and sets b to zero. Learning rates over the optimizer's (`rates`, for `gw.paced` and config files), with q =
min(in, out) / r: U q^0.4, M q^0.5, frequencies 2, phases 4; no weight decay on vectors.

Departures: the public code sets M's rate on the module, where its own helper never looks; here it acts. Its helper
decays frequencies and phases. Phases are not wrapped at the start, which changes no value. f is taken in float32.
Refuses: merging (the branch is not linear; act="none" merges); a rank above the layer's own, min(in, out); two layers
with act="none", at construction; layers whose weight a fused owner reads.

Invariants:
1. The start equals the base bit for bit, and U alone has a gradient; with the paper's start all have one.
2. forward = the equation by hand; merging is refused, and with act="none" it is W + U D and b + U d.
3. r (in + out) + r^2 + 6 r parameters for CosNet; r (in + out + 1) with one layer and another act.
4. |f| <= 1 under cos, so the branch is at most ||U|| sqrt(r), and f is max|w2| ||M|| max|w1|-Lipschitz.
5. 2 pi on a phase, or the signs of a frequency and its phase together, change nothing.
6. Rates are those above; every trained tensor is in one group, and a schedule keeps their ratios.
7. The paper's start has a branch of about a fiftieth of the main path's size.
8. `pretrain` halves the main weights' spread and lets the base train; every tensor moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.activations import ACTIVATIONS
from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.errors import GraftError
from graftwork.methods.base import (
    Call,
    Delta,
    Method,
    Params,
    Rate,
    rank_above,
    setting,
    work_dtype,
)

CARD: dict[str, Any] = {
    "id": "noble",
    "class": "NOBLE",
    "kind": "branch",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["linear", "transposed_linear"],
    "parameters": "r (in + out) + r^2 + 6 r",
    "paper": "arXiv 2603.06492",
    "choose": "pre-training from scratch: a branch that stays, no adapter",
}
#: beside the cosine
_ACTS = ("gelu", "silu", "tanh", "leaky_relu", "none")


@dataclass(frozen=True)
class NOBLE(Method):
    """A low-rank branch with a non-linear bottleneck, kept for good.

    Args:
        rank: r, width of the bottleneck.
        act: its activation; "cos" with two layers is CosNet, "none" the linear control.
        layers: 1, or 2 with a mixing matrix between two activations.
        up_std: U's standard deviation at the start times sqrt(r); the paper has 0.01.
    """

    rank: int = setting(32, low=1)
    act: str = setting("cos", choices=("cos", *_ACTS))
    layers: int = setting(2, low=1, high=2)
    up_std: float = setting(0.0, low=0.0)

    id: ClassVar[str] = "noble"
    changes: ClassVar[str] = "activation"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.act == "none" and self.layers == 2:
            raise GraftError("NOBLE.layers: two linear layers are one; take 1 with act='none'")

    @property
    def starts_at_base(self) -> bool:
        return self.up_std == 0

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        return rank_above(self, min(geo.in_, geo.out))

    def refuses_merge(self) -> str | None:
        if self.act == "none":
            return None
        return f"{self.id} is a part of the network: its branch is not linear, so no weight can hold it"

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        r, root = self.rank, self.rank**-0.5
        blank = torch.zeros(r, dtype=work_dtype(weight), device=weight.device)
        out = {
            "down": torch.randn_like(blank.new_empty(r, geo.in_)) * geo.in_**-0.5,
            "down_bias": blank,
            "up": torch.randn_like(blank.new_empty(geo.out, r)) * (self.up_std * root),
        }
        if self.layers == 2:
            out["mix"] = torch.randn_like(blank.new_empty(r, r)) * (0.5 * root)
            out["mix_bias"] = torch.nn.init.uniform_(blank.clone(), -root, root)
        for i in range(1, self.layers + 1) if self.act == "cos" else ():
            out[f"freq{i}"] = torch.nn.init.uniform_(blank.clone(), 0.8, 1.2)
            out[f"phase{i}"] = 0.1 * torch.randn_like(blank)
        return out

    def rates(self, geo: Geometry) -> Mapping[str, Rate]:
        q = min(geo.in_, geo.out) / self.rank
        fixed = {"up": Rate(q**0.4), "mix": Rate(q**0.5)}
        vectors = {"down_bias": 1.0, "mix_bias": 1.0}
        vectors |= {f"{name}{i}": t for name, t in (("freq", 2.0), ("phase", 4.0)) for i in (1, 2)}
        return fixed | {name: Rate(times, decay=False) for name, times in vectors.items()}

    def activated(self, p: Params, z: Tensor, layer: int) -> Tensor:
        """The activation of one of the two layers."""
        if self.act == "cos":
            return torch.cos(p[f"freq{layer}"] * z + p[f"phase{layer}"])
        return ACTIVATIONS[self.act](z)

    def hidden(self, p: Params, z: Tensor) -> Tensor:
        """f `(..., r)` of the bottleneck's input without its bias, in float32 or wider."""
        with torch.autocast(z.device.type, enabled=False):
            h = self.activated(p, z.to(p["down"].dtype) + p["down_bias"], 1)
            if self.layers == 2:
                h = self.activated(p, F.linear(h, p["mix"], p["mix_bias"]), 2)
        return h

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        h = self.hidden(p, geo.down(c.x, p["down"].to(c.y.dtype), c.y))
        return geo.up(h.to(c.y.dtype), p["up"].to(c.y.dtype))

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        return Delta(weight=geo.product(p["down"], p["up"]), bias=p["up"] @ p["down_bias"])
