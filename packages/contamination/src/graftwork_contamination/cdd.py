"""CDD: how many samples are copies of the greedy answer, but for a few tokens.

Dong et al. 2024 (Generalization or Memorization), in the form of arXiv 2603.03203: samples are compared with the
greedy answer, never with each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.errors import GraftError
from graftwork_contamination.distance import edit_distance_within
from graftwork_contamination.parameters import check_alpha


@dataclass(frozen=True)
class Peakedness:
    """The share of samples near the greedy answer.

    Args:
        value: in {0, 1/n, ..., 1}.
        length: l, tokens of the longest answer after the cut.
        bound: edits that were allowed.
        degenerate: all answers are empty; the value 1 is then no evidence.
        exact_only: the bound is below one edit, so that only exact copies count.
    """

    value: float
    length: int
    bound: int
    degenerate: bool
    exact_only: bool


def peakedness(
    greedy: Sequence[int],
    samples: Sequence[Sequence[int]],
    alpha: float = 0.05,
    l_max: int = 100,
) -> Peakedness:
    """Peak = mean over samples of [ED(sample, greedy) <= alpha * l].

    Args:
        greedy: tokens of the answer at temperature 0.
        samples: tokens of each sample.
        alpha: share of l by which a sample may differ. l_max: where all are cut.

    Raises:
        GraftError: no sample, `alpha` outside [0, 1], or `l_max` below 1.
    """
    check_alpha(alpha)
    if not samples:
        raise GraftError("samples: there is none; CDD needs at least one beside the greedy answer")
    if l_max < 1:
        raise GraftError(f"l_max {l_max}: must be 1 or more")
    first = list(greedy[:l_max])
    rest = [list(s[:l_max]) for s in samples]
    length = max(len(first), *map(len, rest))
    bound = math.floor(alpha * length + 1e-9)  # 0.29 * 100 is 29, whatever the rounding
    near = sum(edit_distance_within(first, s, bound) is not None for s in rest)
    return Peakedness(near / len(rest), length, bound, length == 0, length > 0 and bound == 0)
