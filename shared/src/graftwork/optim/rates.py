"""Learning rates of a method's own, as parameter groups that any optimizer takes.

A method says of its tensors how fast they train beside the others (`Method.rates`). An optimizer that is given a list
of tensors knows nothing of it, so the groups are made here: for a loop of one's own by `paced`, and by `set_rates`
for the optimizer that a config file names. Schedules multiply every group's rate and keep the ratios; one that sets the
same rate for all groups is refused by `check_schedule` (give `OneCycleLR` a list of rates, and `CosineAnnealingLR` an
`eta_min` of 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from graftwork.errors import GraftError
from graftwork.handle import Graft
from graftwork.methods.base import Rate
from graftwork.optim.pairs import grafts_in, known, tensors_of
from graftwork.states import MethodState

#: the key of a group whose rate has been multiplied, and by what
TIMES = "times"


def rates_in(target: Graft | nn.Module) -> dict[int, Rate]:
    """What the grafts' methods say of their tensors, by `id`; only what differs from the others."""
    return {
        id(getattr(state, name)): rate
        for graft in grafts_in(target)
        for _, state in graft.states()
        if isinstance(state, MethodState)
        for name, rate in state.method.rates(state.geo).items()
        if name in state.names and rate != Rate()
    }


def split(group: Mapping[str, Any], rates: Mapping[int, Rate]) -> list[dict[str, Any]]:
    """A parameter group as groups of one rate each; those that were split already stay whole."""
    if TIMES in group:
        return [dict(group)]
    parts: dict[Rate, list[Any]] = {}
    for p in group["params"]:
        parts.setdefault(rates.get(id(p), Rate()), []).append(p)
    return [
        {
            **group,
            "params": tensors,
            "lr": group["lr"] * rate.times,
            TIMES: rate.times,
            **({} if rate.decay else {"weight_decay": 0.0}),
        }
        for rate, tensors in parts.items()
    ]


def paced(
    params: Graft | nn.Module | Iterable[Any], lr: float, **fields: Any
) -> list[dict[str, Any]]:
    """Parameter groups at the rates that the grafts' methods ask for.

    Args:
        params: a graft, or a module that carries grafts; what else trains in the module gets `lr`.
        lr: the rate of everything that no method multiplies.
        fields: further settings of each group, such as `weight_decay`, which some tensors are kept out of.

    Returns:
        Groups with "params", "lr" and "times", the factor in it.

    Raises:
        GraftError: a rate that is not above 0, or a list that does not say what is what.
    """
    target = known(params)
    if target is None:
        raise GraftError(
            "paced: a list of tensors does not say which method they are of; give it the graft, or the module"
        )
    if not lr > 0:
        raise GraftError(f"paced: lr must be above 0, not {lr}")
    return split({"params": tensors_of(target), "lr": lr, **fields}, rates_in(target))


def set_rates(optimizer: Optimizer, target: Graft | nn.Module) -> None:
    """Split the groups of an optimizer that has not stepped yet; without a method that asks for it, nothing happens.

    Raises:
        GraftError: the optimizer has stepped.
    """
    rates = rates_in(target)
    if not rates:
        return
    if optimizer.state:
        raise GraftError("set_rates: the optimizer has stepped; set the rates when it is built")
    optimizer.param_groups[:] = [part for g in optimizer.param_groups for part in split(g, rates)]


def check_schedule(optimizer: Optimizer, before: Iterable[float]) -> None:
    """Refuse a schedule that was put on an optimizer and forgot its groups' own rates.

    Args:
        before: the groups' rates without the schedule, in order.

    Raises:
        GraftError: the ratios of the rates have changed.
    """
    if all(group.get(TIMES, 1.0) == 1.0 for group in optimizer.param_groups):
        return
    now = [float(group["lr"]) for group in optimizer.param_groups]
    shares = [n / float(b) for n, b in zip(now, before, strict=True) if b > 0]
    if shares and max(shares) - min(shares) > 1e-6 * max(shares):
        raise GraftError(
            "lr_scheduler: it sets one rate for all parameter groups, but the method of a graft asks for rates of "
            "its own; take a schedule that multiplies rates, such as CosineAnnealingLR or LinearLR"
        )
