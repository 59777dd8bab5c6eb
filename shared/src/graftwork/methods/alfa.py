"""Alfa: attention over the singular components of a filter (Hsieh, Ting and Kung 2026, arXiv 2603.08445).

    M = U S V^T + R,    M' = R + U N S V^T                                  (reconstruction)
    attention:  p_j = s_j^1/2 v_j,   T = softmax(P W_q (P W_k)^T / a^1/2),   N = I + g (T - I)
    diagonal:   N = diag(n),   n_j = 1 + g (r softmax(e)_j - 1)
    free:       N = diag(1 + n_j)      (singular value fine-tuning, Sun et al., NeurIPS 2022)

M is a layer's weight as a matrix, one for each group of a convolution: a row of V is a spatial component of the
filters, a row of U says how an output channel mixes them. Only how strongly components are used moves. N depends on
no input. The change U (N - I) S V^T is computed as a product of rank r, each of whose terms is exactly 0 at the start;
the rest R, and all of M, stay in the untouched weight.

Shapes: V `(r g, in/g, *kernel)`, S `(g, r)`, U `(out, r)`, frozen, r triplets for each of g groups; query and key
`(in/g k, a)`, shared by the groups, and gate `(1,)`; e or n `(g, r)`. Initialisation: the r largest triplets by a
full SVD, cached; query and key uniform in +-1/sqrt(in/g k). g is 0 under attention, where query and key wait for it
one step (`gate=0.01` starts all at once, and not at the base), and 1 on the diagonal, where e is 0; n is 0.

Departures: the paper's text was not to be had. The layer is rebuilt from its abstract and the authors' page; the form
of the attention, its initialisation and the rank are ours, and so are `free` and `anchor`, a pull of weight *
||N - I||^2 towards the base, left for `gw.extra_loss` in training. Linear and transposed layers come with the geometry.
The softmax of the diagonal is measured against that of zeros, which is 1/r, so that the start is exact. R is kept:
`compressed` drops it after training. What adapts without labels is in `graftwork.unlabelled`.
Refuses: a rank above the layer's own, min(out, in k) of a group; weights that are not finite; a rank of 1 but for
`free`, because attention over one component changes nothing; an anchor where a fused owner reads the weight without
calling the layer, because nobody collects it there.

Invariants:
1. The start equals the base bit for bit (attention: with gate 0); U S V^T is the truncated SVD, with a relative
   error of the root of 1 - E(r), E the share of squared singular values.
2. forward = merged forward = R + U N S V^T by hand; `compressed` gives U N S V^T as a layer and a mixing one.
3. Rows of T sum to 1 and are above 0; free at full rank is the weight with any singular values; N = 0 leaves R.
4. Only the attention's tensors train, and the frozen factors keep their bits.
5. Flipping a singular pair leaves the diagonal forms as they are; triplets have fixed signs, so a start repeats.
6. Parameters per site: attention 2 a in/g k + 1, diagonal g r + 1, free g r.
7. The anchor is weight * ||N - I||^2, and its gradient reaches the trained tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.errors import GraftError
from graftwork.methods.base import Call, Delta, Method, Params, rank_above, setting, work_dtype
from graftwork.starts import svd

CARD: dict[str, Any] = {
    "id": "alfa",
    "class": "Alfa",
    "kind": "spectral",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers", "-embedding"],
    "parameters": "2 a in/g k + 1; diagonal g r + 1",
    "paper": "arXiv 2603.08445",
    "choose": "a handful of unlabelled inputs: components of the filters are kept and reweighted",
}


@dataclass(frozen=True)
class Alfa(Method):
    """Reweight the singular components of a layer's filters.

    Args:
        rank: components per group that the attention sees.
        form: "attention" mixes components, "diagonal" weighs them against each other, "free" each on its own.
        width: a, of queries and keys.
        gate: where g starts under attention.
        anchor: weight of ||N - I||^2 in the loss.
    """

    rank: int = setting(8, low=1)
    form: str = setting("attention", choices=("attention", "diagonal", "free"))
    width: int = setting(16, low=1)
    gate: float = setting(0.0, low=-1.0, high=1.0)
    anchor: float = setting(0.0, low=0.0)

    id: ClassVar[str] = "alfa"
    changes: ClassVar[str] = "weight"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank == 1 and self.form != "free":
            raise GraftError(
                "Alfa.rank: attention over one component changes nothing; take 2 or more, or form='free'"
            )

    @property
    def starts_at_base(self) -> bool:
        return self.form != "attention" or self.gate == 0

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        return rank_above(self, svd.width(geo))

    def refuses_fused(self, geo: Geometry) -> str | None:
        return "an anchor where nobody collects it: set Alfa.anchor to 0" if self.anchor else None

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        zeros = torch.zeros(geo.groups, self.rank, dtype=work_dtype(weight), device=weight.device)
        if self.form == "free":
            return {"n": zeros}
        if self.form == "diagonal":
            return {"e": zeros, "gate": zeros.new_ones(1)}
        size = geo.group_shape[1] * math.prod(geo.kernel)
        query, key = (
            torch.nn.init.uniform_(zeros.new_empty(size, self.width), -(size**-0.5), size**-0.5)
            for _ in range(2)
        )
        return {"query": query, "key": key, "gate": zeros.new_full((1,), self.gate)}

    def frozen(
        self, geo: Geometry, weight: Tensor, bias: Tensor | None, start: Params
    ) -> dict[str, Tensor]:
        found = svd.exact(svd.matrices(geo, weight), range(self.rank))
        a_shape, _ = geo.factor_shapes(geo.groups * self.rank)
        return {"U": found.u.flatten(0, 1), "S": found.s, "V": found.v.reshape(a_shape)}

    def attention(self, p: Params) -> Tensor:
        """T `(g, r, r)`."""
        tokens = p["V"].reshape(*p["S"].shape, -1) * p["S"].sqrt().unsqueeze(-1)
        q, k = tokens @ p["query"], tokens @ p["key"]
        return (q @ k.transpose(1, 2) / math.sqrt(self.width)).softmax(-1)

    def moved(self, p: Params) -> Tensor:
        """N - I `(g, r, r)`, in the trained tensors' dtype."""
        if self.form == "free":
            return torch.diag_embed(p["n"])
        if self.form == "diagonal":
            e = p["e"]
            share = e.softmax(-1) - torch.zeros_like(e).softmax(-1)
            return torch.diag_embed(p["gate"] * (self.rank * share))
        with torch.autocast(p["gate"].device.type, enabled=False):
            t = self.attention(p)
            return p["gate"] * (t - torch.eye(self.rank, dtype=t.dtype, device=t.device))

    def compressed(self, p: Params) -> tuple[Tensor, Tensor]:
        """The layer without R: a layer of r outputs per group, and the mixing that follows it.

        Returns:
            `(r g, in/g, *kernel)` and `(out, r, 1...)`, as LoRA's A and B; r (in k + out) numbers where g is 1.
        """
        eye = torch.eye(self.rank, dtype=p["S"].dtype, device=p["S"].device)
        return svd.mixed(p["U"], eye + self.moved(p), p["S"], p["V"])

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        n = self.moved(p)
        if c.leave is not None and self.anchor:
            c.leave(self.anchor * n.square().sum())
        a, b = svd.mixed(p["U"], n, p["S"], p["V"])
        return geo.lowrank(c.x, a.to(c.y.dtype), b.to(c.y.dtype), c.y)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        return Delta(weight=geo.product(*svd.mixed(p["U"], self.moved(p), p["S"], p["V"])))
