"""How much of what costs minutes is run: a part in `make test`, all of it in `make thorough`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def thorough() -> bool:
    """Whether everything is asked for."""
    return bool(os.environ.get("GRAFTWORK_THOROUGH"))


def some_of(mutants: Sequence[T], kind: Callable[[T], str]) -> list[T]:
    """All mutants where everything is asked for; else one of each kind."""
    if thorough():
        return list(mutants)
    return list({kind(m): m for m in reversed(mutants)}.values())
