"""BOFT: orthogonal fine-tuning by butterfly factors (Liu et al. 2023, arXiv 2311.06243), exact Cayley.

    y = s (W0 (x R)) + b,   R = B_p ... B_1                                 (paper, section 4, no number)
    B_j = P_j blockdiag(R_j1, ..., R_jn) P_j^T                              (paper, eq. 1 and 2, in blocks)

R_ji as in OFT. P_j cuts every 2^(j-1) k channels into pieces of k/2 and puts the even pieces before the odd ones, so
that the j-th factor turns pieces that lie 2^(j-1) apart; P_1 is the identity. s is a gain per output channel.

Shapes: Q `(p, n, k (k-1)/2)`, n = channels / k; gain `(out,)`. Initialisation: Q zero, s one: the start is the base.

Departures: as OFT. The gain, that of the re-scaled OFT (arXiv 2306.07280, section 3.5), is off unless asked for;
Hugging Face PEFT always trains it. PEFT keeps k^2 numbers a block and antisymmetrises them; the free half is kept
here. Without its CUDA kernel PEFT sets p to 1 silently; here p is what it says.
Refuses: an odd block, at construction (half a block must exist); layers where the block does not divide the
channels of a group, or 2^(p-1) blocks do not; embeddings.

Invariants:
1. The start equals the base bit for bit.
2. R^T R = I to machine precision; lengths and angles of the neurons stay where s is one.
3. p = 1 is OFT.
4. forward = merged forward = the layer with s W0 R^T by hand, P_j as permutation matrices.
5. With k 2^(p-1) = channels every output of R sees every input.
6. p n k (k-1)/2 parameters per site, and out more with the gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.errors import GraftError
from graftwork.methods.base import Call, Delta, Params, setting
from graftwork.methods.oft import OFT

CARD: dict[str, Any] = {
    "id": "boft",
    "class": "BOFT",
    "kind": "orthogonal",
    "changes": "weight",
    "mergeable": True,
    "layer_kinds": ["layers", "-embedding"],
    "parameters": "p in (k - 1) / 2",
    "paper": "arXiv 2311.06243",
    "choose": "as OFT, where rotations must reach across its blocks",
}


@dataclass(frozen=True)
class BOFT(OFT):
    """Turn a layer's input by several block rotations with permutations between them.

    Args:
        block: k, even.
        shared: all blocks of a factor turn alike.
        side: "input", or "output".
        butterflies: p, how many.
        gain: train a gain per output channel too.
    """

    block: int = setting(4, low=2)
    butterflies: int = setting(2, low=1)
    gain: bool = False

    id: ClassVar[str] = "boft"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block % 2:
            raise GraftError(f"BOFT.block must be even, half a block must exist; not {self.block}")

    @property
    def unit(self) -> int:
        return int(self.block * 2 ** (self.butterflies - 1))

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        q = super().start(geo, weight, bias)["Q"]
        out = {"Q": q.repeat(self.butterflies, 1, 1)}
        return out | ({"gain": q.new_ones(geo.out)} if self.gain else {})

    def turn(self, x: Tensor, d: Tensor) -> Tensor:
        moved = torch.zeros_like(x)
        for j in reversed(range(len(d))):
            moved = moved + self.factor(x + moved, d[j], j)
        return moved

    def back(self, x: Tensor, d: Tensor) -> Tensor:
        moved = torch.zeros_like(x)
        for j in range(len(d)):
            moved = moved + self.factor(x + moved, d[j].mT, j)
        return moved

    def factor(self, x: Tensor, d: Tensor, j: int) -> Tensor:
        """x (B - I) for the factor whose pieces lie 2^j apart."""
        half, apart = self.block // 2, 2**j
        near = x.unflatten(-1, (-1, 2, apart, half)).transpose(-2, -3).flatten(-4)
        near = super().turn(near, d)
        out: Tensor = near.unflatten(-1, (-1, apart, 2, half)).transpose(-2, -3).flatten(-4)
        return out

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        moved = super().change(geo, p, c)
        if not self.gain:
            return moved
        y = c.y if c.bias is None else c.y - geo.channels(c.bias, c.y)
        s = geo.channels(p["gain"], c.y)
        return (s - 1) * y + s * moved

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        moved = super().weight_change(geo, p, weight, bias).weight
        assert moved is not None
        if self.gain:
            s = p["gain"]
            moved = geo.scale_rows(weight, s - 1) + geo.scale_rows(moved, s)
        return Delta(weight=moved)
