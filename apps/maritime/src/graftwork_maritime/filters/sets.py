"""The named sets of filters, how filters are chosen, and the table that counts what they refuse."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from graftwork.errors import GraftError

from .case import Case, Filter, Finding
from .house import HOUSE
from .paper import PAPER
from .procedure import GRAMMAR, PHRASING

SETS: dict[str, tuple[Filter, ...]] = {
    "paper": PAPER,
    "house": HOUSE,
    "grammar": GRAMMAR,
    "phrases": PHRASING,
}


def choose(names: Sequence[str], without: Sequence[str] = ()) -> list[Filter]:
    """Filters by name, or whole sets by theirs, in the sets' order, less those of `without`.

    Raises GraftError for a name that is neither.
    """
    wanted, unwanted = _names(names), _names(without)
    every = [f for filters in SETS.values() for f in filters]
    return [f for f in every if f.name in wanted - unwanted]


def _names(names: Sequence[str]) -> set[str]:
    known = {f.name for filters in SETS.values() for f in filters}
    out: set[str] = set()
    for name in names:
        if name in SETS:
            out |= {f.name for f in SETS[name]}
        elif name in known:
            out.add(name)
        else:
            near = difflib.get_close_matches(name, [*SETS, *known], n=1)
            hint = f"did you mean {near[0]}?" if near else f"sets are {', '.join(SETS)}"
            raise GraftError(f"no filter {name!r}; {hint}")
    return out


def judge(case: Case, filters: Iterable[Filter]) -> list[Finding]:
    """All that the filters find, in their order."""
    return [finding for f in filters for finding in f.findings(case)]


class Rejections:
    """How many dialogues each filter judged and refused.

    Attributes:
        seen, refused: dialogues in all, and those that any filter refused.
        judged, failed: by filter. first: by filter, those for which it was the first in order, as the paper counts.
    """

    def __init__(self, filters: Iterable[Filter]) -> None:
        self.filters = list(filters)
        self.seen = self.refused = 0
        self.judged: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.first: Counter[str] = Counter()

    def add(self, case: Case) -> list[Finding]:
        """Judge one more; what was found."""
        findings = judge(case, self.filters)
        self.seen += 1
        self.judged.update(f.name for f in self.filters if f.judges(case))
        if findings:
            self.refused += 1
            self.first[findings[0].filter] += 1
            self.failed.update({f.filter for f in findings})
        return findings

    def rows(self) -> list[dict[str, Any]]:
        """For each filter, in order: its name, and the three counts."""
        return [
            {
                "filter": f.name,
                "judged": self.judged[f.name],
                "failed": self.failed[f.name],
                "first": self.first[f.name],
            }
            for f in self.filters
        ]
