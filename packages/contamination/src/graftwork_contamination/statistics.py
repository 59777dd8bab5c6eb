"""Two groups of scores: areas under curves, thresholds fitted and held out, intervals, a permutation test.

Everywhere a higher score speaks for the first group, the one suspected of having been seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import GraftError

Scores = Sequence[float] | NDArray[np.float64]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Threshold:
    """A score is taken as seen when it is above `at`; J = sensitivity + specificity - 1, on what it was fitted on."""

    at: float
    j: float


@dataclass(frozen=True)
class HeldOut:
    """A threshold of one half of each group, and what it reaches on the other.

    `balanced` is the mean of sensitivity and specificity: the accuracy where the groups are equally large.
    """

    threshold: float
    fitted: float
    balanced: float
    n: int


def groups(seen: Scores, clean: Scores) -> tuple[Array, Array]:
    """Both as arrays. Raises GraftError where one is empty or has a NaN."""
    found = np.asarray(seen, float), np.asarray(clean, float)
    for name, values in zip(("suspected", "clean"), found, strict=True):
        if values.size == 0:
            raise GraftError(f"{name}: the group is empty; a detector compares two groups")
        if np.isnan(values).any():
            raise GraftError(f"{name}: a score is NaN; look for NaN in the model's outputs")
    return found


def auc(seen: Scores, clean: Scores) -> float:
    """P(seen > clean) + P(seen = clean) / 2: the area under the ROC curve (Mann-Whitney)."""
    a, b = groups(seen, clean)
    order = np.sort(b)
    below, upto = np.searchsorted(order, a, "left"), np.searchsorted(order, a, "right")
    return float((below + upto).sum() / (2 * a.size * b.size))


def auprc(seen: Scores, clean: Scores) -> float:
    """Average precision: the mean over recalled items of the precision at their score; ties are taken together."""
    a, b = groups(seen, clean)
    total, before = 0.0, 0
    for score in np.unique(a)[::-1]:
        hits = int((a >= score).sum())
        total += (hits - before) * hits / (hits + int((b >= score).sum()))
        before = hits
    return total / a.size


def youden(seen: Scores, clean: Scores) -> Threshold:
    """The threshold with the largest J, among all midpoints of neighbouring scores, -inf and inf.

    Of equally good ones the middle one is taken. inf calls none seen: J is 0 there, and never less.
    """
    a, b = groups(seen, clean)
    values = np.unique(np.concatenate([a, b]))
    # a midpoint may round to its upper neighbour, or be undefined beside an infinity: then the lower one serves
    with np.errstate(invalid="ignore", over="ignore"):
        middle = values[:-1] / 2 + values[1:] / 2
    low, high = values[:-1], values[1:]
    middle = np.where((middle >= low) & (middle < high), middle, low)
    cuts = np.concatenate([[-np.inf], middle, [np.inf]])
    j = _above(a, cuts) - _above(b, cuts)
    best = np.flatnonzero(j >= j.max() - 1e-12)
    at = best[best.size // 2]
    return Threshold(float(cuts[at]), float(j[at]))


def balanced_accuracy(seen: Scores, clean: Scores, threshold: float) -> float:
    """(sensitivity + specificity) / 2."""
    a, b = groups(seen, clean)
    return float(((a > threshold).mean() + (b <= threshold).mean()) / 2)


def held_out(seen: Scores, clean: Scores, seed: int = 0) -> HeldOut:
    """Fit Youden's threshold on a random half of each group and report it on the other half.

    Raises:
        GraftError: fewer than two scores in a group.
    """
    a, b = groups(seen, clean)
    if min(a.size, b.size) < 2:
        raise GraftError("held out: each group needs two items, one to fit and one to report on")
    draw = np.random.default_rng(seed)
    (fit_a, rest_a), (fit_b, rest_b) = _halves(a, draw), _halves(b, draw)
    found = youden(fit_a, fit_b)
    return HeldOut(
        found.at,
        balanced_accuracy(fit_a, fit_b, found.at),
        balanced_accuracy(rest_a, rest_b, found.at),
        rest_a.size + rest_b.size,
    )


def bootstrap(
    measure: Callable[[Array, Array], float],
    seen: Scores,
    clean: Scores,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A measure with its percentile interval; items are drawn again within each group."""
    a, b = groups(seen, clean)
    draw = np.random.default_rng(seed)
    found = [
        measure(a[draw.integers(a.size, size=a.size)], b[draw.integers(b.size, size=b.size)])
        for _ in range(resamples)
    ]
    lo, hi = np.quantile(found, [0.025, 0.975])
    value = measure(a, b)
    # no resample of separated groups mixes them, and the percentiles of few resamples may pass the value by
    return Interval(value, min(float(lo), value), max(float(hi), value))


def permutation_p(seen: Scores, clean: Scores, permutations: int = 1000, seed: int = 0) -> float:
    """One-sided p of the AUC against exchangeable groups: how often shuffled labels reach it, itself counted."""
    a, b = groups(seen, clean)
    pooled = np.concatenate([a, b])
    _, inverse, counts = np.unique(pooled, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    draw = np.random.default_rng(seed)
    order = draw.permuted(np.tile(ranks, (permutations, 1)), axis=1)
    reached = order[:, : a.size].sum(1) >= ranks[: a.size].sum() - 1e-9
    return float((1 + reached.sum()) / (1 + permutations))


def _above(values: Array, cuts: Array) -> Array:
    found: Array = (values[None, :] > cuts[:, None]).mean(1)
    return found


def _halves(values: Array, draw: np.random.Generator) -> tuple[Array, Array]:
    order = draw.permutation(values.size)
    return values[order[: values.size // 2]], values[order[values.size // 2 :]]
