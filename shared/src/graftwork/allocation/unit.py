"""Units: what the allocator chooses from (SEA-PEFT, section 3.1).

A unit is (host sites, method at a level, group, cost): a small named graft that is either on or off. Units of one
group (instance, family) exclude each other.

Departure: so do units that share a host, whatever their families, because the graft that is exported
keeps one method a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from graftwork.algebra import quantised
from graftwork.allocation.families import Family, families, width
from graftwork.errors import GraftError
from graftwork.methods.base import Method
from graftwork.sites import Pattern, Site, is_within, own_modules, select

Wanted = Iterable[str | Family] | str | Family | None


@dataclass(frozen=True)
class Unit:
    """One choice of the allocator.

    Args:
        name: of the unit, and of its graft on the model.
        sites: its hosts.
        method: what they carry, with its level.
        group: instance and family; at most one unit of a group is on.
        family, level: where the method comes from.
        cost: trainable parameters, exact.
    """

    name: str
    sites: tuple[Site, ...]
    method: Method
    group: str
    family: str
    level: int
    cost: int

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the host sites."""
        return tuple(s.name for s in self.sites)

    @property
    def owns_modules(self) -> bool:
        """Its hosts are copied whole."""
        return self.method.changes == "module"

    def row(self) -> dict[str, Any]:
        """The unit as plain JSON."""
        return {
            "name": self.name,
            "hosts": list(self.hosts),
            "method": {"id": self.method.id, "config": self.method.config()},
            "group": self.group,
            "cost": self.cost,
        }


def units(
    model: nn.Module,
    families: Wanted,
    sites: Iterable[Pattern] | Pattern,
    group_by: Callable[[str], str] | None = None,
) -> list[Unit]:
    """Units of these families on these hosts.

    Args:
        model: not touched.
        families: names of registered families, or `Family` objects.
        sites: globs over host modules, "type:Name" or classes, as in `graft`.
        group_by: host name -> instance name; the hosts of one instance make up one unit together. `None`:
            each host is an instance.

    Raises:
        GraftError: a pattern that matches no module, a host that a family cannot serve, a level above min(d_in,
            d_out) of a host.
    """
    out: list[Unit] = []
    for family in _families(families):
        chosen, _ = select(model, family.method(family.levels[0]), sites, set())
        instances: dict[str, list[Site]] = {}
        for site in chosen:
            instances.setdefault(group_by(site.name) if group_by else site.name, []).append(site)
        out += units_of(model, family, instances)
    check_units(out)
    return out


def units_of(
    model: nn.Module, family: Family, instances: dict[str, list[Site]], fit: bool = False
) -> list[Unit]:
    """Units of one family, from known hosts.

    Args:
        instances: host sites by instance.
        fit: leave levels out that a host is too narrow for, instead of refusing.

    Raises:
        GraftError: a level that a host cannot carry.
    """
    modules = dict(own_modules(model))
    out: list[Unit] = []
    for instance, hosts in instances.items():
        sites = tuple(hosts[-1:] if family.single else hosts)
        for level in family.levels:
            method = family.method(level)
            faults = [f for s in sites if (f := _fault(family, level, method, s, modules))]
            if faults and fit:
                continue
            if faults:
                raise GraftError(f"units: {faults[0]}")
            word = family.word(level)
            out.append(
                Unit(
                    name=f"{instance.replace('.', '-') or 'model'}={word}",
                    sites=sites,
                    method=method,
                    group=f"{instance} {family.name}",
                    family=family.name,
                    level=level,
                    cost=sum(_cost(method, s, modules[s.module]) for s in _payers(method, sites)),
                )
            )
    return out


def _payers(method: Method, sites: Iterable[Site]) -> list[Site]:
    """The sites without those that train tensors of an earlier one."""
    kept: dict[str, Site] = {}
    for site in sites:
        word = None if site.geo is None else method.shares(site.name, site.geo)
        kept.setdefault(f"site {site.name}" if word is None else f"word {word}", site)
    return list(kept.values())


def check_units(chosen: Sequence[Unit]) -> None:
    """Refuse a set of units that is empty or holds a name twice.

    Raises:
        GraftError: as said.
    """
    if not chosen:
        raise GraftError("units: there is none to choose from")
    seen: set[str] = set()
    for unit in chosen:
        if unit.name in seen:
            raise GraftError(
                f"units: two units have the name {unit.name!r}; drop one or rename its family"
            )
        seen.add(unit.name)


def exclusions(chosen: Iterable[Unit]) -> dict[str, frozenset[str]]:
    """For each unit the names of those that cannot be on with it."""
    chosen = list(chosen)
    out: dict[str, set[str]] = {u.name: set() for u in chosen}
    places: dict[str, list[Unit]] = {}
    for unit in chosen:
        for key in {f"group {unit.group}", *(f"site {h}" for h in unit.hosts)}:
            places.setdefault(key, []).append(unit)
    for together in places.values():
        for unit in together:
            out[unit.name] |= {o.name for o in together if o is not unit}
    for owner in (u for u in chosen if u.owns_modules):  # a copy stands in for all that is inside
        for other in chosen:
            nested = any(is_within(s.module, h.module) for s in other.sites for h in owner.sites)
            if other is not owner and nested:
                out[owner.name].add(other.name)
                out[other.name].add(owner.name)
    return {name: frozenset(others) for name, others in out.items()}


def largest(chosen: Iterable[Unit]) -> int:
    """Parameters of the set that takes the largest unit wherever one more can be on."""
    chosen = list(chosen)
    excludes = exclusions(chosen)
    taken: set[str] = set()
    total = 0
    for unit in sorted(chosen, key=lambda u: -u.cost):
        if not excludes[unit.name] & taken:
            taken.add(unit.name)
            total += unit.cost
    return total


def _families(wanted: Wanted) -> list[Family]:
    return families(wanted)


def _fault(
    family: Family, level: int, method: Method, site: Site, modules: dict[str, nn.Module]
) -> str | None:
    where = site.name or "the model"
    if not family.fits(level, site.geo):
        assert site.geo is not None
        return (
            f"{family.name} level {level} on {where} is above min(d_in, d_out) = {width(site.geo)}; "
            "give the family smaller levels there"
        )
    if site.geo is None:
        return None
    why = method.refuses(site.geo, modules[site.module]._parameters.get(site.bias))
    return f"{method.id} refuses {where}: {why}" if why else None


def _cost(method: Method, site: Site, module: nn.Module) -> int:
    if site.geo is None:
        return sum(p.numel() for p in module.parameters() if p.is_floating_point())
    weight, bias = (quantised.hollow(module, name) for name in (site.weight, site.bias))
    if weight is None:
        weight = next(module.parameters()).detach().to("meta")
    start = method.start(site.geo, weight, bias)
    return sum(t.numel() for t in start.values())
