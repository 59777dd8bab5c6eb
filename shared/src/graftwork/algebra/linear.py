"""Linear maps: `nn.Linear`, transformers' transposed `Conv1D`, `nn.Embedding`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.algebra.geometry import BlockPlan, Geometry, fit
from graftwork.algebra.products import changed_norm, exact_mm


@dataclass(frozen=True)
class Linear(Geometry):
    """`y = x W^T + b`, W `(out, in)`; x of any leading shape."""

    out_attribute: ClassVar[str] = "out_features"

    @property
    def kind(self) -> str:
        return "linear"

    def run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor | None = None
    ) -> Tensor:
        return F.linear(x, weight, bias)

    def canonical(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(0)

    def layout(self, canonical: Tensor) -> Tensor:
        return canonical.squeeze(0)

    def _through(self, x: Tensor, a: Tensor, groups: int, y: Tensor) -> Tensor:
        return F.linear(x, a)

    def _mix(self, h: Tensor, b: Tensor, groups: int, bias: Tensor | None) -> Tensor:
        return F.linear(h, b, bias)

    @torch.no_grad()
    def changed_norms(self, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """||w_o + s b_o A|| (out,) without the sum's matrix, for rows w_o of W and b_o of B:

            ||w + s b A||^2 = ||w||^2 + s b (2 A w + s A A^T b)

        in the precision of A, with A as it is rounded for the base's products: where W + s B A nearly cancels, the
        difference of the two would count. With B = 0 it is ||w|| exactly.
        """
        rows = self.rows(weight)
        # in the dtype of A as a start takes it, so that m / n starts at 1; half precision is not copied
        same = rows.dtype == a.dtype
        norm: Tensor = (
            rows.norm(dim=1) if same else torch.linalg.vector_norm(rows, dim=1, dtype=a.dtype)
        )
        wide, half = a.dtype, a.to(rows.dtype)
        cross, a = exact_mm(rows, half.t(), wide), half.to(wide)
        more = (b * (2 * cross + scale * (b @ (a @ a.t())))).sum(1)
        return changed_norm(norm, scale * more)

    def run_blocks(self, x: Tensor, d: Tensor, plan: BlockPlan, y: Tensor) -> Tensor:
        x = fit(x, -1, plan.count * plan.cols).unflatten(-1, (plan.count, plan.cols))
        h = torch.einsum("...ni,noi->...no", x, d.squeeze(0))
        return fit(h.flatten(-2), -1, self.out)


@dataclass(frozen=True)
class TransposedLinear(Linear):
    """transformers' `Conv1D` (GPT-2): the same map with W stored `(in, out)`."""

    out_attribute: ClassVar[str] = "nf"

    @property
    def kind(self) -> str:
        return "transposed_linear"

    def run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor | None = None
    ) -> Tensor:
        return F.linear(x, weight.transpose(0, 1), bias)

    def canonical(self, weight: Tensor) -> Tensor:
        return weight.transpose(0, 1).unsqueeze(0)

    def layout(self, canonical: Tensor) -> Tensor:
        return canonical.squeeze(0).transpose(0, 1)


@dataclass(frozen=True)
class Embedding(Geometry):
    """A table of `in` tokens x `out` features: the map of one-hot inputs, W stored `(in, out)`."""

    padding_idx: int | None = None
    scale_grad_by_freq: bool = False
    out_attribute: ClassVar[str] = "num_embeddings"

    @property
    def kind(self) -> str:
        return "embedding"

    def run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor | None = None
    ) -> Tensor:
        return F.embedding(x, weight)

    def graded(self, change: Tensor, x: Tensor) -> Tensor:
        # torch gives the padding token's row no gradient, and may divide a row's by its occurrences;
        # factors that all tokens share (B, magnitudes, scales) must see the same
        if self.padding_idx is None and not self.scale_grad_by_freq:
            return change
        factor = torch.ones_like(x, dtype=change.dtype)
        if self.scale_grad_by_freq:
            tokens = x.flatten().long()
            ones = torch.ones_like(tokens, dtype=change.dtype)
            count = torch.zeros(self.in_, dtype=change.dtype, device=x.device)
            factor = 1 / count.index_add(0, tokens, ones)[x.long()]
        if self.padding_idx is not None:
            factor = torch.where(x == self.padding_idx, 0, factor)
        fixed = change.detach()
        return fixed + (change - fixed) * factor.unsqueeze(-1)

    def canonical(self, weight: Tensor) -> Tensor:
        return weight.transpose(0, 1).unsqueeze(0)

    def layout(self, canonical: Tensor) -> Tensor:
        return canonical.squeeze(0).transpose(0, 1)

    def scale_in(self, x: Tensor, vector: Tensor, weight: Tensor, y: Tensor) -> Tensor:
        return self.run(x, weight, None) * self.run(x, vector.unsqueeze(1), None)

    def _through(self, x: Tensor, a: Tensor, groups: int, y: Tensor) -> Tensor:
        return self.run(x, a.transpose(0, 1), None)

    def _mix(self, h: Tensor, b: Tensor, groups: int, bias: Tensor | None) -> Tensor:
        return F.linear(h, b, bias)

    def run_blocks(self, x: Tensor, d: Tensor, plan: BlockPlan, y: Tensor) -> Tensor:
        # token t lies in block t // cols; its column of that block lands in the block's output rows
        table = d.squeeze(0).transpose(1, 2).flatten(0, 1)
        table = fit(table, 0, max(self.in_, table.shape[0]))
        values = self.run(x, table, None)
        block = torch.div(x.long(), plan.cols, rounding_mode="floor").clamp(max=plan.count)
        slot = F.one_hot(block, plan.count + 1)[..., : plan.count].to(values.dtype)
        return fit((slot.unsqueeze(-1) * values.unsqueeze(-2)).flatten(-2), -1, self.out)


@dataclass(frozen=True)
class Block(Linear):
    """A whole sub-module seen from outside: features in and out on the last axis, weights unknown.

    Only activation branches can sit here; there is no one weight to change.

    Args:
        batch_first: its rows come before its positions, as everywhere but in torch's own attention.
    """

    batch_first: bool = True

    @property
    def kind(self) -> str:
        return "block"

    def run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError("a block has no single weight")


@dataclass(frozen=True)
class Attention(Geometry):
    """A whole attention module: `out` features of its keys and `in_` of its values, all heads together.

    Only methods that change what its attention sees can sit here.
    """

    @property
    def kind(self) -> str:
        return "attention"
