"""Subspaces, the principal angles between two of them, and the angles that random ones would have.

Angles after Björck and Golub 1973: from sines where they are small, because arccos loses half the
digits near 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.errors import GraftError


@dataclass(frozen=True)
class Subspace:
    """A k-dimensional subspace of R^n.

    Args:
        basis: orthonormal columns `(n, k)`, float64.
        energy: squared length of what it was made from, all of it; the weight of a layer in a mean.
    """

    basis: Tensor
    energy: float = 1.0

    @property
    def n(self) -> int:
        """Dimensions of the space around it."""
        return self.basis.shape[0]

    @property
    def k(self) -> int:
        """Dimensions of its own."""
        return self.basis.shape[1]


def span(second: Tensor, k: int | None = None, share: float = 0.9, cap: int = 16) -> Subspace:
    """The leading subspace of row vectors g, given their sum of g g^T.

    Args:
        second: sum of outer products, `(n, n)`, symmetric.
        k: dimensions; `None` takes the fewest that hold `share` of the energy, at most `cap`.

    Raises:
        GraftError: k outside [1, rank], a sum that is zero or not finite.
    """
    if not torch.isfinite(second).all():
        raise GraftError("span: gradients that are not finite; look for NaN in the loss")
    values, vectors = torch.linalg.eigh(second.double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    total = float(values.sum())
    if total <= 0:
        raise GraftError("span: all gradients are zero, and zero spans nothing; is the layer used?")
    rank = int((values > 1e-12 * values[0]).sum())
    if k is None:
        if not 0 < share <= 1 or cap < 1:
            raise GraftError(f"span: share in (0, 1] and cap from 1, not {share} and {cap}")
        enough = int((values.cumsum(0) < share * total * (1 - 1e-12)).sum()) + 1
        k = min(enough, cap, rank)
    elif not 1 <= k <= rank:
        raise GraftError(f"span: k must lie in [1, {rank}], what the gradients span, not {k}")
    return Subspace(vectors[:, :k].contiguous(), total)


def principal_angles(one: Subspace, other: Subspace) -> Tensor:
    """All principal angles, radians, the smallest first: `(min(k, k'),)`, float64.

    Raises:
        GraftError: subspaces of different spaces.
    """
    if one.n != other.n:
        raise GraftError(f"principal_angles: subspaces of {one.n} and of {other.n} dimensions")
    large, small = (one, other) if one.k >= other.k else (other, one)
    inside = large.basis.mT @ small.basis
    cosines = torch.linalg.svdvals(inside).clamp(0, 1)
    sines = torch.linalg.svdvals(small.basis - large.basis @ inside).flip(0).clamp(0, 1)
    angles = torch.where(cosines > 0.5**0.5, sines.arcsin(), cosines.arccos())
    return angles.sort().values


def overlap(one: Subspace, other: Subspace) -> float:
    """Mean squared cosine of the principal angles, in [0, 1]: steadier than the smallest angle."""
    return float(principal_angles(one, other).cos().square().mean())


@dataclass(frozen=True)
class Null:
    """What two random subspaces show: means and standard deviations over draws.

    Args:
        cosine2, cosine2_std: squared cosine of the smallest angle.
        overlap, overlap_std: mean squared cosine; its mean is max(k, k') / n exactly.
    """

    cosine2: float
    cosine2_std: float
    overlap: float
    overlap_std: float


def null_level(n: int, k: int, other_k: int | None = None, draws: int = 200, seed: int = 0) -> Null:
    """The level of two independent subspaces drawn uniformly, by simulation.

    Args:
        n: dimensions of the space.
        k, other_k: of the subspaces; the second defaults to the first.
        draws: pairs drawn, at least 2.
        seed: of the draws.

    Raises:
        GraftError: k or other_k outside [1, n], fewer than two draws.
    """
    other_k = k if other_k is None else other_k
    if not (1 <= k <= n and 1 <= other_k <= n):
        raise GraftError(f"null_level: k must lie in [1, {n}], not {k} and {other_k}")
    if draws < 2:
        raise GraftError(f"null_level: draws must be at least 2, not {draws}")
    generator = torch.Generator().manual_seed(seed)
    large, small = max(k, other_k), min(k, other_k)
    first, mean = torch.empty(draws).double(), torch.empty(draws).double()
    for i in range(draws):
        drawn = torch.randn(n, small, generator=generator, dtype=torch.float64)
        # the other one may be the first axes: only their position to each other counts
        cosines2 = torch.linalg.svdvals(torch.linalg.qr(drawn).Q[:large]).square()
        first[i], mean[i] = cosines2.max(), cosines2.sum() / small
    return Null(float(first.mean()), float(first.std()), large / n, float(mean.std()))
