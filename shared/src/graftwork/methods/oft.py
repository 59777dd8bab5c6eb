"""OFT: orthogonal fine-tuning (Qiu et al. 2023, arXiv 2306.07280), with the exact Cayley transform.

    y = W0 (x R) + b,   R^T R = I                                           (paper, eq. 2)
    R = blockdiag(R_1, ..., R_n)                                            (paper, eq. 3)
    R_i = (I - Q_i)(I + Q_i)^-1,   Q_i = -Q_i^T                             (paper, section 3.3, no number)

x is a row, so W = W0 R^T: the neurons (rows of W0) turn together, their lengths and angles stay. The paper's neurons
are columns, its R W0 is this, and its Q is -Q here.
`side="output"` turns the layer's output without its bias instead, W = R^T W0, at a fraction of the cost.
The change is computed from D_i = R_i - I = -2 Q_i (I + Q_i)^-1, which is exactly zero with Q_i.

Shapes: Q `(n, k (k-1)/2)`, the entries above the diagonal, row by row; n = channels / k, or 1 where all blocks share
theirs. A convolution turns its channels, alike at every kernel position, so blocks lie within a group.
Initialisation: Q zero: the start is the base.

Departures: the exact inverse; Hugging Face PEFT takes a series of five terms by default, whose R is orthogonal
only near Q = 0, and turns a convolution's unfolded patches, which its fold then adds up. No projection of Q (COFT)
and no dropout of blocks. Input rotations pass the frozen layer twice, convolutions with a changed weight once.
Refuses: layers where the block does not divide the channels of a group; embeddings, whose input is no vector.

Invariants:
1. The start equals the base bit for bit.
2. R^T R = I to machine precision (times the condition of I + Q, where Q is large), and det R = 1.
3. On the input side lengths and angles of the neurons stay, on the output side those of the columns.
4. forward = merged forward = the layer with W0 R^T (R^T W0) by hand.
5. n k (k-1)/2 parameters per site, k (k-1)/2 with shared blocks.
6. -Q gives the inverse: turning there and back is the base to rounding.
7. The gradient of Q at the start is that of the free change W0 D^T, antisymmetrised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.methods.base import Call, Delta, Method, Params, setting, work_dtype

CARD: dict[str, Any] = {
    "id": "oft",
    "class": "OFT",
    "kind": "orthogonal",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers", "-embedding"],
    "parameters": "in (k - 1) / 2",
    "paper": "arXiv 2306.07280",
    "choose": "angles between neurons must stay as pre-trained",
}


@dataclass(frozen=True)
class OFT(Method):
    """Turn a layer's input, or its output, in blocks of channels.

    Args:
        block: k, channels that turn together.
        shared: all blocks turn alike.
        side: "input", or "output".
    """

    block: int = setting(32, low=2)
    shared: bool = False
    side: str = setting("input", choices=("input", "output"))

    id: ClassVar[str] = "oft"
    reads_weight: ClassVar[bool] = True
    changes: ClassVar[str] = "weight"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds

    @property
    def unit(self) -> int:
        """Channels of a group must be a multiple of this."""
        return self.block

    def channels(self, geo: Geometry) -> int:
        return geo.in_ if self.side == "input" else geo.out

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        each = self.channels(geo) // geo.groups
        if each % self.unit:
            what = f"{type(self).__name__}: the block does not divide the channels"
            return f"{what}: {each} of a group are no multiple of {self.unit}"
        return None

    def dense_pays(self, geo: Geometry) -> bool:
        return self.side == "input"  # one pass and a weight gradient against two passes

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        n = 1 if self.shared else self.channels(geo) // self.block
        free = self.block * (self.block - 1) // 2
        return {"Q": torch.zeros(n, free, dtype=work_dtype(weight), device=weight.device)}

    def offsets(self, p: Params) -> Tensor:
        """D = R - I of each block, `(..., n, k, k)`, in float32 or wider."""
        k, q = self.block, p["Q"]
        rows, cols = torch.triu_indices(k, k, 1, device=q.device)
        full = q.new_zeros(*q.shape[:-1], k, k)
        full[..., rows, cols] = q
        full = full - full.mT
        eye = torch.eye(k, dtype=q.dtype, device=q.device)
        # I plus a skew matrix cannot be singular; without the check of its result the host does not wait for it
        d: Tensor = torch.linalg.solve_ex(eye + full, -2 * full, left=False, check_errors=False)[0]
        return d

    def turn(self, x: Tensor, d: Tensor) -> Tensor:
        """x R - x for rows x `(..., channels)`."""
        parts = x.unflatten(-1, (-1, self.block))
        d = d.expand(parts.shape[-2], -1, -1)
        return torch.einsum("...nk,nkc->...nc", parts, d).flatten(-2)

    def back(self, x: Tensor, d: Tensor) -> Tensor:
        """x R^T - x."""
        return self.turn(x, d.mT)

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        with torch.autocast(c.y.device.type, enabled=False):
            d = self.offsets(p)
            if self.side == "output":
                y = c.y if c.bias is None else c.y - geo.channels(c.bias, c.y)
                return self.turn(y.to(d.dtype).movedim(geo.axis, -1), d).movedim(-1, geo.axis)
            h = self.turn(c.x.to(d.dtype).movedim(geo.axis, -1), d).movedim(-1, geo.axis)
        return geo.run(h.to(c.y.dtype), c.weight, None, c.y)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        d, axis = self.offsets(p), 2 if self.side == "input" else 1
        rows = geo.canonical(weight).movedim((0, axis), (-2, -1))
        moved = (self.back if self.side == "input" else self.turn)(rows.flatten(-2), d)
        return Delta(weight=geo.layout(moved.view(rows.shape).movedim((-2, -1), (0, axis))))
