"""The parameters of all detectors, with the values of arXiv 2603.03203; they are stored with every result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from graftwork.errors import GraftError


@dataclass(frozen=True)
class Parameters:
    """What the detectors are told.

    Args:
        samples: n of CDD, samples beside the greedy answer.
        temperature: of the samples; 0 takes the likeliest token.
        alpha: share of the longest answer's tokens by which a sample may differ from the greedy one.
        max_new_tokens: of an answer.
        l_max: tokens of an answer that are compared.
        max_tokens: tokens of a prompt that perplexity and Min-K % read.
        k: percent of a prompt's tokens that Min-K % takes.
        n: words of an n-gram.
        seed: of the samples, the intervals and the halves.
        resamples: of an interval, and permutations of a test.
        level: at which the gate finds memorisation, shared out among its detectors.
        rows: sequences that the model answers at once; scores do not depend on it but for rounding.

    Raises:
        GraftError: a value out of its range, by name.
    """

    samples: int = 50
    temperature: float = 0.8
    alpha: float = 0.05
    max_new_tokens: int = 100
    l_max: int = 100
    max_tokens: int = 256
    k: float = 20.0
    n: int = 3
    seed: int = 0
    resamples: int = 1000
    level: float = 0.05
    rows: int = 64

    def __post_init__(self) -> None:
        low = {"samples": 1, "max_new_tokens": 1, "l_max": 1, "max_tokens": 2, "n": 1, "seed": 0}
        for name, least in (low | {"resamples": 1, "rows": 1}).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise GraftError(f"{name} {value!r}: must be a whole number, {least} or more")
        check_alpha(self.alpha)
        check_k(self.k)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise GraftError(f"temperature {self.temperature!r}: must be 0 or more")
        if not 0 < self.level < 1:
            raise GraftError(f"level {self.level!r}: must lie between 0 and 1")

    def as_dict(self) -> dict[str, Any]:
        """By name, for a file."""
        return asdict(self)


def check_alpha(alpha: float) -> None:
    """Raise GraftError unless `alpha` lies in [0, 1]."""
    if not 0 <= alpha <= 1:
        raise GraftError(f"alpha {alpha!r}: must lie in [0, 1], a share of the answer's length")


def check_k(k: float) -> None:
    """Raise GraftError unless `k` lies in (0, 100]."""
    if not 0 < k <= 100:
        raise GraftError(f"k {k!r}: must lie in (0, 100], percent of the tokens")
