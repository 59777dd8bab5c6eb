"""Is a replay as near to the rehearsals of its pass as they are to one another?

A kernel that adds in no fixed order (atomics in the backward pass of an attention) gives other last bits each time, and
a tensor whose parts cancel may be little else. So the distance of two rehearsals is what a pass allows of itself, and a
replay is allowed a small multiple of it, beside the rounding of the dtype in which the pass computes: in a capture a
library may choose another kernel for the same product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.recording.around import Unfit

#: rounding, over the size of a tensor, where the pass computes in half precision, and where in wider dtypes
HALF, WIDE = 3e-2, 2e-3
#: how many times the largest distance of two rehearsals a replay may be away from the nearest one
TIMES = 4.0
#: rehearsals that differ by more than this, of an output's size or of all gradients' together, show nothing
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
    """

    name: str
    of: int
    differing: int
    size: float
    gap: float
    usual: float
    allowed: float

    @property
    def fits(self) -> bool:
        """Whether the replay's tensor counts as the rehearsals'; what is not finite there cannot be compared."""
        return self.gap <= self.allowed or not math.isfinite(self.size)

    def __str__(self) -> str:
        size = self.size or 1.0
        return (
            f"{self.name}: {self.differing} of {self.of} values differ, by {self.gap / size:.1e} of its norm "
            f"(rehearsals among themselves {self.usual / size:.1e}, allowed {self.allowed / size:.1e})"
        )


def gaps(
    names: Sequence[str], replayed: Found, rehearsed: Sequence[Found], half: bool
) -> list[Gap]:
    """Every tensor of a replay beside those of its rehearsals.

    Args:
        names: of the tensors.
        replayed: the replay's tensors, `None` where there is no gradient.
        rehearsed: the same of each rehearsal, the last one first.
        half: the pass computes in half precision, whatever dtype its gradients end in.

    Raises:
        Unfit: another tensor has a gradient.
    """
    for other in rehearsed:
        if [t is None for t in other] != [t is None for t in replayed]:
            raise Unfit("another tensor has a gradient in each pass")
    near = HALF if half else WIDE
    rows = [
        (name, a, own)
        for name, a, *own in zip(names, replayed, *rehearsed, strict=True)
        if a is not None and a.numel()
    ]
    norms = _numbers([_norm(own[0]) for _, _, own in rows])
    differing = _numbers([(a != own[0]).sum() for _, a, own in rows])
    away = [_numbers([_norm(a, own[i]) for _, a, own in rows]) for i in range(len(rehearsed))]
    among = [
        _numbers([_norm(own[i], own[j]) for _, _, own in rows])
        for i, j in itertools.combinations(range(len(rehearsed)), 2)
    ]
    largest = max((n for n in norms if math.isfinite(n)), default=0.0)
    out = []
    for i, (name, a, _) in enumerate(rows):
        gap = min((d[i] for d in away), key=lambda d: (math.isnan(d), d))
        usual = max((d[i] for d in among), default=0.0)
        size = max(norms[i], NOISE * largest)  # of a NaN: NaN
        exact = not (a.is_floating_point() or a.is_complex())
        allowed = 0.0 if exact else near * size + TIMES * usual
        out.append(Gap(name, a.numel(), int(differing[i]), size, gap, usual, allowed))
    return out


def unsteady(found: Sequence[Gap], outputs: int) -> str | None:
    """Why nothing can be said, since rehearsals differ too much among themselves; `None`: they do not.

    Args:
        found: of `gaps`, the outputs first.
        outputs: how many those are.
    """
    for g in found[:outputs]:
        if g.usual > MOST * g.size:
            return f"two rehearsals of the pass differ by {g.usual / g.size:.1e} of the norm of {g.name}"
    usual, size = (
        math.hypot(*values)
        for values in ([g.usual for g in found[outputs:]], [g.size for g in found[outputs:]])
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
    wide = (
        torch.complex128
        if a.is_complex()
        else torch.float64
        if a.element_size() > 4
        else torch.float32
    )
    if not (a.is_floating_point() or a.is_complex()):
        wide = torch.float64
    t = a.detach().to(wide)
    return torch.linalg.vector_norm(t if b is None else t - b.detach().to(wide)).double()


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Scalars of a device, waited for once."""
    return torch.stack(list(scalars)).tolist() if scalars else []
