"""One frozen linear map, and a low-rank branch for each task's own vectors, as one autograd function.

    Y = X W^T + b + tiles(s_t (X_t A_t^T) B_t^T)                  for the vectors X_t of tasks t = 1 .. m

The frozen product is one for all tasks, the branches' are two batched ones. X and P_t = s_t X_t A_t^T are all that is
kept.

    dP_t = s_t dY_t B_t,   dB_t = dY_t^T P_t,   dA_t = dP_t^T X_t,   dX = tiles(dP_t A_t) + dY W

Source: the equations of spatial batching in MuxTune (arXiv 2603.02885). Ranks that differ are filled up with zeros.
Each task's gradients go straight to its own factors' `.grad`, as parts of one tensor, so that no operation is issued
for each task; hooks on the factors do not run.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graftwork.algebra.products import bmm
from graftwork.fast.blocks import owned
from graftwork.fast.linear import direct
from graftwork.tenants.tiles import Tiles


@dataclass
class Member:
    """One task's factors at a layer: A (r, in), B (out, r), s, and the probability of dropout on their input."""

    name: str
    a: Tensor
    b: Tensor
    scale: float
    dropout: float = 0.0


@dataclass
class Bundle:
    """The tasks with plain factors at one linear layer.

    Args:
        members: of one dtype, on the layer's device.
        layer: the grafted layer.
        weight: its W (out, in), any strides, frozen.
        bias: its b; frozen.
        dtype: of the products.
    """

    members: Sequence[Member]
    layer: weakref.ref[Any]
    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    #: (members + 1, r, in) and (members + 1, out, r) in `dtype`, the last one zero
    a: Tensor = field(init=False)
    b: Tensor = field(init=False)
    scales: Tensor | None = field(init=False)
    #: without the last one, A, A^T, B, B^T and s: what a pass with one tile for each member reads
    views: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None] = field(init=False)

    def __post_init__(self) -> None:
        first = self.members[0]
        self.weight_t = self.weight.t()
        self.names = tuple(m.name for m in self.members)
        self.rank = max(m.a.shape[0] for m in self.members)
        self.equal = all(m.a.shape[0] == self.rank for m in self.members)
        self.shapes = (
            (len(self.members) + 1, self.rank, first.a.shape[1]),
            (len(self.members) + 1, first.b.shape[0], self.rank),
        )
        each = [m.scale for m in self.members]
        self.scales = None
        if any(s != 1.0 for s in each):
            wide = torch.promote_types(first.a.dtype, torch.float32)
            self.scales = torch.tensor([*each, 0.0], dtype=wide, device=first.a.device)
            self.scales = self.scales.view(-1, 1, 1)

    def room(self, a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Take stacks of zeros as the factors' place; (where to, from what) for each factor."""
        self.a, self.b = a, b
        self.views = _factors(self, None)
        out = []
        for i, m in enumerate(self.members):
            r = m.a.shape[0]
            out += [(a[i, :r], m.a), (b[i, :, :r], m.b)]
        return out


class Token:
    """Held by the graph of a pass; while it lives, the pass's copies of factors may be read again."""


class Stacks:
    """The factors of all bundles of a set of tasks, copied in a few operations at the begin of a pass."""

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        self.bundles = bundles
        self._pairs: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        self._held: weakref.ref[Token] | None = None

    def fill(self) -> Token:
        """Copy what the factors are now."""
        if not self._pairs or (self._held is not None and self._held() is not None):
            self._allocate()
        with torch.no_grad():
            for new, old in self._pairs.values():
                torch._foreach_copy_(new, old)
        token = Token()
        self._held = weakref.ref(token)
        return token

    def held(self) -> Any:
        """Keeps the stacks that are filled now; a pass beside one that still lives gets others."""
        return self._pairs

    def _allocate(self) -> None:
        self._pairs = {}
        for bundle in self.bundles:
            device = bundle.members[0].a.device
            stacks = [torch.zeros(s, dtype=bundle.dtype, device=device) for s in bundle.shapes]
            key = (device, bundle.dtype, bundle.members[0].a.dtype)
            new, old = self._pairs.setdefault(key, ([], []))
            for to, source in bundle.room(*stacks):
                new.append(to)
                old.append(source)


def grouped_linear(
    x: Tensor,
    dropped: Tensor | None,
    bundle: Bundle,
    tiles: Tiles,
    anchor: Tensor,
    token: Token | None,
) -> Tensor:
    """The layer's output (..., out) for x (..., in), with every member's branch on its own vectors.

    Args:
        x: of the bundle's dtype.
        dropped: (vectors, in), what the branches read in its place; `None`: x.
        bundle: its stacks are filled.
        tiles: of x's vectors.
        anchor: a scalar that asks for a gradient, so that the factors get theirs where x needs none.
        token: of the pass.
    """
    y: Tensor = _Grouped.apply(x, dropped, anchor, bundle, tiles, token)
    return y


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        anchor: Tensor,
        c: Bundle,
        tiles: Tiles,
        token: Token | None,
    ) -> Tensor:
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        a, a_t, b, b_t, scale = c.views if tiles.one_each else _factors(c, tiles)
        p = tiles.split(rows if dropped is None else dropped).bmm(a_t)
        if scale is not None:
            p.mul_(scale)
        tiles.mask_(p)
        y, flat = _frozen(x, rows, c, b)
        tiles.add_product_(flat, p, b_t)
        ctx.save_for_backward(x if dropped is None else dropped, p)
        ctx.shape, ctx.apart = x.shape, dropped is not None
        ctx.bundle, ctx.tiles, ctx.factors, ctx.token = c, tiles, (a, b, scale), token
        return owned(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, p = ctx.saved_tensors
        c: Bundle = ctx.bundle
        tiles: Tiles = ctx.tiles
        a, b, scale = ctx.factors
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        dy = g if g.dim() == 2 else g.reshape(-1, g.shape[-1])
        by_tile = tiles.split(dy)
        dp = by_tile.bmm(b)
        if scale is not None:
            dp.mul_(scale)
        tiles.mask_(dp)
        wide = c.members[0].b.dtype
        d_b = tiles.total(bmm(by_tile.transpose(1, 2), p, wide))
        d_a = tiles.total(bmm(dp.transpose(1, 2), tiles.split(rows), wide))
        _give(c, d_a, d_b)
        dx = d_dropped = None
        if ctx.needs_input_grad[1] or (ctx.needs_input_grad[0] and not ctx.apart):
            dx = tiles.product(rows.shape[0], dp, a)
        if ctx.apart:
            d_dropped, dx = dx, None
        if ctx.needs_input_grad[0]:
            dx = dy.mm(c.weight) if dx is None else dx.addmm_(dy, c.weight)
            dx = dx.view(ctx.shape)
        return dx, d_dropped, None, None, None, None


def _factors(
    c: Bundle, tiles: Tiles | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """A, A^T, B, B^T and s for each tile, or for each member."""
    a, b, scale = (
        None if t is None else t[:-1] if tiles is None else tiles.factors(t)
        for t in (c.a, c.b, c.scales)
    )
    assert a is not None and b is not None
    return a, a.transpose(1, 2), b, b.transpose(1, 2), scale


def _frozen(x: Tensor, rows: Tensor, c: Bundle, b: Tensor) -> tuple[Tensor, Tensor]:
    """The frozen product, and the same as (vectors, out)."""
    if direct(x, c.bias):
        y = x.new_empty(*x.shape[:-1], b.shape[1])
        flat = y.view(-1, y.shape[-1])
        if c.bias is None:
            torch.mm(rows, c.weight_t, out=flat)
        else:
            torch.addmm(c.bias, rows, c.weight_t, out=flat)
    else:
        layer: Any = c.layer()
        y = layer._base_class.forward(layer, x).contiguous()
    return y, y.view(-1, y.shape[-1])


def _give(c: Bundle, d_a: Tensor, d_b: Tensor) -> None:
    """Add the stacked gradients to the members' own."""
    for m, g_a, g_b in zip(c.members, d_a.unbind(), d_b.unbind(), strict=True):
        if not c.equal:
            r = m.a.shape[0]
            g_a, g_b = g_a[:r], g_b[:, :r].contiguous()
        for p, g in ((m.a, g_a), (m.b, g_b)):
            if p.requires_grad:
                if p.grad is None:
                    p.grad = g
                else:
                    p.grad.add_(g)


def alike(members: Sequence[Member]) -> list[Member]:
    """The members that one bundle can hold: those of the first one's dtype and device."""
    first = members[0].a
    return [m for m in members if m.a.dtype is first.dtype and m.a.device == first.device]
