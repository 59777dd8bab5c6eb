"""How much of what costs minutes is run: a part in `make test`, all of it in `make thorough`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

#: mutants of a file in `make test`, beyond one of each kind
SOME = 6


def thorough() -> bool:
    """Whether everything is asked for."""
    return bool(os.environ.get("GRAFTWORK_THOROUGH"))


def some_of(mutants: Sequence[T], kind: Callable[[T], str]) -> list[T]:
    """All mutants where everything is asked for; else the first of each kind, and evenly spaced ones."""
    if thorough():
        return list(mutants)
    first = {kind(m): i for i, m in reversed(list(enumerate(mutants)))}
    step = max(1, len(mutants) // SOME)
    kept = sorted({*first.values(), *range(step // 2, len(mutants), step)})
    return [mutants[i] for i in kept]
