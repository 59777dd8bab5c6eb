"""What a filter is given, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ..dialogues import Dialogue
from .unique import Texts

if TYPE_CHECKING:
    from ..grammar import State, Violation
    from ..scenario import Scenario


@dataclass(frozen=True)
class Case:
    """A dialogue to judge.

    Args:
        dialogue: what was said; its `scenario` holds the facts, where there is one.
        context: the paper's words for the scenario's facts, by the paper's keys.
        category: of the distress or traffic; `None` when unknown.
        pool: the texts that it must differ from.
        known: the scenario that the dialogue's JSON holds.
    """

    dialogue: Dialogue
    context: Mapping[str, Any] | None = None
    category: str | None = None
    pool: Texts = field(default_factory=Texts)
    known: Scenario | None = None

    @cached_property
    def text(self) -> str:
        """The turns' texts, one a line."""
        return self.dialogue.text

    @cached_property
    def scenario(self) -> Mapping[str, Any]:
        """The scenario's JSON; empty without one."""
        return self.dialogue.scenario or {}

    @cached_property
    def state(self) -> State:
        """What the protocol's grammar makes of it."""
        from ..grammar import parse

        return parse(self.dialogue.turns, self.known)

    @property
    def violations(self) -> list[Violation]:
        """What the protocol's grammar finds."""
        return self.state.violations

    @cached_property
    def phrasing(self) -> list[Violation]:
        """Where it leaves the standard phrases."""
        from ..grammar import phrasing

        return phrasing(self.state)

    def line_of(self, part: str) -> int | None:
        """The first turn, from 1, that holds `part` in any case."""
        low = part.lower()
        return next(
            (n for n, t in enumerate(self.dialogue.turns, 1) if low in t.text.lower()), None
        )


@dataclass(frozen=True)
class Finding:
    """Why a filter fails a dialogue. `line`: the turn, from 1; `None` when it is the whole."""

    filter: str
    line: int | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return {"filter": self.filter, "line": self.line, "reason": self.reason}


Told = tuple[int | None, str]  # line and reason
Need = Literal["context", "scenario", "category"]


@dataclass(frozen=True)
class Filter:
    """A named rule.

    Args:
        name: by which it is switched on and off.
        summary: what fails, in one line.
        check: the failures of a case; empty when it passes.
        needs: what the case must have; without it the filter does not judge.
        masked: whether the scenario leaves it nothing to judge.
        weight, score: in the paper's scores; `None` for a filter of ours.
        rejects: whether the paper's evaluation refuses a dialogue for it.
    """

    name: str
    summary: str
    check: Callable[[Case], list[Told]]
    needs: tuple[Need, ...] = ()
    masked: Callable[[Case], bool] = lambda case: False
    weight: int = 1
    score: Literal["format", "information", "uniqueness"] | None = None
    rejects: bool = True

    def judges(self, case: Case) -> bool:
        """Whether the case has what it needs, and something to judge."""
        have = {
            "context": case.context is not None,
            "scenario": bool(case.scenario),
            "category": case.category is not None,
        }
        return all(have[need] for need in self.needs) and not self.masked(case)

    def findings(self, case: Case) -> list[Finding]:
        """What it says of the case; nothing where it does not judge."""
        if not self.judges(case):
            return []
        return [Finding(self.name, line, reason) for line, reason in self.check(case)]
