"""GOAT: low-rank experts on slices of the spectrum (Fan et al. 2025, arXiv 2502.16894).

    y = (W0 - W_res) x + b + s sum_i w_i(x) B_i A_i x                       (paper, section 3)
    W_res = (s/E) sum_i B_i0 A_i0;    B_i0 A_i0 = U_i S_i V_i^T / (s rho)
    z = W_g x,  p = softmax z,  w_i = p_i / (sum of the k largest p), 0 for the others
    s = sqrt(3 eta n / r) unless alpha is set, then alpha / r;    r = R / E, n = in

Expert i holds the r largest triplets of the i-th of E equal segments of the spectrum. The weight stays untouched; the
start factors are kept frozen and the change is computed as

    s [B - B0, B0] [w h; w d + (w - 1/E) (h - d)],   h = A x,  d = (A - A0) x,

where w weighs each expert's r rows. All experts run, as one product of rank R, and the gate's zeros put them out. In
training each layer adds balance * L_bal to the loss (`gw.extra_loss`). Gates, in float32 at least, and L_bal, with each
token counting for its k experts, are `graftwork.routing`'s.

Shapes: A, A0 `(R, in)` and B, B0 `(out, R)`, expert by expert; router W_g `(E, in)`, none at E = 1. Initialisation: by
a full SVD; the router uniform in +-1/sqrt(in). `init="zero"`: A as the router, B zero, nothing subtracted; with alpha
set this is MoE-LoRA (arXiv 2309.05444) with top-k gates.

Departures: the frozen branch in place of a changed weight. One dropout mask, on the input of the whole change. The
public code has s = alpha / r; here s comes from the paper's theorem. `exact_start` subtracts each expert's start under
its own gate: then every token starts at the base (with the paper's W_res in the mean), and the router learns nothing
from the task until the experts move. L_bal counts padding, as the public code's, over one process's batch.
Refuses: merging with more than one expert, k = E included (the gates depend on the input; E = 1 merges); an R that E
does not divide and k above E, both at construction; a rank above the layer's own, min(out, in) / E per expert,
rounded down; half-precision files; layers whose weight a fused owner reads; weights that are not finite.

Invariants:
1. s sum_i B_i0 A_i0 = (1/rho) sum_i U_i S_i V_i^T, for every s.
2. With all w_i = 1/E the start is the base to rounding; with E = 1, and with `exact_start`, bit for bit.
3. With real routing the error at the start falls as 1/rho.
4. Exactly k gates are not 0 and they add up to 1; the order of the experts does not matter.
5. L_bal is k for a uniform router and E for collapse onto k experts; its gradient reaches the router alone, through P.
6. The zero start is the base bit for bit, and s^2 E[A^T A] = eta I.
7. Segments are disjoint and in order; each expert has the r largest triplets of its own.
8. R (in + out) + E in parameters per site; E = 1, k = 1, rho = 1 is PiSSA, E = 1 with the zero start LoRA.
9. A reload decomposes nothing and gives every bit; removing gives the base's bits back.
10. forward = the equation by hand; merging is refused for E > 1, and for E = 1 agrees with the forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork import routing
from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.errors import GraftError
from graftwork.methods.base import Call, Delta, Method, Params, setting, work_dtype
from graftwork.starts import svd
from graftwork.starts.residual import difference

CARD: dict[str, Any] = {
    "id": "goat",
    "class": "GOAT",
    "kind": "experts",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["linear", "transposed_linear"],
    "parameters": "R (in + out) + E in",
    "paper": "arXiv 2502.16894",
    "choose": "mixed data, where a change need not be merged: each expert a part of the spectrum",
}


@dataclass(frozen=True)
class GOAT(Method):
    """A mixture of low-rank experts, each on its own slice of the weight's spectrum.

    Args:
        rank: R, of all experts together. experts: E. top_k: k, experts that act on a token.
        rho: divisor of the start's spectrum. eta: full fine-tuning's learning rate over this one's, in s.
        alpha: `None` derives s; a number makes it alpha / r. balance: weight of the load-balance loss.
        dropout: probability of zeroing an input element of the branch in training.
        init: "svd", or "zero" for experts that start at zero. exact_start: the base for every token.
    """

    rank: int = setting(32, low=1)
    experts: int = setting(8, low=1)
    top_k: int = setting(2, low=1)
    rho: float = setting(10.0, low=0.01)
    eta: float = setting(1.0, low=0.001)
    alpha: float | None = setting(None, low=0.001)
    balance: float = setting(1e-3, low=0.0)
    dropout: float = setting(0.0, low=0.0, high=0.999)
    init: str = setting("svd", choices=("svd", "zero"))
    exact_start: bool = False

    id: ClassVar[str] = "goat"
    changes: ClassVar[str] = "activation"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds
    half_files: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        routing.check_top_k(self)
        if self.rank % self.experts:
            raise GraftError(f"GOAT.rank: {self.experts} experts do not divide {self.rank}")

    @property
    def starts_at_base(self) -> bool:
        return self.experts == 1 or self.init == "zero" or self.exact_start

    def scale(self, geo: Geometry) -> float:
        """s of the equations."""
        each = self.rank // self.experts
        return math.sqrt(3 * self.eta * geo.in_ / each) if self.alpha is None else self.alpha / each

    def picks(self, geo: Geometry) -> list[int]:
        """Which triplets the experts start from, expert by expert."""
        each, segment = self.rank // self.experts, svd.width(geo) // self.experts
        return [i * segment + j for i in range(self.experts) for j in range(each)]

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        each, most = self.rank // self.experts, svd.width(geo) // self.experts
        if each > most and self.init == "svd":
            have = f"{each} rows per expert, {most} in a segment"
            return f"GOAT.rank = {self.rank} is a rank above the layer's own: {have}; set it lower there"
        return None

    def refuses_merge(self) -> str | None:
        return routing.refuses_merge(self)

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        blank = torch.zeros(1, 1, dtype=work_dtype(weight), device=weight.device)
        if self.init == "zero":
            a, b = routing.start(self.rank, geo.in_, blank), blank.new_zeros(geo.out, self.rank)
        else:
            found = svd.exact(svd.matrices(geo, weight), self.picks(geo))
            a, b = svd.factors(geo, found, 1 / (self.scale(geo) * self.rho))
        routed = {"router": routing.start(self.experts, geo.in_, blank)} if self.experts > 1 else {}
        return {"A": a, "B": b, **routed}

    def frozen(
        self, geo: Geometry, weight: Tensor, bias: Tensor | None, start: Params
    ) -> dict[str, Tensor]:
        return {} if self.init == "zero" else {"A0": start["A"], "B0": start["B"]}

    def gates(self, p: Params, c: Call) -> Tensor:
        """w `(..., E)`, or `(1,)` at E = 1; what the router adds to the loss is left behind."""
        if self.experts == 1:
            return p["A"].new_ones(1)
        k = self.top_k
        return routing.gates(c.x, p["router"], k, count=k, balance=self.balance, leave=c.leave)

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        w, dtype = self.gates(p, c).repeat_interleave(self.rank // self.experts, -1), c.y.dtype
        a, b = (t.to(dtype) for t in difference(p))
        h = geo.down(F.dropout(c.x, self.dropout, c.training), a, c.y)
        if self.init == "zero":
            return geo.up((self.scale(geo) * w * h).to(dtype), b)
        h, d = h.chunk(2, -1)
        moved = w * d if self.exact_start else w * d + (w - 1 / self.experts) * (h - d)
        return geo.up((self.scale(geo) * torch.cat([w * h, moved], -1)).to(dtype), b)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        return Delta(weight=self.scale(geo) * geo.product(*difference(p)))
