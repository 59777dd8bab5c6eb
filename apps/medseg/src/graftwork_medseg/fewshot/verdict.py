"""Should I use it? The base against the graft on the site's own cases: an interval and one word.

Each case is scored by a graft that was trained without it (leave one out), and by the base. The
differences of the case scores are taken as independent draws; their mean gets Student's two-sided
interval, mean +- t(n - 1) s / sqrt(n). The word is

    better        the interval lies above 0
    worse         the interval lies below 0
    no evidence   it holds 0, or there are fewer than two cases

The cases share most of their training volumes, so the differences are not quite independent and the interval
is somewhat too narrow; with few cases it is wide all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import t as student

from graftwork.errors import GraftError

BETTER, UNDECIDED, WORSE = "better", "no evidence", "worse"


@dataclass(frozen=True)
class Verdict:
    """What the site's own cases say of a graft.

    `base` and `graft` are mean scores (Dice, 0 to 1) over `n` cases; `lo` and `hi` bound the mean difference
    graft - base at the confidence `level`, None for fewer than two cases. `note` says what limits it.
    """

    word: str
    base: float
    graft: float
    lo: float | None
    hi: float | None
    n: int
    level: float = 0.95
    note: str = ""

    @property
    def difference(self) -> float:
        """Mean of graft - base."""
        return self.graft - self.base

    def line(self) -> str:
        """One line for a person."""
        if self.lo is None or self.hi is None:
            return f"verdict: {self.word} ({self.n} case cannot tell; give at least two)"
        return (
            f"verdict: {self.word}. Dice {self.base:.3f} (base) to {self.graft:.3f} (graft) over {self.n} "
            f"cases left out in turn: {self.difference:+.3f}, {100 * self.level:.0f} % interval "
            f"{self.lo:+.3f} to {self.hi:+.3f}" + (f"; {self.note}" if self.note else "")
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the passport and the record."""
        return {**asdict(self), "difference": self.difference}


def judge(base: Mapping[str, float], graft: Mapping[str, float], *, level: float = 0.95) -> Verdict:
    """Compare scores by case; higher is better.

    Raises GraftError: no case, cases that differ between the two, a score that is not finite, or a level
    outside (0, 1).
    """
    if not 0 < level < 1:
        raise GraftError(f"verdict: level {level} must lie between 0 and 1")
    if not base or base.keys() != graft.keys():
        odd = sorted(base.keys() ^ graft.keys())
        raise GraftError(
            f"verdict: base and graft must be scored on the same cases; only one has {odd}"
            if odd
            else "verdict: no case was scored"
        )
    values = [v for scores in (base, graft) for v in scores.values()]
    if not all(map(math.isfinite, values)):
        raise GraftError("verdict: a score is NaN or infinite")
    n = len(base)
    means = math.fsum(base.values()) / n, math.fsum(graft.values()) / n
    if n < 2:
        return Verdict(UNDECIDED, *means, None, None, n, level)
    gaps = [graft[case] - base[case] for case in base]
    mean = math.fsum(gaps) / n
    spread = math.sqrt(math.fsum((g - mean) ** 2 for g in gaps) / (n - 1))
    half = float(student.ppf((1 + level) / 2, n - 1)) * spread / math.sqrt(n)
    lo, hi = mean - half, mean + half
    word = BETTER if lo > 0 else WORSE if hi < 0 else UNDECIDED
    return Verdict(word, *means, lo, hi, n, level)
