"""What a unit's optimizer state and learning rate are when it joins.

A promoted unit starts like any newly trained tensor: without moments, and at a rate of its own that rises
from the moment of its promotion and then stays. No cycle of anybody else's schedule sets it, so it can
never sit at a cycle's bottom when the unit is promoted or audited.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from graftwork.allocation.switchboard import Switchboard
from graftwork.optim.rates import rates_in, split

UNIT, PEAK = "unit", "peak"  # keys of a unit's parameter group


def groups(board: Switchboard, lr: float, **fields: Any) -> list[dict[str, Any]]:
    """One parameter group for each unit.

    Args:
        lr: the height of each unit's rate.
        fields: further settings of each group, such as `weight_decay`.
    """
    rates = rates_in(board.model)
    made = [
        part
        for n in board.units
        for part in split({"params": list(board.parameters(n)), "lr": lr, UNIT: n, **fields}, rates)
    ]
    return [{**group, PEAK: group["lr"]} for group in made]


def set_rates(optimizer: Optimizer, since: Mapping[str, int], step: int, ramp: int) -> None:
    """Set the rates of the units' own groups; other groups stay as they are.

    Args:
        since: the step at which each unit was promoted; units that are missing run at full height.
        step: now.
        ramp: steps until full height; the first one has 1/ramp of it.
    """
    for group in optimizer.param_groups:
        if UNIT in group:
            age = step - since[group[UNIT]] + 1 if group[UNIT] in since else ramp
            group["lr"] = group[PEAK] * min(1.0, max(1, age) / ramp)


def forget(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Drop what the optimizer remembers of these tensors."""
    for p in parameters:
        optimizer.state.pop(p, None)


def own_groups(optimizer: Optimizer, board: Switchboard) -> None:
    """Give each unit a parameter group of its own, taken out of the group that its tensors are in.

    Where these are several groups (a method's tensors with rates of their own), the unit has one of each. The units'
    tensors that no group holds are left alone.
    """
    owner = {id(p): n for n in board.units for p in board.parameters(n)}
    made: dict[tuple[str, int], dict[str, Any]] = {}
    kept: list[dict[str, Any]] = []
    for i, group in enumerate(optimizer.param_groups):
        if UNIT not in group:
            for p in group["params"]:
                if id(p) in owner:
                    fields = {k: v for k, v in group.items() if k != "params"}
                    new = {**fields, UNIT: owner[id(p)], PEAK: group["lr"], "params": []}
                    made.setdefault((owner[id(p)], i), new)["params"].append(p)
            group["params"] = [p for p in group["params"] if id(p) not in owner]
        if group["params"]:
            kept.append(group)
    units = [made[key] for n in board.units for key in made if key[0] == n]
    optimizer.param_groups[:] = [*kept, *units]
