"""Dice, HD95 and NSD per class and case, in mm, with a stated policy for empty masks.

- Dice = 2 |P n R| / (|P| + |R|).
- Surface voxels are mask voxels with a 6-neighbour outside the mask. Distances run between the centres
  of surface voxels, in mm. HD95 is the larger of the two directed 95th percentiles (linear interpolation).
- NSD at tolerance tau = share of the surface voxels of both masks that lie within tau of the other
  surface (Nikolov et al., arXiv 1809.04430, with voxel counts in place of surface areas).
- Empty masks: both empty: Dice 1, NSD 1, HD95 0. One empty: Dice 0, NSD 0, HD95 the diagonal of the
  image in mm. Both kinds enter the means and are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from graftwork.errors import GraftError

Array = NDArray[Any]


@dataclass(frozen=True)
class Score:
    """One class of one case. `empty` is "", "both", "prediction" or "reference"."""

    dice: float
    hd95: float
    nsd: float
    empty: str = ""


def surface(mask: Array, spacing: Sequence[float]) -> Array:
    """Centres of the surface voxels of a boolean (X, Y, Z) mask, (points, 3) in mm."""
    where = np.nonzero(mask)
    if not len(where[0]):
        return np.empty((0, 3))
    low = np.array([axis.min() for axis in where])
    box = tuple(slice(a, axis.max() + 1) for a, axis in zip(low, where, strict=True))
    inner = mask[box]
    # The image's border counts as outside, so a mask cut by it has a surface there.
    rim = inner & ~binary_erosion(inner)
    return (np.argwhere(rim) + low) * np.asarray(spacing, dtype=np.float64)


def dice(prediction: Array, reference: Array) -> float:
    """2 |P n R| / (|P| + |R|) of two boolean masks of one shape; 1 when both are empty."""
    total = int(prediction.sum()) + int(reference.sum())
    return 2.0 * int((prediction & reference).sum()) / total if total else 1.0


def score(
    prediction: Array, reference: Array, spacing: Sequence[float], tolerance_mm: float = 2.0
) -> Score:
    """Compare two boolean masks of one grid, voxel size `spacing` in mm.

    Raises GraftError for masks of different or not three-dimensional shape, and for a spacing that is not
    three positive numbers.
    """
    prediction, reference = np.asarray(prediction, bool), np.asarray(reference, bool)
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise GraftError(
            f"prediction {prediction.shape} and reference {reference.shape} must be one 3D grid"
        )
    size = np.asarray(spacing, dtype=np.float64)
    if size.shape != (3,) or not (np.isfinite(size).all() and (size > 0).all()):
        raise GraftError(f"spacing {tuple(spacing)} must be three positive numbers of mm")
    p, r = int(prediction.sum()), int(reference.sum())
    if not p and not r:
        return Score(1.0, 0.0, 1.0, "both")
    if not p or not r:
        diagonal = float(np.linalg.norm(np.array(prediction.shape) * size))
        return Score(0.0, diagonal, 0.0, "reference" if p else "prediction")
    ps, rs = surface(prediction, size), surface(reference, size)
    # A k-d tree of the surfaces is exact and several times faster than two distance transforms.
    to_reference, _ = cKDTree(rs).query(ps)
    to_prediction, _ = cKDTree(ps).query(rs)
    hd95 = max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))
    within = (to_reference <= tolerance_mm).sum() + (to_prediction <= tolerance_mm).sum()
    return Score(dice(prediction, reference), float(hd95), float(within / (len(ps) + len(rs))))


def score_case(
    prediction: Array,
    reference: Array,
    classes: Sequence[str],
    spacing: Sequence[float],
    tolerance_mm: float = 2.0,
    only: Sequence[str] = (),
) -> dict[str, Score]:
    """Scores of each class from 1 on, or of those named in `only`.

    `prediction` and `reference` hold indices into `classes`.
    """
    return {
        name: score(prediction == k, reference == k, spacing, tolerance_mm)
        for k, name in enumerate(classes)
        if (name in only if only else k)
    }


def average(cases: Sequence[dict[str, Score]], name: str | None = None) -> dict[str, float]:
    """Means of dice, hd95 and nsd over cases, for class `name` or over all classes.

    `empty_both` and `empty_one` count the empties among the `n` scores behind the means.
    """
    scores = [s for case in cases for key, s in case.items() if name in (None, key)]
    if not scores:
        raise GraftError(f"nothing to average for class {name!r}")
    means = {
        metric: float(np.mean([getattr(s, metric) for s in scores]))
        for metric in ("dice", "hd95", "nsd")
    }
    return {
        **means,
        "n": len(scores),
        "empty_both": sum(s.empty == "both" for s in scores),
        "empty_one": sum(s.empty in ("prediction", "reference") for s in scores),
    }


def case_dice(case: dict[str, Score]) -> float:
    """Mean Dice of a case over its classes: what cases are ranked by."""
    return float(np.mean([s.dice for s in case.values()]))


def to_json(case: dict[str, Score]) -> dict[str, dict[str, Any]]:
    """A case's scores as plain values."""
    return {name: asdict(s) for name, s in case.items()}
