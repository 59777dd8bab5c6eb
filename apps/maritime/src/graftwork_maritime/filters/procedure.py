"""Each rule of the protocol's grammar, and each of the phrase book's ways, as a filter."""

from __future__ import annotations

from functools import partial

from ..grammar import PHRASES, RULES
from .case import Case, Filter, Told


def _broken(rule: str, case: Case) -> list[Told]:
    return [(v.line, f"{v.text!r}: {v.remedy}") for v in case.violations if v.rule == rule]


def _phrased(rule: str, case: Case) -> list[Told]:
    return [(v.line, f"{v.text}; {v.remedy}") for v in case.phrasing if v.rule == rule]


GRAMMAR = tuple(
    Filter(rule, f"not so: {summary}", partial(_broken, rule)) for rule, summary in RULES.items()
)
PHRASING = tuple(
    Filter(rule, f"not so: {summary}", partial(_phrased, rule)) for rule, summary in PHRASES.items()
)
