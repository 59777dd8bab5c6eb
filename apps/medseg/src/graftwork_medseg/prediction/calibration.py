"""Is a probability of 0.9 right nine times in ten? Reliability data of a case, and the calibration error.

Expected calibration error (Guo et al., arXiv 1706.04599, equation 3) with M = 15 bins of equal width:
ECE = sum_m |B_m| / n * |accuracy(B_m) - confidence(B_m)|, where a voxel's confidence is its largest class
probability and it is correct when that class is the reference's.

The background fills most of an image and is easy, so a whole image's error is close to zero for any
network; `foreground` therefore counts the voxels that have a class in the mask or in the reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BINS = 15
REGIONS = ("foreground", "image")


@dataclass(frozen=True)
class Reliability:
    """Per bin of confidence: how many voxels, the sum of their confidences, and how many are correct."""

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    correct: tuple[int, ...]

    @property
    def voxels(self) -> int:
        """All voxels counted."""
        return sum(self.count)

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 (perfect) to 1; 0 without voxels."""
        gaps = (abs(k - c) for k, c in zip(self.correct, self.confidence, strict=True))
        return sum(gaps) / max(1, self.voxels)

    def points(self) -> list[tuple[float, float]]:
        """(mean confidence, share that is correct) of each bin that holds voxels."""
        bins = zip(self.count, self.confidence, self.correct, strict=True)
        return [(c / n, k / n) for n, c, k in bins if n]


def reliability(confidence: Array, correct: Array, bins: int = BINS) -> Reliability:
    """Sort voxels into `bins` by confidence (floats from 0 to 1); `correct` is boolean, of one shape."""
    values = np.asarray(confidence, dtype=np.float64).ravel()
    right = np.asarray(correct, dtype=bool).ravel()
    # Bin m holds (m/M, (m+1)/M]; a confidence of 0 belongs to the first.
    place = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    return Reliability(
        tuple(np.bincount(place, minlength=bins).tolist()),
        tuple(np.bincount(place, values, minlength=bins).tolist()),
        tuple(np.bincount(place[right], minlength=bins).tolist()),
    )


def of_case(confidence: Array, mask: Array, truth: Array) -> dict[str, Reliability]:
    """The reliability of one case in each of `REGIONS`; all arrays (X, Y, Z) on one grid."""
    correct = mask == truth
    inside = (mask > 0) | (truth > 0)
    return {
        "foreground": reliability(confidence[inside], correct[inside]),
        "image": reliability(confidence, correct),
    }


def pooled(cases: Iterable[Reliability]) -> Reliability:
    """The reliability of all voxels of several cases together."""
    parts = list(cases)
    return Reliability(
        tuple(map(sum, zip(*(p.count for p in parts), strict=True))),
        tuple(map(sum, zip(*(p.confidence for p in parts), strict=True))),
        tuple(map(sum, zip(*(p.correct for p in parts), strict=True))),
    )
