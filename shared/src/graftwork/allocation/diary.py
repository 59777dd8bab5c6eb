"""What a search writes down: allocations, audits, and how well the audits were foreseen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Diary:
    """Plain rows that grow with the search.

    Attributes:
        audits: {step, score, probes: [{unit, active, predicted, density, gain}]}, `predicted` being the moving
            average before the audit (`None` at a unit's first).
        allocations: {step, set, cost, score, up, down}.
        seconds: spent in audits and in training.
    """

    def __init__(self) -> None:
        self.audits: list[dict[str, Any]] = []
        self.allocations: list[dict[str, Any]] = []
        self.seconds = {"audits": 0.0, "training": 0.0}

    def foreseen(self) -> dict[str, Any]:
        """Spearman correlation of predicted and measured density: over all audits, and by audit.

        `None` where fewer than two probes had a prediction, or where one side is constant.
        """
        pairs = [
            [(p["predicted"], p["density"]) for p in a["probes"] if p["predicted"] is not None]
            for a in self.audits
        ]
        return {
            "all": spearman([p for audit in pairs for p in audit]),
            "by_audit": [spearman(audit) for audit in pairs],
        }

    def share(self) -> float:
        """Audits' part of the time so far, between 0 and 1."""
        total = sum(self.seconds.values())
        return self.seconds["audits"] / total if total > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "audits": list(self.audits),
            "allocations": list(self.allocations),
            "seconds": dict(self.seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.audits, self.allocations = list(state["audits"]), list(state["allocations"])
        self.seconds = dict(state["seconds"])


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Rank correlation, ties averaged; `None` where it is not defined."""
    if len(pairs) < 2:
        return None
    a, b = (_ranks([p[side] for p in pairs]) for side in (0, 1))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else None


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    v = np.asarray(values, dtype=np.float64)
    below, equal = (v[:, None] > v[None, :]).sum(1), (v[:, None] == v[None, :]).sum(1)
    ranks: np.ndarray[Any, np.dtype[np.float64]] = below + (equal + 1) / 2
    return ranks
