"""Rows in and out of a module's call: the arguments of some rows, outputs of several parts joined in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from graftwork.errors import GraftError
from graftwork.tenants.segments import Run, Segments

Spans = Sequence[tuple[int, int]]


def spans(runs: Sequence[Run], each: int) -> list[tuple[int, int]]:
    """First and last-but-one places of the runs' entries, where a row has `each` of them."""
    return [(r.start * each, r.stop * each) for r in runs]


def part(t: Tensor, places: Spans) -> Tensor:
    """The entries of the first axis at these places; a view where they lie together."""
    found = [t.narrow(0, a, b - a) for a, b in places]
    return found[0] if len(found) == 1 else torch.cat(found)


def arguments(args: Any, kwargs: Any, count: int, places: Spans) -> tuple[Any, Any]:
    """A call's arguments for some of its `count` entries; tensors whose first axis is not the entries stay whole.

    Raises:
        GraftError: the call holds a key-value cache, which cannot be cut.
    """

    def cut(leaf: Any) -> Any:
        if hasattr(leaf, "get_seq_length"):
            raise GraftError(
                "tenants: a module that runs once for each task was called with a key-value cache; pass use_cache=False"
            )
        if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == count:
            return part(leaf, places)
        return leaf

    cut_args: Any = tree_map(cut, args)
    cut_kwargs: Any = tree_map(cut, kwargs)
    return cut_args, cut_kwargs


def join(outs: Sequence[Any], places: Sequence[Spans]) -> Any:
    """One output from those of several parts; `places[i]` is where the entries of `outs[i]` belong.

    Raises:
        GraftError: the parts return unlike things.
    """
    flat = [tree_flatten(o) for o in outs]
    first, shape = flat[0]
    if any(s != shape for _, s in flat):
        raise GraftError("tenants: a module returns another structure for some tasks' rows")
    joined = []
    for leaves in zip(*(f for f, _ in flat), strict=True):
        counts = [sum(b - a for a, b in p) for p in places]
        if all(
            isinstance(t, Tensor) and t.dim() and t.shape[0] == n
            for t, n in zip(leaves, counts, strict=True)
        ):
            joined.append(ordered(leaves, places))
        else:
            joined.append(leaves[0])
    return tree_unflatten(joined, shape) if len(first) else outs[0]


def ordered(parts: Sequence[Tensor], places: Sequence[Spans]) -> Tensor:
    """Parts of the first axis, put back in order."""
    pieces: list[tuple[int, Tensor]] = []
    for t, spots in zip(parts, places, strict=True):
        if len(spots) == 1:
            pieces.append((spots[0][0], t))
            continue
        for (start, _), piece in zip(spots, t.split([b - a for a, b in spots]), strict=True):
            pieces.append((start, piece))
    found = [t for _, t in sorted(pieces, key=lambda item: item[0])]
    if any(t.shape[1:] != found[0].shape[1:] for t in found):
        raise GraftError(
            "tenants: tasks' rows come out of a module in different shapes; new output rows cannot be mixed"
        )
    return found[0] if len(found) == 1 else torch.cat(found)


def others(segments: Segments, names: Sequence[str]) -> tuple[Run, ...]:
    """The runs that belong to none of these tasks."""
    return tuple(r for r in segments.runs if r.name not in names)
