"""Which rows of a batch belong to which task.

A row is an entry of the batch's first axis, or a token where several tasks are packed into one sequence. A layer
that sees more vectors than there are rows (a sequence's tokens, an image's windows) sees each row's vectors one
behind another.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.errors import GraftError

#: the name of rows that belong to nobody, such as padding: they see the base
NOBODY = ""


@dataclass(frozen=True)
class Run:
    """Rows `start .. stop - 1` of a task."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Segments:
    """The runs of rows of a batch, in order.

    Args:
        names: whose each run is; a name may come several times, and `""` is nobody's.
        sizes: rows in each run, 0 or more; together all rows of the batch.

    Raises:
        GraftError: lengths that differ, negative sizes, or no row at all.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "sizes", tuple(int(n) for n in self.sizes))
        if len(self.names) != len(self.sizes):
            raise GraftError(
                f"Segments: {len(self.names)} names and {len(self.sizes)} sizes; give one size for each name"
            )
        if any(n < 0 for n in self.sizes) or sum(self.sizes) == 0:
            raise GraftError(f"Segments.sizes: {self.sizes} must be 0 or more each, and not all 0")

    @classmethod
    def per_row(cls, names: Sequence[str]) -> Segments:
        """From one name for each row."""
        runs = [(name, len(list(same))) for name, same in itertools.groupby(names)]
        return cls(tuple(n for n, _ in runs), tuple(n for _, n in runs))

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return sum(self.sizes)

    @functools.cached_property
    def tasks(self) -> tuple[str, ...]:
        """The names of those with rows, once each, without nobody's."""
        return tuple(dict.fromkeys(r.name for r in self.runs if r.name != NOBODY))

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """All runs that are not empty; neighbours of one name are one run."""
        out: list[Run] = []
        start = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            if size and out and out[-1].name == name:
                out[-1] = Run(name, out[-1].start, start + size)
            elif size:
                out.append(Run(name, start, start + size))
            start += size
        return tuple(out)

    def runs_of(self, name: str) -> tuple[Run, ...]:
        """The runs of one task."""
        return tuple(r for r in self.runs if r.name == name)

    def alone(self, name: str) -> Segments:
        """The segments of a batch that holds this task's rows and no other's.

        Raises:
            GraftError: it has no row here.
        """
        return Segments((name,), (sum(r.stop - r.start for r in self.runs_of(name)),))

    def vectors(self, count: int) -> int:
        """How many of `count` vectors each row has.

        Raises:
            GraftError: `count` is no multiple of the rows.
        """
        if count % self.rows:
            raise GraftError(
                f"tenants: a layer was called with {count} vectors in a batch of {self.rows} rows: whose each one is "
                "cannot be told. The rows must come first, each row's vectors one behind another"
            )
        return count // self.rows

    def spread(self, count: int) -> tuple[tuple[Run, ...], int]:
        """The runs, and how many of `count` vectors each row has; where one task is alone, all are its own.

        Raises:
            GraftError: several tasks' rows, and `count` is no multiple of them.
        """
        if len(self.runs) == 1 and count % self.rows:
            return (Run(self.runs[0].name, 0, count),), 1
        return self.runs, self.vectors(count)

    def take(self, t: Tensor, name: str) -> Tensor:
        """A task's part of a tensor, `(its rows, ...)`: a view where they lie together.

        Args:
            t: `(rows, ...)`, or `(.., features)` whose leading axes together are the rows (packed sequences).

        Raises:
            GraftError: its leading axes are no multiple of the rows.
        """
        if t.shape[0] % self.rows:
            t = t.flatten(0, -2)
        each = self.vectors(t.shape[0])
        parts = [t.narrow(0, r.start * each, (r.stop - r.start) * each) for r in self.runs_of(name)]
        if not parts:
            return t[:0]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
