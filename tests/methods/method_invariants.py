"""The numbered invariants of the methods' headers, and the tests that claim them."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from graftwork.cards import cards

CLAIMED: dict[tuple[str, int], list[str]] = {}


def invariant(method_id: str, *numbers: int) -> Callable[[Any], Any]:
    """Mark a test as the one for these invariants of a method's header."""

    def claim(test: Any) -> Any:
        for number in numbers:
            CLAIMED.setdefault((method_id, number), []).append(test.__name__)
        return test

    return claim


def header(method_id: str) -> str:
    """The docstring of a method's file."""
    module = next(c["module"] for c in cards() if c["id"] == method_id)
    return import_module(module).__doc__ or ""


def stated(method_id: str) -> list[int]:
    """The numbers listed under "Invariants:" in a method's header."""
    _, _, listed = header(method_id).partition("\nInvariants:\n")
    return [int(n) for n in re.findall(r"^(\d+)\. ", listed, re.MULTILINE)]
