"""In which blocks of vectors the low-rank products of several tasks are made.

Tiles are what a batched product needs: M blocks of h vectors, each of one task alone. Where the runs' lengths have a
large common divisor the tiles are views of the vectors as they lie; elsewhere vectors are gathered, and the last
tile of a run is filled up with vectors of the same run whose products count nothing. A tile never holds two tasks'
vectors, so nothing that is not finite can reach another task, not even as a zero times infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graftwork.tenants.segments import Run

#: tiles that are views may be so small, or so many times the runs, before gathering pays
SMALL, MANY = 32, 4
#: a table of every member's tiles may be so many times the tiles
EVEN = 2


class Tiles:
    """Vectors of some tasks, as M tiles of h vectors.

    Args:
        runs: of a batch's rows.
        each: vectors of a row.
        members: the tasks that take part, in the order of their factors; others' vectors get nothing added.

    Attributes:
        owner: for each tile its member's place, or `len(members)` for nobody's.
        size: h.
        index: where the tiles' vectors lie, `(M h,)`; `None`: they are all vectors, in order.
        real: which of them are counted, `(M h,)`; `None`: all.
        one_each: tile i is member i's, and there is no other.
    """

    def __init__(self, runs: Sequence[Run], each: int, members: Sequence[str]) -> None:
        place = {name: i for i, name in enumerate(members)}
        none = len(members)
        spans = [(place.get(r.name, none), r.start * each, r.stop * each) for r in runs]
        total = spans[-1][2]
        whole = math.gcd(*(stop - start for _, start, stop in spans))
        self.index: Tensor | None = None
        self.real: Tensor | None = None
        if whole >= SMALL or total // whole <= MANY * len(spans):
            self.size = whole
            owner = [i for i, start, stop in spans for _ in range((stop - start) // whole)]
        else:
            mine = [s for s in spans if s[0] != none]
            self.size = _tile(tuple(stop - start for _, start, stop in mine))
            owner, places, real = [], [], []
            for i, start, stop in mine:
                tiles = -(-(stop - start) // self.size)
                owner += [i] * tiles
                fill = tiles * self.size - (stop - start)
                places += [*range(start, stop), *([start] * fill)]
                real += [True] * (stop - start) + [False] * fill
            self.index = torch.tensor(places)
            self.real = None if all(real) else torch.tensor(real)
        self.owner = torch.tensor(owner)
        tiles_of = [[t for t, i in enumerate(owner) if i == m] for m in range(none)]
        self._own = [torch.tensor(own, dtype=torch.long) for own in tiles_of]
        most = max(map(len, tiles_of))
        self._table: Tensor | None = None
        self._filled: Tensor | None = None
        if all(tiles_of) and most * none <= EVEN * len(owner):
            rows = [own + [own[0]] * (most - len(own)) for own in tiles_of]
            self._table = torch.tensor(rows)
            spare = [len(own) <= k for own in tiles_of for k in range(most)]
            self._filled = torch.tensor(spare).nonzero().squeeze(1) if any(spare) else None
        self.one_each = owner == list(range(none))
        self.members = none
        self._valid: Tensor | None = None
        self._rows: Tensor | None = None
        if self.index is not None:
            self._valid = None if self.real is None else self.real.nonzero().squeeze(1)
            self._rows = self.index if self._valid is None else self.index[self._valid]

    def to(self, device: torch.device) -> Tiles:
        """The same on a device."""
        for name in ("owner", "index", "real", "_valid", "_rows", "_table", "_filled"):
            t = getattr(self, name)
            if t is not None:
                setattr(self, name, t.to(device))
        self._own = [t.to(device) for t in self._own]
        return self

    def factors(self, stack: Tensor) -> Tensor:
        """One factor for each tile, `(M, ...)`, from `(members + 1, ...)`, whose last is zero."""
        return stack[:-1] if self.one_each else stack.index_select(0, self.owner)

    def split(self, flat: Tensor) -> Tensor:
        """Vectors `(n, d)` as tiles `(M, h, d)`."""
        if self.index is not None:
            flat = flat.index_select(0, self.index)
        return flat.view(-1, self.size, flat.shape[1])

    def mask_(self, tiles: Tensor) -> Tensor:
        """The same, zero where a vector only fills a tile up; in place."""
        if self.real is not None:
            tiles.masked_fill_(~self.real.view(-1, self.size, 1), 0)
        return tiles

    def add_product_(self, flat: Tensor, a: Tensor, b: Tensor) -> None:
        """`flat` (n, d) += a b by tiles, for a (M, h, r) and b (M, r, d)."""
        if self.index is None:
            tiles = flat.view(-1, self.size, flat.shape[1])
            tiles.baddbmm_(a, b)
            return
        product = a.bmm(b).flatten(0, 1)
        if self._valid is not None:
            product = product.index_select(0, self._valid)
        assert self._rows is not None
        flat.index_add_(0, self._rows, product)

    def product(self, count: int, a: Tensor, b: Tensor) -> Tensor:
        """a b by tiles as vectors `(count, d)`, zero where there is no tile."""
        if self.index is None:
            return a.bmm(b).flatten(0, 1)
        out = a.new_zeros(count, b.shape[2])
        self.add_product_(out, a, b)
        return out

    def total(self, parts: Tensor) -> Tensor:
        """What belongs to each member, `(members, ...)`, from `(M, ...)`; added up in one order always."""
        if self.one_each:
            return parts
        if self._table is None:
            return torch.stack([parts.index_select(0, own).sum(0) for own in self._own])
        found = parts.index_select(0, self._table.flatten())
        if self._filled is not None:
            found.index_fill_(0, self._filled, 0)  # an assignment would copy its zero from the host
        return found.view(*self._table.shape, *parts.shape[1:]).sum(1)


def _tile(lengths: tuple[int, ...]) -> int:
    """The tile with the least vectors, filled up, and a price for each tile."""
    sizes = {max(lengths), *(s for s in (16, 32, 64, 128, 256, 512) if s < max(lengths))}
    return min(sizes, key=lambda s: sum(-(-n // s) * (s + 16) for n in lengths))
