"""The plan of a search: every number of SEA-PEFT's section 4, with its published value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from graftwork.errors import GraftError
from graftwork.methods.base import check_fields, setting


@dataclass(frozen=True)
class Plan:
    """How long a search runs and how careful it is. Steps are optimizer steps.

    Args:
        warm_up: steps in which all units take turns, so that each has something to show.
        together: in warm-up, units that do not exclude each other train in one step; `False` trains one unit a
            step, as the paper does.
        steps: of the search, after warm-up.
        audit_every, allocate_every: steps between two audits, two allocations.
        share: of the units that an audit looks at.
        memory: beta of the moving average; 0 keeps the last value only.
        window: values of the moving average that the score looks back on.
        caution: lambda, how much the spread lowers a score.
        optimism: kappa, how much uncertainty raises a value.
        hysteresis: an active unit may cost this much utility (of Dice, say) and stay.
        votes: allocations in a row that must want a switch.
        guard: allocations after a switch in which a unit stays as it is.
        debt: audits after which a unit is overdue.
        active_share: of an audit's free places, those for active units.
        uniform: first audits that draw at random.
        kept: last allocations that are candidates.
        swaps: one-for-one changes of the last allocation that are candidates.
        ramp: steps in which a promoted unit's rate rises to its full height.
    """

    warm_up: int = setting(200, low=0)
    together: bool = True
    steps: int = setting(6000, low=1)
    audit_every: int = setting(200, low=1)
    allocate_every: int = setting(400, low=1)
    share: float = setting(0.2, low=0.0, high=1.0)
    memory: float = setting(0.95, low=0.0, high=1.0)
    window: int = setting(5, low=1)
    caution: float = setting(0.25, low=0.0)
    optimism: float = setting(0.5, low=0.0)
    hysteresis: float = setting(0.02, low=0.0)
    votes: int = setting(3, low=1)
    guard: int = setting(3, low=0)
    debt: int = setting(6, low=1)
    active_share: float = setting(0.9, low=0.0, high=1.0)
    uniform: int = setting(3, low=0)
    kept: int = setting(5, low=1)
    swaps: int = setting(5, low=0)
    ramp: int = setting(20, low=1)

    def __post_init__(self) -> None:
        check_fields(self)

    def row(self) -> dict[str, Any]:
        """The plan as plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Plan:
        """The inverse of `row`.

        Raises:
            GraftError: an unknown field or a value out of range.
        """
        unknown = sorted({*row} - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise GraftError(f"Plan: unknown field {unknown[0]!r}")
        return cls(**row)


def parameter_budget(model: nn.Module, budget: float | int) -> int:
    """The budget as a count of parameters.

    Args:
        model: its parameters (a graft's do not count) are what a fraction is of.
        budget: a float in (0, 1] is a fraction, a whole number of at least 1 a count.

    Raises:
        GraftError: anything else.
    """
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise GraftError(f"budget must be a number, not {budget!r}")
    if isinstance(budget, int):
        if budget < 1:
            raise GraftError(f"budget: as a count it must be at least 1, not {budget}")
        return budget
    if not 0 < budget <= 1:
        raise GraftError(f"budget: as a fraction of the model it must lie in (0, 1], not {budget}")
    from graftwork.handle import grafts

    own = {id(p) for graft in grafts(model).values() for p in graft.parameters()}
    return int(budget * sum(p.numel() for p in model.parameters() if id(p) not in own))
