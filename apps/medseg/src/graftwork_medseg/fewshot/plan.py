"""What `adapt` was asked for: organs, shots, a cap on parameters, and how long the search for sites may take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graftwork.allocation import Plan
from graftwork.errors import GraftError

# SEA-PEFT's released plan for five shots, which `SearchPlan.plan` scales down (arXiv 2603.05822).
AUDITS, MEMORY, PATIENCE = 40, 0.93, 3
LEAST_AUDITS, STEPS_PER_AUDIT = 4, 15
AUDIT_SHARE = 0.2  # of the units
TIME_IN_AUDITS = 0.2  # of the search, planned by forward passes; switching and the end come on top
_STEP = (
    2  # forward passes of its batch that a step costs at least: a frozen base needs few gradients
)


@dataclass(frozen=True)
class SearchPlan:
    """How long a search takes, in optimizer steps.

    Args:
        warm_up: steps in which all candidates for a site take turns, so that each has something to show.
        steps: of the search that follows.
        refine: steps in which the chosen set is trained afresh; with a budget they replace trainer.max_epochs,
            here and for each case that is judged.
    """

    warm_up: int = 56
    steps: int = 240
    refine: int = 120

    def __post_init__(self) -> None:
        for name, least in (("warm_up", 0), ("steps", 1), ("refine", 1)):
            value = getattr(self, name)
            if value < least:
                raise GraftError(f"search.{name} {value} must be at least {least}")

    def plan(self, units: int, crops: int, batch: int) -> Plan:
        """The published plan in proportion: fewer audits, and votes, guard and memory that fit their number.

        Args:
            units: how many there are.
            crops: of the audit, whose count bounds what one audit costs.
            batch: crops of a training step.

        An audit looks at a fifth of the units, or at as many as a fifth of the search's forward passes pay for.
        """
        audits = min(AUDITS, max(LEAST_AUDITS, self.steps // STEPS_PER_AUDIT))
        every = max(1, self.steps // audits)
        spare = TIME_IN_AUDITS / (1 - TIME_IN_AUDITS) * every * _STEP * batch / crops
        probes = max(1.0, spare - 2)  # the set itself, and the allocation's own look at it
        return Plan(
            warm_up=self.warm_up,
            steps=self.steps,
            audit_every=every,
            allocate_every=min(self.steps, 2 * every),
            share=min(AUDIT_SHARE, probes / units),
            memory=MEMORY ** (AUDITS / audits),
            votes=max(1, round(PATIENCE * audits / AUDITS)),
            guard=max(1, round(PATIENCE * audits / AUDITS)),
            ramp=max(1, min(20, every // 2)),
        )


def budget_of(value: str | float) -> float | int:
    """A cap as `Search` takes it: "1%" or 0.01 is a share (float), 20000 a count of parameters (int).

    Raises:
        GraftError: not a number, a share outside (0, 100 %], or a count that is not whole.
    """
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise GraftError(
            f"budget {text!r}: give a share of the network such as 1% or 0.01, or a number of parameters "
            "such as 20000"
        )
    if not text.endswith("%") and number >= 1 and number == int(number):
        return int(number)
    share = number / 100 if text.endswith("%") else number
    if not 0 < share <= 1:
        raise GraftError(
            f"budget {text!r}: a share must lie above 0 and be at most 100 %; a number of parameters is whole"
        )
    return share


@dataclass(frozen=True)
class Request:
    """What the user asked for, as typed; None: not asked.

    Args:
        organ: names, separated by commas.
        shots: cases to train on.
        fold: which draw of them.
        budget: see `budget_of`.
        dual: adapter folder of a shared graft.
    """

    organ: str | None = None
    shots: int | None = None
    fold: int = 0
    budget: str | float | None = None
    dual: str | None = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """The organs' names; None: not asked."""
        if self.organ is None:
            return None
        return tuple(name for part in self.organ.split(",") if (name := part.strip()))

    @property
    def by_name(self) -> bool:
        """Whether outputs are found by name; else classes go by number."""
        return self.organ is not None or self.budget is not None or self.dual is not None

    @property
    def draws(self) -> bool:
        """Whether cases are drawn; else the data module's own split holds."""
        return self.by_name or self.shots is not None or self.fold != 0
