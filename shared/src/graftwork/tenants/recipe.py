"""What each grafted layer does for a set of tasks: found out once, and used as long as nothing was replaced."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.attach import CALL, ROWS, SiteGrafts, grafts_of
from graftwork.fast.sites import KINDS
from graftwork.states import CopyState, MethodState, SiteState
from graftwork.tenants.checks import CannotShareError
from graftwork.tenants.grouped import Bundle, Member, Stacks, alike


@dataclass
class Site:
    """One grafted module.

    Attributes:
        bundle: the tasks that share batched products here; `grouped` are their states, by task.
        branches: states whose change is computed from their rows of input and output.
        replaced: states that answer the whole call; the module runs once for each of these tasks.
        served: sites below whose weights this module reads without calling them.
        reading: tasks with a state at one of those; the module runs once for each of them.
    """

    grafts: SiteGrafts
    bundle: Bundle | None = None
    grouped: dict[str, MethodState] = field(default_factory=dict)
    branches: dict[str, MethodState] = field(default_factory=dict)
    replaced: dict[str, SiteState] = field(default_factory=dict)
    served: list[SiteGrafts] = field(default_factory=list)
    reading: tuple[str, ...] = ()

    def singles(self, tasks: Iterable[str]) -> list[str]:
        """The tasks for which the module runs once each."""
        return [t for t in tasks if t in self.replaced or t in self.reading]


class Recipe:
    """All sites of a model for some tasks.

    Args:
        modules: the modules that carry grafts, with what hangs on them.
        tasks: names of grafts.

    Raises:
        CannotShareError: a task adds rows to a module's output, which cannot stand beside other tasks' rows.
    """

    def __init__(
        self, modules: Sequence[tuple[nn.Module, SiteGrafts]], tasks: tuple[str, ...]
    ) -> None:
        self.sites: dict[int, Site] = {}
        self._watched: list[Any] = []
        self._places: list[tuple[Tensor, int]] = []
        for module, grafts in modules:
            site = self._site(module, grafts, tasks)
            if site is not None:
                self.sites[id(grafts)] = site
        self.stacks = Stacks([s.bundle for s in self.sites.values() if s.bundle is not None])

    def _site(self, module: nn.Module, grafts: SiteGrafts, tasks: tuple[str, ...]) -> Site | None:
        site = Site(grafts)
        for name in tasks:
            slots = grafts.slots(name)
            rows = slots.get(ROWS)
            if rows is not None and (len(tasks) > 1 or isinstance(slots.get(CALL), CopyState)):
                raise CannotShareError(
                    f"tenants: graft {name!r} has new rows at a {type(module).__mro__[2].__name__}, and their outputs "
                    "do not fit beside other tasks'; give it passes to itself (a group of one), or use them in the "
                    "task's loss, which runs alone"
                )
            if rows is not None:
                site.replaced[name] = rows
            state = slots.get(CALL)
            if isinstance(state, CopyState) or (
                isinstance(state, MethodState) and state.method.changes == "attention"
            ):
                site.replaced[name] = state
            elif isinstance(state, MethodState):
                site.branches[name] = state
        site.served = [
            s for p in grafts.serves if (s := grafts_of(module.get_submodule(p))) is not None
        ]
        site.reading = tuple(n for n in tasks if any(s.slots(n) for s in site.served))
        if len(site.branches) > 0:
            self._bundle(module, site)
        if site.bundle or site.branches or site.replaced or site.reading:
            return site
        return None

    def _bundle(self, module: nn.Module, site: Site) -> None:
        """Move what is plain factors on a frozen linear layer from `branches` to a bundle."""
        found = []
        for name, state in site.branches.items():
            member = _member(name, state)
            if member is not None:
                found.append(member)
        if not found:
            return
        chosen = alike(found)
        state = site.branches[chosen[0].name]
        weight = module._parameters.get(state.weight_name)
        bias = module._parameters.get(state.bias_name)
        if state.scheme is not None or weight is None:
            return
        frozen = all(t is None or (_plain(t) and not t.requires_grad) for t in (weight, bias))
        if not frozen or weight.device != chosen[0].a.device:
            return
        matrix = (weight if state.geo.kind == "linear" else weight.t()).detach()
        site.bundle = Bundle(chosen, weakref.ref(module), matrix, bias, weight.dtype)
        for m in chosen:
            own = site.branches.pop(m.name)
            site.grouped[m.name] = own
            self._watched += [(own, own.training, own._parameters, n, t) for n, t in _named(own, m)]
        self._watched.append((module, None, module._parameters, state.weight_name, weight))
        self._places.append((weight, weight.data_ptr()))

    def holds(self) -> bool:
        """Whether every tensor is still where it was, and every state in its mode."""
        for owner, training, there, name, tensor in self._watched:
            if there.get(name) is not tensor:
                return False
            if training is not None and owner.training is not training:
                return False
        return all(t.data_ptr() == place and not t.requires_grad for t, place in self._places)


def _member(name: str, state: MethodState) -> Member | None:
    """A task's factors at a linear layer, where its change is those and nothing more."""
    if state.geo.kind not in KINDS:
        return None
    p = state.params()
    factors, dropout = state.method.factors(state.geo, p, state.training), 0.0
    if factors is None and state.training:
        factors, dropout = state.method.dropped_factors(state.geo, p) or (None, 0.0)
    if factors is None or any(more is not None for more in factors[3:]):
        return None
    own = [id(p) for p in state._parameters.values()]
    if id(factors.a) not in own or id(factors.b) not in own:
        return None
    return Member(name, factors.a, factors.b, factors.scale, dropout)


def _named(state: MethodState, m: Member) -> list[tuple[str, Tensor]]:
    return [(n, p) for n, p in state._parameters.items() if p is m.a or p is m.b]


def _plain(t: Tensor) -> bool:
    return type(t) is nn.Parameter or type(t) is torch.Tensor
