"""What PiSSA and MiLoRA share: LoRA measured against its own start, on a weight that stays untouched.

    W = W0 + s (B A - B0 A0)

A0 and B0 are singular triplets of W0, kept frozen; A and B start as they do. Since B A - B0 A0 = (B - B0) A +
B0 (A - A0), the change is one product of rank 2r, [B - B0, B0] [A; A - A0], each of whose terms is exactly 0 at the
start. Nothing cancels there, so neither the start nor a small change is lost in rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graftwork.algebra.geometry import Geometry, split
from graftwork.methods.base import Call, Delta, Factors, Params, rank_above, setting
from graftwork.methods.lora import LoRA
from graftwork.starts import svd


@dataclass(frozen=True)
class Residual(LoRA):
    """LoRA from chosen singular triplets of the weight.

    Args:
        alpha: numerator of the scale, above 0; `None` means alpha = rank.
    """

    alpha: float | None = setting(None, low=0.001)

    half_files: ClassVar[bool] = False

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        if not geo.splits(self.rank):
            own = f"{type(self).__name__}.rank = {self.rank}"
            return f"{own} is a rank that the groups do not divide ({geo.groups} of them)"
        return rank_above(self, geo.groups * svd.width(geo))

    def triplets(self, w: Tensor, k: int) -> svd.Triplets:
        """The k triplets of each matrix `(groups, m, n)` that train."""
        raise NotImplementedError

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        found = self.triplets(svd.matrices(geo, weight), self.rank // geo.groups)
        a, b = svd.factors(geo, found, 1 / self.scale)
        return {"A": a, "B": b}

    def frozen(
        self, geo: Geometry, weight: Tensor, bias: Tensor | None, start: Params
    ) -> dict[str, Tensor]:
        return {"A0": start["A"], "B0": start["B"]}

    def difference(self, geo: Geometry, p: Params) -> Mapping[str, Tensor]:
        """B A - B0 A0 as factors of rank 2r in LoRA's shapes."""
        return dict(zip("AB", difference(p, geo.groups), strict=True))

    def factors(self, geo: Geometry, p: Params, training: bool) -> Factors | None:
        if self.dropout > 0 and training:
            return None
        d = self.difference(geo, p)
        return Factors(d["A"], d["B"], self.scale)

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        return self.branch(geo, self.difference(geo, p), c, self.scale)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        d = self.difference(geo, p)
        return Delta(weight=self.scale * geo.product(d["A"], d["B"]))


def difference(p: Params, groups: int = 1) -> tuple[Tensor, Tensor]:
    """[A; A - A0] and [B - B0, B0], of each group, in LoRA's shapes: their product is B A - B0 A0.

    A start of zero keeps no A0 and B0: then A and B are the difference themselves.
    """
    if "A0" not in p:
        return p["A"], p["B"]
    rows = [split(t, groups) for t in (p["A"], p["A"] - p["A0"])]
    columns = [p["B"] - p["B0"], p["B0"]]
    return torch.cat(rows, dim=1).flatten(0, 1), torch.cat(columns, dim=1)
