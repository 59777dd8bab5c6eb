"""Is a replay as near to the rehearsals of its pass as they are to one another?

A kernel that adds in no fixed order (atomics in the backward pass of an attention) gives other last bits each time, and
all that is computed from them differs, by a few per cent in half precision. Two rehearsals show how much, but of one
tensor they are one sample, and may happen to agree. So what counts is the level of the whole pass: by how much of its
size the tensor differs that differs most. A replay's tensors are allowed a small multiple of it. Where rehearsals are
equal the level is 0, and a replay is allowed rounding alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.recording.around import Unfit

#: rounding, over the size of a tensor, in half precision and in wider dtypes
HALF, WIDE = 3e-2, 2e-3
#: how many times the level of two rehearsals a replay may be away from the nearest one
TIMES = 3.0
#: the most that this allows, of a tensor's size. Tensors whose own rehearsals differ by more are noise: they count by
#: themselves, and if they make up so much of all gradients, or are outputs, rehearsals show nothing
MOST = 0.1
#: a gradient this much smaller than the largest tensor is noise, like a bias's in front of a normalisation
NOISE = 1e-3
OTHER = "a replay gives other values than the pass it was recorded from"
Found = Sequence[Tensor | None]


@dataclass(frozen=True)
class Gap:
    """One tensor of a replay beside the same of the rehearsals.

    Attributes:
        name: of the tensor; of: its values; differing: those whose bits differ from the last rehearsal's.
        size: its norm, or what counts as one for a tensor that is noise beside the largest.
        gap: norm of the difference from the nearest rehearsal; usual: largest such norm between two rehearsals.
        allowed: the largest gap; 0 where bits must be the same (whole numbers).
        output: it is one, and no gradient.
    """

    name: str
    of: int
    differing: int
    size: float
    gap: float
    usual: float
    allowed: float
    output: bool

    @property
    def fits(self) -> bool:
        """Whether the replay's tensor counts as the rehearsals'; what is not finite there cannot be compared."""
        return self.gap <= self.allowed or not math.isfinite(self.size)

    def __str__(self) -> str:
        size = self.size or 1.0
        return (
            f"{self.name}: {self.differing} of {self.of} values differ, by {self.gap / size:.1e} of its norm "
            f"(rehearsals {self.usual / size:.1e}, allowed {self.allowed / size:.1e})"
        )


def gaps(
    names: Sequence[str], replayed: Found, rehearsed: Sequence[Found], outputs: int
) -> list[Gap]:
    """Every tensor of a replay beside those of its rehearsals, but for empty ones.

    Args:
        names: of the tensors.
        replayed: the replay's tensors, `None` where there is no gradient.
        rehearsed: the same of each rehearsal, the last one first.
        outputs: how many of them, at the front, are outputs; a forward pass may have another level than a backward one.

    Raises:
        Unfit: another tensor has a gradient.
    """
    for other in rehearsed:
        if [t is None for t in other] != [t is None for t in replayed]:
            raise Unfit("another tensor has a gradient in each pass")
    rows = [
        (name, a, own)
        for name, a, *own in zip(names, replayed, *rehearsed, strict=True)
        if a is not None and a.numel()
    ]
    ends = sum(a is not None and a.numel() > 0 for a in replayed[:outputs])
    norms = _numbers([_norm(own[0]) for _, _, own in rows])
    differing = _numbers([(a != own[0]).sum() for _, a, own in rows])
    away = [_numbers([_norm(a, own[i]) for _, a, own in rows]) for i in range(len(rehearsed))]
    among = [
        _numbers([_norm(own[i], own[j]) for _, _, own in rows])
        for i, j in itertools.combinations(range(len(rehearsed)), 2)
    ]
    largest = max((n for n in norms if math.isfinite(n)), default=0.0)
    sizes = [max(n, NOISE * largest) for n in norms]  # of a NaN: NaN
    usual = [max((d[i] for d in among), default=0.0) for i in range(len(rows))]
    steady = [u / s if s and u <= MOST * s else 0.0 for u, s in zip(usual, sizes, strict=True)]
    levels = [max(part, default=0.0) for part in (steady[:ends], steady[ends:])]
    out = []
    for i, (name, a, _) in enumerate(rows):
        gap = min((d[i] for d in away), key=lambda d: (math.isnan(d), d))
        allowed = 0.0
        if a.is_floating_point() or a.is_complex():
            near = HALF if a.dtype.itemsize < 4 else WIDE
            common = min(TIMES * levels[i >= ends], MOST) * sizes[i]
            own = TIMES * usual[i] if usual[i] > MOST * sizes[i] else 0.0
            allowed = near * sizes[i] + max(common, own)
        out.append(
            Gap(name, a.numel(), int(differing[i]), sizes[i], gap, usual[i], allowed, i < ends)
        )
    return out


def unsteady(found: Sequence[Gap]) -> str | None:
    """Why nothing can be said, since rehearsals differ too much among themselves; `None`: they do not.

    Args:
        found: of `gaps`.
    """
    for g in found:
        if g.output and g.usual > MOST * g.size:
            return f"two rehearsals of the pass differ by {g.usual / g.size:.1e} of the norm of {g.name}"
    usual, size = (
        math.hypot(*(getattr(g, what) for g in found if not g.output)) for what in ("usual", "size")
    )
    if usual > MOST * size:
        return (
            f"two rehearsals of the pass differ by {usual / size:.1e} of the norm of all gradients"
        )
    return None


def told(wrong: Sequence[Gap], tensors: int, replays: Sequence[float]) -> str:
    """What a user can report.

    Args:
        wrong: the tensors that do not fit.
        tensors: of the pass.
        replays: the distance of two replays, for each of those.
    """
    at, worst = max(enumerate(wrong), key=lambda row: _excess(row[1]))
    return (
        f"{OTHER}: {len(wrong)} of {tensors} tensors, most of all {worst}; two replays differ by "
        f"{replays[at] / (worst.size or 1.0):.1e}"
    )


def distances(one: Found, two: Found) -> list[float]:
    """The norms of the differences of the tensors that are there."""
    return _numbers(
        [
            _norm(a, b)
            for a, b in zip(one, two, strict=True)
            if a is not None and b is not None and a.numel()
        ]
    )


def _excess(g: Gap) -> float:
    return math.inf if math.isnan(g.gap) else g.gap / (g.allowed or 1e-30)


def _norm(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Of a tensor, or of a difference, in a dtype that holds it."""
    wide = torch.float64 if a.element_size() > 4 else torch.float32
    if a.is_complex():
        wide = torch.complex128
    t = a.detach().to(wide)
    norm: Tensor = torch.linalg.vector_norm(t if b is None else t - b.detach().to(wide))
    return norm.double()


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Scalars of a device, waited for once."""
    found: list[float] = torch.stack(list(scalars)).tolist() if scalars else []
    return found
