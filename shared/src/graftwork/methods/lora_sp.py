"""LoRA-SP: select and prune, a rank for every token (Kim et al. 2026, arXiv 2603.07404).

    y = W0 x + b + c U (sigma(x) * V x)                                     (paper, section III)
    z = W_2 softmax(W_1 x + b_1) + b_2,   s = softplus(z) >= 0
    E_k = (sum of the k largest s_i^2) / (sum of all),   k(x) = min {k : E_k >= eta},   sigma_i = s_i if kept, else 0

The gate is a constant to the gradient, which flows through the kept scores. In training each layer adds spectral *
(1 - E_k) + router * (balance + z-loss), in the mean over tokens, to the loss (`gw.extra_loss`): balance =
r sum_j f_j P_j with P the mean softmax of z and f_j the share of tokens whose largest is j; z-loss = logsumexp(z)^2.

Shapes: U `(out, r)`, V `(r, in)`, W_1 `(m, in)`, b_1 `(m,)`, W_2 `(r, m)`, b_2 `(r,)`. Initialisation: V and W_1
uniform in +-1/sqrt(in), U zero, biases zero, W_2 the identity with each row repeated r/m times: vector i starts at
expert floor(i m / r), and the start is the base.

Departures: softplus makes the scores positive (the text asks for that, the public code allows negative ones). The
gate keeps the smallest k that reaches eta; the code keeps one fewer, and sorts scores where squares are meant. The
spectral loss is a mean over tokens, in the code a ratio of sums; the z-loss is the square, in the code a clamped
logarithm; the balance loss takes the softmax of all scores, in the code of those left by the gate. Losses add up over
layers (the paper takes their mean: divide the weights by the number of sites). Dropout acts on the router's input
only, as in the code. Energies are computed in float32 at least. Padding tokens count in the losses;
`graftwork.ranks` can leave them out of the statistics. The spectral loss acts from the first step. m was not to be
found; 4 is read off the published figures. A bank may be wider than its layer: a token takes few of its vectors.
Refuses: merging (the change depends on the input; `graftwork.ranks.to_lora` averages it); eta outside (0, 1], a rank
that m does not divide, at construction; layers whose weight a fused owner reads.

Invariants:
1. The start equals the base bit for bit, in training and under dropout too.
2. With scores of 1 and eta 1 it is LoRA with B = U, A = V and the same scale.
3. E_k rises with k from above 0 to 1; k rises with eta and lies in [1, r].
4. E_k >= eta and E_(k-1) < eta for every token, so the spectral loss lies in [0, 1 - eta].
5. The gate does not see a common factor of the scores, and permuting the vectors changes nothing.
6. With orthonormal U and V the relative error of the kept change is the root of 1 - E_k; without, it is not.
7. dL/ds_i is -2 s_i (1 - E_k)/S for a kept vector and 2 s_i E_k/S for a dropped one, S the sum of squares.
8. A descent step on the spectral loss alone raises E_k under the same mask.
9. r (in + out) + m in + m + r m + r parameters per site.
10. Equal scores keep ceil(eta r) vectors, a single one above 0 keeps 1; with no score above 0 the loss is 0.
11. A token's output depends on that token alone.
12. The reported active rank is the number of sigma above 0.
13. The weight has no gradient and keeps its bits.
14. The balance loss is 1 for equal gates and r for collapse; the losses are those of the equations.
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
from graftwork.methods.base import Call, Method, Params, setting, work_dtype

CARD: dict[str, Any] = {
    "id": "lora_sp",
    "class": "LoRASP",
    "kind": "experts",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["linear", "transposed_linear"],
    "parameters": "r (in + out) + m (in + r + 1) + r",
    "paper": "arXiv 2603.07404",
    "choose": "the rank that layers and inputs need is not known beforehand",
}


@dataclass(frozen=True)
class LoRASP(Method):
    """A wide bank of vectors, of which each token takes as many as its energy needs.

    Args:
        rank: r, vectors in the bank.
        hidden: m, units of the router's hidden layer; it divides the rank.
        eta: share of the energy that the kept vectors reach, in (0, 1].
        scale: c.
        spectral: weight of the spectral loss. router: weight of the balance and z-loss.
        dropout: probability of zeroing an element of the router's input in training.
    """

    rank: int = setting(128, low=1)
    hidden: int = setting(4, low=1)
    eta: float = setting(0.9, low=0.0, high=1.0)
    scale: float = setting(2.0, low=0.001)
    spectral: float = setting(1e-2, low=0.0)
    router: float = setting(1e-3, low=0.0)
    dropout: float = setting(0.0, low=0.0, high=0.999)

    id: ClassVar[str] = "lora_sp"
    changes: ClassVar[str] = "activation"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta == 0:
            raise GraftError("LoRASP.eta must lie in (0, 1]: an energy share of 0 keeps nothing")
        if self.rank % self.hidden:
            raise GraftError(f"LoRASP.rank: {self.hidden} hidden units do not divide {self.rank}")

    def refuses_merge(self) -> str | None:
        return f"{self.id} weighs its vectors by the input; graftwork.ranks.to_lora averages them"

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        zero = torch.zeros((), dtype=work_dtype(weight), device=weight.device)
        v, w1 = zero.new_empty(self.rank, geo.in_), zero.new_empty(self.hidden, geo.in_)
        for t in (v, w1):
            torch.nn.init.uniform_(t, -(geo.in_**-0.5), geo.in_**-0.5)
        eye = torch.eye(self.hidden, dtype=zero.dtype, device=zero.device)
        return {
            "U": zero.new_zeros(geo.out, self.rank),
            "V": v,
            "w1": w1,
            "b1": zero.new_zeros(self.hidden),
            "w2": eye.repeat_interleave(self.rank // self.hidden, 0),
            "b2": zero.new_zeros(self.rank),
        }

    def logits(self, p: Params, x: Tensor, training: bool = False) -> Tensor:
        """z `(..., r)`, in float32 or wider; the scores are its softplus."""
        wide = torch.promote_types(p["w1"].dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            x = F.dropout(x.to(wide), self.dropout, training)
            hidden = F.linear(x, p["w1"].to(wide), p["b1"].to(wide)).softmax(-1)
            return F.linear(hidden, p["w2"].to(wide), p["b2"].to(wide))

    def kept(self, s: Tensor) -> Tensor:
        """Which of the scores `(..., r)` the gate keeps, as 0 and 1; at least the largest."""
        squares, order = s.detach().square().sort(-1, descending=True)
        total = squares.cumsum(-1)
        before = F.pad(total[..., :-1], (1, 0))  # energy of those before each one
        keep = (before < self.eta * total[..., -1:]) | (self.eta == 1)
        first = torch.arange(s.shape[-1], device=s.device) == 0
        return torch.zeros_like(squares).scatter(-1, order, (keep | first).to(squares.dtype))

    def spectral_loss(self, s: Tensor, keep: Tensor) -> Tensor:
        """1 - E_k of each token: the share of energy that the gate drops, 0 where there is none."""
        squares = s.square()
        total = squares.sum(-1).clamp_min(torch.finfo(s.dtype).tiny)
        return (squares * (1 - keep)).sum(-1) / total

    def router_loss(self, z: Tensor) -> Tensor:
        """Balance and z-loss of logits `(..., r)`."""
        chosen = F.one_hot(z.argmax(-1), self.rank).to(z.dtype)
        return routing.balance_loss(z.softmax(-1), chosen) + z.logsumexp(-1).square().mean()

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        z = self.logits(p, c.x, c.training)
        s = F.softplus(z)
        keep = self.kept(s)
        if c.leave is not None and z.numel() > 0:
            c.leave(self.spectral * self.spectral_loss(s, keep).mean())
            c.leave(self.router * self.router_loss(z))
        h = geo.down(c.x, p["V"].to(c.y.dtype), c.y)
        return geo.up((self.scale * s * keep * h).to(c.y.dtype), p["U"].to(c.y.dtype))
