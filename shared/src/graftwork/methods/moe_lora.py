"""MoE-LoRA: a mixture of low-rank experts (MoLoRA, Zadouri et al. 2023, arXiv 2309.05444).

    y = W0 x + b + s sum_i w_i(x) B_i A_i x,   w = softmax(W_g x),   s = alpha / r

With top_k set only the k largest gates stay, divided by their sum. All experts run, as one product of rank E r; the
zeros of the gate put them out. In training each layer adds balance * L_bal to the loss (`gw.extra_loss`), L_bal =
E sum_i f_i P_i, P_i the mean gate of expert i and f_i the share of tokens that chose it (`graftwork.routing`).

Shapes: A `(E r, in)` and B `(out, E r)`, expert by expert; router W_g `(E, in)`, none at E = 1. Initialisation: A and
the router uniform in +-1/sqrt(in), B zero: the start is the base.

The paper's text was not to be had: the equation is from others' accounts of it and has no number here.

Departures: r is each expert's own rank. Without top_k f counts a token's largest gate only (the share that chose
would be 1 for every expert). The gate is computed in float32 at least; one dropout mask for all experts, none for the
router. Padding tokens count in L_bal. GOAT has the same experts with starts from the spectrum.
Refuses: merging with more than one expert (the gates depend on the input; one expert's gate is constant and merges);
top_k above E and, with one expert, top_k or balance, which have no router to act on, at construction; a rank above
the layer's own, min(in, out), per expert; layers whose weight a fused owner reads.

Invariants:
1. The start equals the base bit for bit, in training and under dropout too.
2. E = 1 is LoRA: the same function, gradients and training.
3. Gates are positive and add up to 1, k of them with top_k; the order of the experts does not matter.
4. With a router of zeros it is LoRA of rank E r and 1/E of the scale.
5. L_bal is 1 (k with top_k) for a uniform router and E for collapse; its gradient reaches the router alone.
6. E r (in + out) + E in parameters per site; r (in + out) at E = 1.
7. forward = the equation by hand; merging is refused for E > 1, and for E = 1 agrees with the forward.
8. A token's output depends on that token alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork import routing
from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.errors import GraftError
from graftwork.methods.base import Call, Delta, Method, Params, rank_above, setting, work_dtype

CARD: dict[str, Any] = {
    "id": "moe_lora",
    "class": "MoELoRA",
    "kind": "experts",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["linear", "transposed_linear"],
    "parameters": "E r (in + out) + E in",
    "paper": "arXiv 2309.05444",
    "choose": "mixed data, where a change need not be merged",
}


@dataclass(frozen=True)
class MoELoRA(Method):
    """Low-rank experts behind a softmax router.

    Args:
        rank: r, of one expert.
        experts: E.
        alpha: numerator of the scale; `None` means alpha = rank, that is s = 1.
        top_k: k, experts that act on a token; `None`: all.
        balance: weight of the load-balance loss.
        dropout: probability of zeroing an input element of the branch in training.
    """

    rank: int = setting(4, low=1)
    experts: int = setting(4, low=1)
    alpha: float | None = None
    top_k: int | None = setting(None, low=1)
    balance: float = setting(0.0, low=0.0)
    dropout: float = setting(0.0, low=0.0, high=0.999)

    id: ClassVar[str] = "moe_lora"
    changes: ClassVar[str] = "activation"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds

    def __post_init__(self) -> None:
        super().__post_init__()
        routing.check_top_k(self)
        name = type(self).__name__
        for field in ("top_k", "balance"):
            if self.experts == 1 and getattr(self, field):
                raise GraftError(
                    f"{name}.{field}: one expert has no router to act on; leave it out"
                )

    @property
    def scale(self) -> float:
        """s of the equation."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        return rank_above(self, min(geo.in_, geo.out))

    def refuses_merge(self) -> str | None:
        return routing.refuses_merge(self)

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        each = self.experts * self.rank
        b = torch.zeros(geo.out, each, dtype=work_dtype(weight), device=weight.device)
        a = routing.start(each, geo.in_, b)
        routed = {"router": routing.start(self.experts, geo.in_, b)} if self.experts > 1 else {}
        return {"A": a, "B": b, **routed}

    def gates(self, p: Params, c: Call) -> Tensor:
        """w `(..., E)`; what the router adds to the loss is left behind."""
        keep = self.top_k or self.experts
        leave = c.leave if self.balance else None
        return routing.gates(
            c.x, p["router"], keep, count=self.top_k or 1, balance=self.balance, leave=leave
        )

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        a, b = p["A"].to(c.y.dtype), p["B"].to(c.y.dtype)
        h = geo.down(F.dropout(c.x, self.dropout, c.training), a, c.y)
        if self.experts == 1:
            return geo.up(self.scale * h, b)
        h = h.unflatten(-1, (-1, self.rank))  # (..., experts or 1, r)
        h = (self.scale * self.gates(p, c).unsqueeze(-1) * h).flatten(-2)
        return geo.up(h.to(c.y.dtype), b)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        return Delta(weight=self.scale * geo.product(p["A"], p["B"]))
