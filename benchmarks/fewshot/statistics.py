"""Means over folds and cases with an interval, and paired differences.

The folds share their test cases, so folds x cases scores are not that many independent draws. The interval therefore
resamples folds and cases independently (the pigeonhole bootstrap, Owen, Annals of Applied Statistics 1, 2007,
section 4): weights of row i and column j are multiplied. It is wider than Student's interval over all scores, and
with three folds somewhat conservative where folds differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import GraftError

RESAMPLES = 4000
LEVEL = 0.95
Scores = Mapping[int, Mapping[str, float]]  # fold -> case -> score


@dataclass(frozen=True)
class Mean:
    """A mean with its interval; `lo` and `hi` are None for a single score."""

    value: float
    lo: float | None
    hi: float | None
    folds: int
    cases: int

    @property
    def n(self) -> int:
        """How many scores there are."""
        return self.folds * self.cases


def matrix(scores: Scores) -> NDArray[np.float64]:
    """Scores as (folds, cases), over the cases that all folds have.

    Raises GraftError when there is none.
    """
    common = sorted(set.intersection(*(set(s) for s in scores.values()))) if scores else []
    if not common:
        raise GraftError("no case has a score in every fold")
    return np.array([[scores[fold][case] for case in common] for fold in sorted(scores)])


def mean(scores: Scores, seed: int = 0) -> Mean:
    """The mean over folds and cases."""
    values = matrix(scores)
    folds, cases = values.shape
    if values.size == 1:
        return Mean(float(values[0, 0]), None, None, 1, 1)
    draw = np.random.default_rng(seed)
    rows = draw.multinomial(folds, np.full(folds, 1 / folds), RESAMPLES)
    columns = draw.multinomial(cases, np.full(cases, 1 / cases), RESAMPLES)
    found = ((rows @ values) * columns).sum(1) / (folds * cases)
    lo, hi = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Mean(float(values.mean()), float(lo), float(hi), folds, cases)


def difference(a: Scores, b: Scores) -> Scores:
    """a - b by fold and case, over the folds and cases that both have.

    Raises GraftError when there is none.
    """
    folds = [f for f in a if f in b and a[f].keys() & b[f].keys()]
    if not folds:
        raise GraftError("the two have no fold and case in common")
    return {f: {c: a[f][c] - b[f][c] for c in a[f] if c in b[f]} for f in folds}
