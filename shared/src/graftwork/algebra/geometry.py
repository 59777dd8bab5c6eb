"""What every layer kind has in common: a linear map between channels, seen in one canonical shape.

A layer's weight is viewed as `(groups, out/groups, in/groups, *kernel)`. Methods are written once
against this view and never ask which layer they sit on; the layer kinds translate to and from the
stored layout and run the layer's own arithmetic (stride, padding mode, dilation, output padding).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class BlockPlan:
    """Diagonal blocks of each group's `(out/g, in/g)` matrix: `count` blocks of `rows x cols`."""

    count: int
    rows: int
    cols: int


@dataclass(frozen=True)
class Geometry:
    """Shape and arithmetic of one linear layer.

    Args:
        out: output channels of all groups.
        in_: input channels of all groups (for an embedding: the number of tokens).
        groups: channel groups; 1 for everything but convolutions.
        kernel: spatial kernel; empty for linear maps.
    """

    out: int
    in_: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    #: attributes of the layer that hold `out` and `in_`, so that merged new rows can widen it
    out_attribute: ClassVar[str] = ""

    # -- the layer's own arithmetic; each kind supplies it ------------------------------------

    @property
    def kind(self) -> str:
        """The kind's name in cards, passports and refusals, such as `conv3d`."""
        raise NotImplementedError

    def run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor | None = None
    ) -> Tensor:
        """The layer's output for `weight` and `bias` in place of its own.

        `y` is any output of the layer for this `x`; only its shape is read (a transposed
        convolution's `output_size` is a property of the call, not of the layer).
        """
        raise NotImplementedError

    def canonical(self, weight: Tensor) -> Tensor:
        """Stored layout -> `(groups, out/groups, in/groups, *kernel)`."""
        raise NotImplementedError

    def layout(self, canonical: Tensor) -> Tensor:
        """Inverse of `canonical`."""
        raise NotImplementedError

    def channels(self, vector: Tensor, y: Tensor) -> Tensor:
        """View a vector of output channels so that it broadcasts over the layer's output `y`."""
        return vector.reshape(vector.numel(), *[1] * self.spatial)

    def scale_in(self, x: Tensor, vector: Tensor, weight: Tensor, y: Tensor) -> Tensor:
        """Output (without bias) when each input channel is multiplied by `vector` `(in,)` first."""
        scaled = (x * vector.reshape(self.in_, *[1] * self.spatial)).to(x.dtype)
        return self.run(scaled, weight, None, y)

    def _through(self, x: Tensor, a: Tensor, groups: int, y: Tensor) -> Tensor:
        """`x` through a weight given canonically as `(rows, in/groups, *kernel)` over `groups`."""
        raise NotImplementedError

    def _mix(self, h: Tensor, b: Tensor, groups: int, bias: Tensor | None) -> Tensor:
        """Per-position channel mix: `b` is `(out, rows/groups)`, `bias` `(out,)`."""
        raise NotImplementedError

    def run_blocks(self, x: Tensor, d: Tensor, plan: BlockPlan, y: Tensor) -> Tensor:
        """`x` through diagonal blocks `d` `(groups, count, rows, cols, *kernel)`, never dense."""
        raise NotImplementedError

    def graded(self, change: Tensor, x: Tensor) -> Tensor:
        """`change`, with the gradient that the layer would pass to its own weight at input `x`."""
        return change

    # -- derived once for all kinds -----------------------------------------------------------

    @property
    def spatial(self) -> int:
        """Number of spatial dimensions."""
        return len(self.kernel)

    @property
    def axis(self) -> int:
        """The channel axis of the layer's output, counted from the end."""
        return -1 - self.spatial

    @property
    def group_shape(self) -> tuple[int, int]:
        """`(out/groups, in/groups)`."""
        return self.out // self.groups, self.in_ // self.groups

    def with_out(self, out: int) -> Geometry:
        """The same layer with another number of outputs."""
        return replace(self, out=out)

    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the stored weight."""
        canonical = torch.empty(self.groups, *self.group_shape, *self.kernel, device="meta")
        return tuple(self.layout(canonical).shape)

    # Low-rank factors: per group where the rank allows it (peft's file layout), shared otherwise.

    def splits(self, rank: int) -> bool:
        """Whether each group gets `rank/groups` rows of its own."""
        return rank % self.groups == 0

    def largest_rank(self, rank: int) -> int:
        """The rank beyond which factors laid out as for `rank` reach no further change of the weight."""
        groups = self.groups if self.splits(rank) else 1
        columns = self.in_ // self.groups * math.prod(self.kernel)
        return groups * min(self.out // groups, columns)

    def factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A `(r, in/g, *kernel)` and B `(out, r/g, 1...)` (all r where shared)."""
        width = rank // self.groups if self.splits(rank) else rank
        return (rank, self.in_ // self.groups, *self.kernel), (self.out, width, *[1] * self.spatial)

    def lowrank(self, x: Tensor, a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        """`B(A(x))` through the layer's geometry: A takes the weight's place, B mixes channels."""
        return self.up(self.down(x, a, y), b)

    def down(self, x: Tensor, a: Tensor, y: Tensor) -> Tensor:
        """The A half of `lowrank`: hidden channels at the output's positions."""
        if self.groups > 1 and not self.splits(a.shape[0]):
            a = a.repeat(self.groups, *[1] * (a.dim() - 1))  # each group reads through the same A
        return self._through(x, a, self.groups, y)

    def up(self, h: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        """The B half of `lowrank`; a bias `(out,)` is added in the same pass."""
        return self._mix(h, b.flatten(1), self.groups, bias)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """The weight that `lowrank` applies, in the stored layout."""
        g = self.groups
        b = split(b.flatten(1), g)
        if self.splits(a.shape[0]):
            delta = torch.einsum("gor,gr...->go...", b, split(a, g))
        else:
            delta = torch.einsum("gor,r...->go...", b, a)
        return self.layout(delta)

    def rows(self, weight: Tensor) -> Tensor:
        """The weight as one row per output channel: `(out, in/g * prod(kernel))`."""
        return self.canonical(weight).flatten(2).flatten(0, 1)

    def scale_rows(self, weight: Tensor, vector: Tensor) -> Tensor:
        """The weight with each output channel multiplied by `vector` `(out,)`."""
        c = self.canonical(weight)
        return self.layout(c * vector.reshape(*c.shape[:2], *[1] * (c.dim() - 2)))

    def scale_columns(self, weight: Tensor, vector: Tensor) -> Tensor:
        """The weight with each input channel multiplied by `vector` `(in,)`."""
        c = self.canonical(weight)
        return self.layout(c * vector.reshape(self.groups, 1, -1, *[1] * self.spatial))

    def block_plan(self, blocks: int) -> BlockPlan:
        """At most `blocks` live diagonal blocks per group.

        Blocks that would lie wholly in the padding are left out: they could never train.
        """
        rows, cols = self.group_shape
        n = min(blocks, rows, cols)
        d_rows, d_cols = math.ceil(rows / n), math.ceil(cols / n)
        live = min(math.ceil(rows / d_rows), math.ceil(cols / d_cols))
        return BlockPlan(live, d_rows, d_cols)

    def block_weight(self, d: Tensor, plan: BlockPlan) -> Tensor:
        """The weight that `run_blocks` applies, in the stored layout; exactly 0 off the blocks."""
        rows, cols = self.group_shape
        eye = torch.eye(plan.count, dtype=d.dtype, device=d.device)
        full = torch.einsum("gnoi...,nm->gnomi...", d, eye)
        full = full.flatten(3, 4).flatten(1, 2)
        return self.layout(fit(fit(full, 1, rows), 2, cols))


def split(t: Tensor, groups: int) -> Tensor:
    """The first axis as `(groups, size/groups)`."""
    return t.reshape(groups, t.shape[0] // groups, *t.shape[1:])


def fit(t: Tensor, axis: int, size: int) -> Tensor:
    """Cut or zero-pad `t` at the end of `axis` to `size`."""
    have = t.shape[axis]
    if have >= size:
        return t.narrow(axis, 0, size) if have > size else t
    axis %= t.dim()
    return F.pad(t, [0, 0] * (t.dim() - 1 - axis) + [0, size - have])
