"""The forgetting law, fitted: F = alpha sin^2(theta_min) + beta (Steele 2026, arXiv 2603.02224).

Summaries of the paper disagree on alpha's sign, and both occur: where tasks share the function and differ in their
inputs forgetting grows with the angle, where they demand different outputs it falls. So the sign is a
result here, with an interval, and may be undecided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graftwork.errors import GraftError


@dataclass(frozen=True)
class ForgettingLaw:
    """A fit.

    Args:
        alpha, beta: of the law.
        low, high: interval of alpha.
        r: Pearson correlation of F with sin^2; 0 where F does not vary.
        residuals: F minus the fit, in the order of the points.
    """

    alpha: float
    beta: float
    low: float
    high: float
    r: float
    residuals: tuple[float, ...]

    @property
    def sign(self) -> int:
        """1: forgetting grows with the angle; -1: it falls; 0: the points do not decide."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def predict(self, angle: float) -> float:
        """F at a smallest angle, radians."""
        return self.alpha * math.sin(angle) ** 2 + self.beta


def fit_forgetting_law(
    angles: Sequence[float],
    forgetting: Sequence[float],
    level: float = 0.95,
    draws: int = 100_000,
    seed: int = 0,
) -> ForgettingLaw:
    """Least squares, and Student's interval for alpha (exact for normal errors of one size).

    Args:
        angles: smallest principal angles, radians in [0, pi / 2].
        forgetting: F of each, larger is worse.
        level: of the interval.
        draws: from Student's distribution, whose quantile is read off them.
        seed: of the draws.

    Raises:
        GraftError: other lengths, angles out of range, fewer than three different ones, values not finite.
    """
    theta, f = np.asarray(angles, float), np.asarray(forgetting, float)
    if theta.ndim != 1 or theta.shape != f.shape:
        raise GraftError(f"fit_forgetting_law: {theta.shape} angles for {f.shape} values of F")
    if not (np.isfinite(theta).all() and np.isfinite(f).all()):
        raise GraftError("fit_forgetting_law: angles and F must be finite")
    if ((theta < 0) | (theta > np.pi / 2 + 1e-9)).any():
        raise GraftError("fit_forgetting_law: angles are radians in [0, pi / 2]; convert degrees")
    x = np.sin(theta) ** 2
    if np.unique(x.round(9)).size < 3:
        raise GraftError("fit_forgetting_law: at least three different angles are needed")
    if not 0 < level < 1 or draws < 1:
        raise GraftError(f"fit_forgetting_law: level in (0, 1), draws from 1, not {level}, {draws}")
    centred = x - x.mean()
    spread = float(centred @ centred)
    alpha = float(centred @ f) / spread
    beta = float(f.mean() - alpha * x.mean())
    residuals = f - alpha * x - beta
    freedom = len(x) - 2
    error = math.sqrt(float(residuals @ residuals) / freedom / spread)
    drawn = np.abs(np.random.default_rng(seed).standard_t(freedom, draws))
    half = float(np.quantile(drawn, level)) * error
    varies = float(np.ptp(f)) > 1e-12 * max(1.0, float(np.abs(f).max()))
    r = float(np.corrcoef(x, f)[0, 1]) if varies else 0.0
    return ForgettingLaw(alpha, beta, alpha - half, alpha + half, r, tuple(residuals.tolist()))
