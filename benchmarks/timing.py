"""Fair timing: variants take turns in one process, and a figure is a median with its quartiles."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from graftwork_runs import Row


def take_turns(
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int,
    seed: int = 0,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of each call, by variant; every round runs each variant once, in a shuffled order.

    Seconds of processor time, in which a busy neighbour does not count: on one thread of a quiet
    machine they are those of the clock. Where another device does the work, `clock` waits for it and
    says what time it is. The i-th figures of all variants come from the same round, so a ratio may
    be taken in pairs.
    """
    order = list(variants)
    shuffle = random.Random(seed).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warmup + rounds):
        shuffle(order)
        for name in order:
            begun = clock()
            variants[name]()
            elapsed = clock() - begun
            if turn >= warmup:
                seconds[name].append(elapsed)
    return seconds


def median_row(
    case: str, variant: str, metric: str, values: Sequence[float], unit: str | None = None
) -> Row:
    """The median of at least two values, with the quartiles as bounds."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Row(
        case=case,
        variant=variant,
        metric=metric,
        value=_rounded(statistics.median(values)),
        lo=_rounded(low),
        hi=_rounded(high),
        n=len(values),
        unit=unit,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
