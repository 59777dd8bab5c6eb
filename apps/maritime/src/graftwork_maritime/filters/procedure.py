"""Each rule of the protocol's grammar as a filter."""

from __future__ import annotations

from functools import partial

from ..grammar import RULES
from .case import Case, Filter, Told


def _broken(rule: str, case: Case) -> list[Told]:
    return [(v.line, f"{v.text!r}: {v.remedy}") for v in case.violations if v.rule == rule]


GRAMMAR = tuple(
    Filter(rule, f"not so: {summary}", partial(_broken, rule)) for rule, summary in RULES.items()
)
