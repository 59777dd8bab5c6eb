"""What an update did to a weight's spectrum: its effective rank, and singular vectors that are new."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.errors import GraftError


def effective_rank(matrix: Tensor) -> float:
    """exp of the entropy of the normalised singular values (Roy and Vetterli 2007), in [1, rank].

    Args:
        matrix: any `(m, n)`; axes behind the first are flattened.

    Raises:
        GraftError: zero or not finite.
    """
    values = _singular_values(matrix)
    p = values / values.sum()
    return float(torch.special.entr(p).sum().exp())


def _singular_values(matrix: Tensor) -> Tensor:
    flat = matrix.detach().flatten(1).double()
    if not torch.isfinite(flat).all() or not flat.any():
        raise GraftError("effective_rank: the matrix is zero or not finite")
    values: Tensor = torch.linalg.svdvals(flat)
    return values


@dataclass(frozen=True)
class Intruders:
    """Leading singular vectors of a tuned weight, against all of the base's.

    Args:
        cosines: for each of the leading ones the largest |cosine| with any of the base's, `(top,)`.
        threshold: below it a vector counts as new.
    """

    cosines: Tensor
    threshold: float

    @property
    def indices(self) -> list[int]:
        """Which of the leading vectors are new, 0 the leading one."""
        return [int(i) for i in (self.cosines < self.threshold).nonzero().flatten()]


def intruder_dimensions(
    before: Tensor, after: Tensor, top: int = 10, threshold: float = 0.5
) -> Intruders:
    """Intruder dimensions (Shuttleworth et al. 2024, arXiv 2410.21228, section 4).

    Leading left singular vectors of the tuned weight that no left singular vector of the base
    resembles. A rotation inside a cluster of nearly equal singular values also shows as one.

    Args:
        before, after: the weight `(m, n)` without and with the update; later axes are flattened.
        top: how many leading vectors are looked at.
        threshold: below this |cosine| a vector is an intruder.

    Raises:
        GraftError: other shapes, top outside [1, min(m, n)], threshold outside (0, 1].
    """
    if before.shape != after.shape:
        raise GraftError(
            f"intruder_dimensions: shapes {tuple(before.shape)} and {tuple(after.shape)} differ"
        )
    old, new = (w.detach().flatten(1).double() for w in (before, after))
    if not 1 <= top <= min(old.shape) or not 0 < threshold <= 1:
        raise GraftError(
            f"intruder_dimensions: top must lie in [1, {min(old.shape)}] and threshold in (0, 1], "
            f"not {top} and {threshold}"
        )
    bases = [torch.linalg.svd(w, full_matrices=False).U for w in (old, new)]
    cosines = (bases[0].mT @ bases[1][:, :top]).abs().amax(0).clamp(max=1)
    return Intruders(cosines, threshold)
