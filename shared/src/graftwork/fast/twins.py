"""Trained tensors as a pass needs them: in the layers' dtype, made for all layers of a graft in a few operations.

A cast at each layer costs an operation per tensor, and where batches are small the time to issue operations is the
step's time. So the layers of a graft share a `Pool`: the first that is called in a pass has everybody's copies made.

A version counter tells of most writes to a parameter, but not of those through `.data`, nor of memory that a wrapper
gives back and fills again (sharded training). So a copy serves one call, and none that comes after a backward pass:
whatever the counters say, the next call makes it anew. Without gradients, where neither happens, and in a CUDA graph
that somebody records, which would not make them again in its replays, a layer makes its own. A recording of ours
(`graftwork.recording`) begins with all copies due, so that the graph itself makes them.

Where a method has magnitudes m (DoRA), what they come to is made here too,

    g = m / n,   n_o = ||w_o + s b_o A||,   n_o^2 = ||w_o||^2 + s b_o (2 A w_o + s A A^T b_o)

for rows w_o of W and b_o of B, without the sum's matrix, in float32 or wider, with A as it is rounded for W's
products; where n is zero, g is 1. All layers' rows lie one behind another, so what is per row is done once for all.
||w_o||^2 is computed again when W is another tensor, has moved or was written to by anything but `.data`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graftwork.algebra.products import changed_norm, exact_mm


class _Tape(threading.local):
    """Whether this thread rehearses or records a pass of ours."""

    on = False


tape = _Tape()


class Gain(NamedTuple):
    """What multiplies a layer's output channels.

    Attributes:
        less: g - 1 (out,) in float32 or wider.
        wide: g, the same.
        up: g B (out, r) in the layer's dtype.
        norm: n (out,), infinite where it is zero, so that the gradient of m there is too.
    """

    less: Tensor
    wide: Tensor
    up: Tensor
    norm: Tensor


class Twin:
    """A layer's trained tensors and their copies; one call's worth.

    Args:
        sources: the trained tensors.
        dtype: of the copies; a source in this dtype is its own copy.
        weight: the frozen matrix (out, in), where `sources` are A, B and m.
        scale: s, the same.
        places: for each tensor that a later pass reads again, the dictionary and the name that find it, and itself.

    Attributes:
        copies: of A and B, or of the one source, in the sources' order.
        turned: the copies' transposes, where they are copies; they would cost an operation each at every call.
        gain: where there are magnitudes.
        fresh: the copies were made and not yet used.
        pool: whose the twin is.
    """

    def __init__(
        self,
        sources: Sequence[Tensor],
        dtype: torch.dtype,
        weight: Tensor | None = None,
        scale: float = 1.0,
        places: Sequence[tuple[Mapping[str, Any], str, Tensor]] = (),
    ) -> None:
        self.sources, self.weight, self.scale = tuple(sources), weight, scale
        self.places = places
        self.dtype = dtype
        self._hold(self.sources[:2])
        self.gain: Gain | None = None
        self.fresh = False
        self.pool: Pool | None = None
        self.stack: tuple[Tensor, Tensor, list[int]] | None = None
        self._versions: list[int] = []
        self._norms: tuple[Any, Tensor] | None = None
        #: nothing is made from the sources: they serve as they are
        self.bare = weight is None and all(s.dtype is dtype for s in sources)

    def allocate(self) -> None:
        """Room for the copies, whose values come with `fill`."""
        self._hold(
            s
            if s.dtype is self.dtype
            else torch.empty_like(s, dtype=self.dtype, requires_grad=False)
            for s in self.sources[:2]
        )

    def _hold(self, copies: Iterable[Tensor]) -> None:
        self.copies = tuple(copies)
        self.turned = tuple(
            None if c is s else c.transpose(-2, -1)
            for c, s in zip(self.copies, self.sources, strict=False)
        )

    def valid(self) -> bool:
        """Whether the copies may serve this call."""
        return self.fresh and [s._version for s in self.sources] == self._versions

    def in_place(self) -> bool:
        """Whether the layer still has these very tensors, where they were."""
        device = self.copies[0].device
        return all(d.get(name) is t and t.device == device for d, name, t in self.places)

    def made(self) -> None:
        """Note that the copies are what the sources are now."""
        self.fresh = True
        self._versions = [s._version for s in self.sources]

    def norms(self, wide: torch.dtype) -> Tensor:
        """||w_o|| (out,) in `wide`."""
        assert self.weight is not None
        w = self.weight
        key = None if w.is_inference() else (w.data_ptr(), w._version, w.device, wide)
        if self._norms is None or key is None or self._norms[0] != key:
            # as the start computes m, so that m / n starts at 1; half precision is not copied
            same = w.dtype == wide
            n = w.norm(dim=1) if same else torch.linalg.vector_norm(w, dim=1, dtype=wide)
            self._norms = key, n
        return self._norms[1]


class Pool:
    """The twins of one graft. A copy of a model starts with none.

    Attributes:
        due: a backward pass has gone through one of the layers since all copies were made.
    """

    def __init__(self) -> None:
        self._twins: list[weakref.ref[Twin]] = []
        self.due = False

    def __deepcopy__(self, memo: Any) -> Pool:
        return Pool()

    def __reduce__(self) -> Any:
        return Pool, ()

    def add(self, twin: Twin) -> None:
        """Take a twin in; it is kept up to date as long as somebody else holds it."""
        self._twins = [ref for ref in self._twins if ref() is not None]
        self._twins.append(weakref.ref(twin))
        twin.pool = self
        twin.allocate()

    def use(self, twin: Twin) -> None:
        """Have the copies of `twin` ready for one call."""
        if self.due or not twin.valid():
            chosen = [twin]
            # a layer that is computed again inside a backward pass sees to itself: the next one would be due again
            if self.due and torch._C._current_graph_task_id() == -1:
                self.due = False
                others = (ref() for ref in self._twins)
                alike = (t for t in others if t is not None and t is not twin and _alike(t, twin))
                chosen += [t for t in alike if t.in_place()]
            fill(chosen)
        twin.fresh = False


def _alike(one: Twin, other: Twin) -> bool:
    a, b = one.copies[0], other.copies[0]
    return a.dtype is b.dtype and a.device == b.device


def fill(twins: Sequence[Twin]) -> None:
    """Make the copies of twins of one dtype on one device."""
    new, old = [], []
    for t in twins:
        for source, copy in zip(t.sources, t.copies, strict=False):
            if copy is not source:
                new.append(copy)
                old.append(source)
    with torch.no_grad():
        if new:
            torch._foreach_copy_(new, old)
        gained: dict[Any, list[Twin]] = {}
        for t in twins:
            if t.weight is not None:
                a = t.sources[0]
                gained.setdefault((a.shape[0], a.dtype), []).append(t)
        for group in gained.values():
            _fill_gains(group)
    for t in twins:
        t.made()


def _fill_gains(twins: Sequence[Twin]) -> None:
    sizes = [t.sources[1].shape[0] for t in twins]
    wide, half = torch.promote_types(twins[0].sources[1].dtype, torch.float32), twins[0].dtype
    bs = torch.cat([t.sources[1] for t in twins]).to(wide)
    more = torch.empty_like(bs)
    grams = _grams([t.copies[0] for t in twins], wide)
    for t, part, gram in zip(twins, more.split(sizes), grams, strict=True):
        assert t.weight is not None
        cross = exact_mm(t.weight, t.copies[0].t() if t.turned[0] is None else t.turned[0], wide)
        b = t.sources[1].to(wide)
        torch.addmm(cross, b, gram, beta=2 * t.scale, alpha=t.scale * t.scale, out=part)
    norm = changed_norm(torch.cat([t.norms(wide) for t in twins]), more.mul_(bs).sum(1))
    empty = norm == 0
    norm.masked_fill_(empty, torch.inf)
    g = torch.cat([t.sources[2] for t in twins]).to(wide).div_(norm).masked_fill_(empty, 1)
    parts = (
        (g - 1).split(sizes),
        g.split(sizes),
        (bs * g.unsqueeze(1)).to(half).split(sizes),
        norm.split(sizes),
    )
    for t, *own in zip(twins, *parts, strict=True):
        t.gain = Gain(*own)


def _grams(rows: Sequence[Tensor], wide: torch.dtype) -> list[Tensor]:
    """A A^T (r, r) in `wide` of every A (r, in).

    A is as the layer's products take it, here as in 2 A w_o: where W + s B A nearly cancels, their difference counts.
    """
    found: dict[int, Tensor] = {}
    alike: dict[int, list[int]] = {}
    for i, a in enumerate(rows):
        alike.setdefault(a.shape[1], []).append(i)
    for places in alike.values():
        a = torch.stack([rows[i] for i in places]).to(wide)
        found.update(zip(places, a.bmm(a.transpose(1, 2)).unbind(), strict=True))
    return [found[i] for i in range(len(rows))]


def stacked(twins: Sequence[Twin]) -> tuple[Tensor, Tensor]:
    """[A_1; ..; A_n] and its transpose, of twins whose A have one width; where A are copies, they become its rows."""
    first, whose = twins[0].stack, [id(t) for t in twins]
    if first is not None and first[2] == whose and all(t.stack is first for t in twins):
        return first[:2]
    joined = torch.cat([t.copies[0].detach() for t in twins])
    if all(t.copies[0] is not t.sources[0] for t in twins):
        sizes = [t.copies[0].shape[0] for t in twins]
        stack = joined, joined.t(), whose
        for t, rows in zip(twins, joined.split(sizes), strict=True):
            t._hold((rows, *t.copies[1:]))
            t.stack = stack
    return joined, joined.t()


def alone(twin: Twin, apart: bool) -> Twin:
    """A twin of its own for one call, with the same sources; `apart`: it uses nothing that was computed before."""
    own = Twin(twin.sources, twin.dtype, twin.weight, twin.scale)
    if not apart:
        own._norms = twin._norms
    own._hold(t if t.dtype is own.dtype else t.detach().to(own.dtype) for t in own.sources[:2])
    if own.weight is not None:
        with torch.no_grad():
            _fill_gains([own])
    if not apart:
        twin._norms = own._norms
    return own
