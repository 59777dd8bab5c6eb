"""Each rule of the protocol's grammar, and each of the phrase book's ways, as a filter."""

from __future__ import annotations

import re
from functools import partial

from ..grammar import PHRASES, RULES
from ..spoken.alphabet import FIGURE_OF
from .case import Case, Filter, Told


def _broken(rule: str, case: Case) -> list[Told]:
    return [(v.line, f"{v.text!r}: {v.remedy}") for v in case.violations if v.rule == rule]


def _phrased(rule: str, case: Case) -> list[Told]:
    return [(v.line, f"{v.text}; {v.remedy}") for v in case.phrasing if v.rule == rule]


def _never(case: Case) -> bool:
    return False


GRAMMAR = tuple(
    Filter(rule, f"not so: {summary}", partial(_broken, rule)) for rule, summary in RULES.items()
)


# Figures said one by one: "one six", "1 6".
_ROWS = re.compile(
    rf"\b({'|'.join(FIGURE_OF)}|niner|\d)[ -]({'|'.join(FIGURE_OF)}|niner|\d)\b", re.IGNORECASE
)


def _whole_numbers(case: Case) -> bool:
    """Whether the scenario has its figures said as whole numbers; where it says nothing, whether all here are."""
    known = (case.scenario.get("position") or {}).get("digit_by_digit")
    return known is False or (known is None and not _ROWS.search(case.text))


_MASKED = {"figures-as-numbers": _whole_numbers}
PHRASING = tuple(
    Filter(rule, f"not so: {summary}", partial(_phrased, rule), masked=_MASKED.get(rule, _never))
    for rule, summary in PHRASES.items()
)
