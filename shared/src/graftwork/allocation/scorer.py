"""How good is a unit? A moving average of its audits, lowered by their spread (SEA-PEFT, section 3.3).

    m_t = beta m_{t-1} + (1 - beta) rho_t,  m_1 = rho_1        rho: utility gained per parameter
    s = median(H) - lambda IQR(H),  H the last values of m
    q = |m - s|                                                uncertainty
    v = s + kappa q                                            value per parameter, optimistic

A unit that was never audited has s = q = 0. Densities are about 1e-6 to 1e-3: none is ever compared
with a threshold that is meant for a utility.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


class Scorer:
    """Averages and windows by unit.

    Args:
        memory: beta, in [0, 1].
        window: length of H.
        caution: lambda.
        optimism: kappa.
    """

    def __init__(
        self,
        memory: float = 0.95,
        window: int = 5,
        caution: float = 0.25,
        optimism: float = 0.5,
    ) -> None:
        self.memory, self.window = memory, window
        self.caution, self.optimism = caution, optimism
        self.averages: dict[str, list[float]] = {}

    def observe(self, unit: str, density: float) -> None:
        """Take in one audit's gain per parameter."""
        past = self.averages.setdefault(unit, [])
        mean = density if not past else self.memory * past[-1] + (1 - self.memory) * density
        self.averages[unit] = [*past, mean][-self.window :]

    def mean(self, unit: str) -> float | None:
        """m, or `None` before the first audit."""
        past = self.averages.get(unit)
        return past[-1] if past else None

    def score(self, unit: str) -> float:
        """s."""
        past = self.averages.get(unit)
        return statistics.median(past) - self.caution * spread(past) if past else 0.0

    def unsure(self, unit: str) -> float:
        """q."""
        mean = self.mean(unit)
        return 0.0 if mean is None else abs(mean - self.score(unit))

    def value(self, unit: str) -> float:
        """v."""
        return self.score(unit) + self.optimism * self.unsure(unit)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"averages": {unit: list(past) for unit, past in self.averages.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.averages = {unit: list(past) for unit, past in state["averages"].items()}


def spread(values: Sequence[float]) -> float:
    """Interquartile range, quartiles inclusive; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
