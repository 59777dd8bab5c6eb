"""What a merge into a quantised weight loses: it has to be rounded to the few values that its format has."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from graftwork.algebra import quantised
from graftwork.errors import GraftError


class Rounding(NamedTuple):
    """The error of one layer's weight, merged and rounded, against the merged weight.

    Attributes:
        largest: the largest of an element.
        relative: the Frobenius norm over that of the merged weight.
        of_change: the Frobenius norm over that of the merged change; above 1 more is lost than was learnt.
    """

    largest: float
    relative: float
    of_change: float


class Roundings(dict[str, Rounding]):
    """The error of each layer that was rounded, by name; prints as a table.

    Args:
        asked: whether a merge may round.
        keep: where the merge keeps the old tensors.
    """

    def __init__(self, asked: bool, keep: str | bool) -> None:
        super().__init__()
        self.asked, self.keep = asked, keep

    def stored(self, name: str, module: nn.Module, merged: Tensor) -> Tensor:
        """A quantised layer's merged weight as the layer stores its own, the error noted.

        Raises:
            GraftError: rounding was not asked for, or cannot be done.
        """
        how = quantised.scheme(module)
        why = quantised.refuses_rounding(module)
        if why is not None:
            raise GraftError(f"merge: {name}: {why}")
        if not self.asked:
            raise GraftError(
                f"merge: {name}: its weight is {how}, and merging would round the change to its few values; "
                "merge(round=True) does so and tells the error, or merge into a base that is not quantised"
            )
        if self.keep not in ("device", False):
            raise GraftError(
                f"merge: keep={self.keep!r}: a quantised weight is kept on its device, or not at all"
            )
        new = quantised.rounded(module, merged)
        error = (quantised.decoded(new, merged.shape) - merged).float()
        change = (merged - quantised.dense(module, merged.dtype)).float().norm()
        self[name] = Rounding(
            float(error.abs().max()),
            float(error.norm() / merged.float().norm().clamp_min(1e-30)),
            float(error.norm() / change) if change > 0 else math.inf,
        )
        return new

    def __str__(self) -> str:
        """One line a layer, the worst first."""
        wide = max(map(len, ["merged and rounded", *self]))
        lines = [f"{'merged and rounded':<{wide}}  largest   relative  of the change"]
        for name, r in sorted(self.items(), key=lambda item: -item[1].of_change):
            lines.append(f"{name:<{wide}}  {r.largest:.2e}  {r.relative:.2e}  {r.of_change:.2e}")
        return "\n".join(lines)
