"""Is an answer right? Exact match, order of actions, validity; means with intervals over the test's groups.

An answer is exact when it parses to the very tree, arguments, numbers and names of called trees included; its order
is right when the same actions come in the same order, whatever their arguments; it is valid when it parses, names
known actions and conditions alone, and gives each as many arguments as its signature has.

Examples of one instruction get answers that depend on each other. The intervals therefore resample groups
(`Episode.group`), not examples: a cluster bootstrap of the mean over examples, 95 %, of the mean over seeds where
there are several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.trees.episodes import Episode, Palette
from benchmarks.trees.tree import TreeError, parse, problems

METRICS = ("exact match", "action order", "valid")
RESAMPLES = 4000
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """A mean over examples with its interval."""

    value: float
    lo: float
    hi: float
    n: int


def judge(text: str, episode: Episode, palette: Palette) -> tuple[bool, bool, bool]:
    """Whether an answer is exact, in order, valid."""
    try:
        tree = parse(text)
    except TreeError:
        return False, False, False
    valid = not problems(tree, palette.arities(episode.shown))
    return tree == episode.tree, tree.order() == episode.tree.order(), valid


def scores(
    answers: Sequence[str], episodes: Sequence[Episode], palette: Palette
) -> dict[str, Values]:
    """0 and 1 for each example, by metric."""
    found = [judge(a, e, palette) for a, e in zip(answers, episodes, strict=True)]
    table = np.array(found, dtype=np.float64).reshape(-1, len(METRICS))
    return {metric: table[:, i] for i, metric in enumerate(METRICS)}


def mean(values: Values, episodes: Sequence[Episode], seed: int = 0) -> Mean:
    """The mean of a value per example, with an interval over groups."""
    names = sorted({e.group for e in episodes})
    at = np.array([names.index(e.group) for e in episodes])
    totals = np.bincount(at, values, len(names))
    counts = np.bincount(at, minlength=len(names))
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    found = (weights @ totals) / (weights @ counts)
    lo, hi = np.quantile(found, [0.025, 0.975])
    value = float(values.mean())
    return Mean(value, min(float(lo), value), max(float(hi), value), len(values))


def over_seeds(found: Sequence[Mapping[str, Values]]) -> dict[str, Values]:
    """Each example's mean over seeds, by metric."""
    return {m: np.mean([one[m] for one in found], axis=0) for m in METRICS}
