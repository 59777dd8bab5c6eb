"""HydraLoRA: one shared A, several heads B_i behind a router (Tian et al. 2024, arXiv 2404.19245).

    y = W0 x + b + s sum_i w_i(x) B_i (A x),   w = softmax(W_g x),   s = alpha / r

The mixture, its router, top_k and the balance loss are those of MoE-LoRA; here all experts read one A.

Shapes: A `(r, in)`, B `(out, E r)` head by head, router W_g `(E, in)`, none at E = 1. Initialisation: A and the router
uniform in +-1/sqrt(in), B zero: the start is the base.

The paper's text was not to be had: the equation is from others' accounts of it and has no number here.

Departures: as MoE-LoRA. E is a setting (the paper finds it by clustering the data); top_k and the balance loss are
not the paper's and are off unless asked for.
Refuses: as MoE-LoRA: merging with more than one head (the gates depend on the input; one head's gate is constant and
merges); top_k above E and, with one head, top_k or balance, at construction; a rank above the layer's own, min(in,
out); layers whose weight a fused owner reads.

Invariants:
1. The start equals the base bit for bit, in training and under dropout too.
2. E = 1 is LoRA: the same function, gradients and training.
3. It is MoE-LoRA whose experts all have this A, and the gradient of A is the sum of theirs.
4. With a router of zeros it is LoRA with the mean of the heads.
5. r in + E r out + E in parameters per site; r (in + out) at E = 1.
6. forward = the equation by hand; merging is refused for E > 1, and for E = 1 agrees with the forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.methods.moe_lora import MoELoRA

CARD: dict[str, Any] = {
    "id": "hydra_lora",
    "class": "HydraLoRA",
    "kind": "experts",
    "changes": "activation",
    "mergeable": False,
    "layer_kinds": ["linear", "transposed_linear"],
    "parameters": "r in + E r out + E in",
    "paper": "arXiv 2404.19245",
    "choose": "mixed data of one domain, with fewer numbers than MoE-LoRA",
}


@dataclass(frozen=True)
class HydraLoRA(MoELoRA):
    """Heads that share what they read, behind a softmax router.

    Args:
        rank: r.
        experts: E, heads.
        alpha: numerator of the scale; `None` means alpha = rank, that is s = 1.
        top_k: heads that act on a token; `None`: all.
        balance: weight of the load-balance loss.
        dropout: probability of zeroing an input element of the branch in training.
    """

    id: ClassVar[str] = "hydra_lora"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        own = super().start(geo, weight, bias)
        return {**own, "A": own["A"][: self.rank].clone()}
