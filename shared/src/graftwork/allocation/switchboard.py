"""All units on one model, attached once and switched one by one without a rebuild.

Each unit is a named graft. Switching touches the sites of the units that change and nothing else: no tensor, no
`requires_grad`, no mode. Off, a unit costs nothing in the forward pass and gets no gradient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from graftwork.allocation.unit import Unit, check_units, exclusions
from graftwork.attach import SiteGrafts
from graftwork.errors import GraftError
from graftwork.graft import attach_entry
from graftwork.handle import Graft, activate, active, get, grafts
from graftwork.ledger import Entry, ledger_of


class Switchboard:
    """Units as named grafts on a model, all off at first.

    Args:
        model: grafted in place; its base stays untouched.
        units: what there is to switch.
        beside: names of grafts on the model that stay on with every set, such as one that owns the head. Others
            are switched off.
        seed: of the units' start values; each unit draws from a stream of its own.

    Attributes:
        units: by name.
        excludes: for each unit the names of those that cannot be on with it.

    Raises:
        GraftError: a name twice or in use, an unknown graft in `beside` or one that touches a unit's host, or
            whatever `graft` refuses. The model is as it was then.
    """

    def __init__(
        self, model: nn.Module, units: Sequence[Unit], beside: Iterable[str] = (), seed: int = 0
    ) -> None:
        check_units(units)
        self.model = model
        self.units = {u.name: u for u in units}
        self.excludes = exclusions(units)
        self.beside = [beside] if isinstance(beside, str) else list(beside)
        _check_apart(model, units, [get(model, name) for name in self.beside])
        before = active(model)
        made: list[Graft] = []
        try:
            for unit in units:
                entry = Entry(unit.method, [(s, unit.method) for s in unit.sites], [], {})
                made.append(attach_entry(model, unit.name, entry, _own_seed(seed, unit.name)))
            activate(model, dict.fromkeys(self.beside, 1.0))
        except GraftError:
            for graft in made:
                graft.remove()
            activate(model, before or None)
            raise
        self._sites: dict[str, list[SiteGrafts]] = {}
        self._parameters: dict[str, list[nn.Parameter]] = {}
        for graft in made:
            self._sites[graft.name] = [graft.site(m) for m in graft.entry.modules()]
            self._parameters[graft.name] = list(graft.parameters())
            trained = sum(p.numel() for p in self._parameters[graft.name] if p.requires_grad)
            assert trained == self.units[graft.name].cost, graft.name

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the units that are on, in the order of `units`, as the model has it."""
        return tuple(
            name
            for name, sites in self._sites.items()
            if all(any(n == name for n, _ in s.active) for s in sites)
        )

    def cost(self, names: Iterable[str]) -> int:
        """Trainable parameters of a set."""
        return sum(self.units[n].cost for n in names)

    def parameters(self, name: str) -> list[nn.Parameter]:
        """A unit's trainable tensors."""
        return self._parameters[name]

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """All tensors of a set, by the keys that one graft of the whole set has."""
        return {k: t for n in names for k, t in get(self.model, n).tensors().items()}

    def check(self, names: Iterable[str], verb: str = "switch") -> tuple[str, ...]:
        """The set in the order of `units`.

        Raises:
            GraftError: an unknown name, or two units that exclude each other.
        """
        wanted = set(names)
        unknown = sorted(wanted - self.units.keys())
        if unknown:
            raise GraftError(f"{verb}: there is no unit {unknown[0]!r}; look at Switchboard.units")
        for name in wanted:
            clash = sorted(wanted & self.excludes[name])
            if clash:
                pair = sorted([name, clash[0]])
                raise GraftError(f"{verb}: {pair[0]!r} and {pair[1]!r} exclude each other")
        return tuple(n for n in self.units if n in wanted)

    def switch(self, names: Iterable[str]) -> None:
        """Let exactly these units act, beside the grafts that always do.

        Raises:
            GraftError: as `check`, or a graft is merged.
        """
        wanted = set(self.check(names))
        merged = ledger_of(self.model).merged
        if merged is not None:
            raise GraftError(f"switch: graft {merged.names} is merged; call unmerge() first")
        now = set(self.active)
        for name in now - wanted:
            for site in self._sites[name]:
                site.active = tuple(a for a in site.active if a[0] != name)
            for p in self._parameters[name]:
                p.grad = None  # else an optimizer would go on stepping with it
        for name in wanted - now:
            for site in self._sites[name]:
                site.active = (*(a for a in site.active if a[0] != name), (name, 1.0))

    def remove(self) -> None:
        """Take all units off the model; the grafts beside them stay on."""
        for name in self.units:
            if name in grafts(self.model):
                get(self.model, name).remove()


def waves(units: Iterable[Unit], together: bool = True) -> list[list[str]]:
    """Sets of units that can act together, each unit in one of them; smallest levels first.

    Args:
        units: all units.
        together: `False` puts each unit in a set of its own.
    """
    units = list(units)
    if not together:
        return [[u.name] for u in units]
    excludes = exclusions(units)
    out: list[list[str]] = []
    for unit in units:
        for wave in out:
            if not excludes[unit.name] & set(wave):
                wave.append(unit.name)
                break
        else:
            out.append([unit.name])
    return out


def _own_seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"unit {name} of seed {seed}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _check_apart(model: nn.Module, units: Sequence[Unit], beside: Iterable[Graft]) -> None:
    """A graft that stays on must not touch what a unit changes: one graft keeps one method a site."""
    for graft in beside:
        taken: dict[int, str] = {}
        for name in graft.entry.modules():
            module = model.get_submodule(name)
            copied = any(b.name == name and b.new is None for b in graft.entry.beside)
            copied |= any(s.module == name and s.geo is None for s, _ in graft.entry.sites)
            for part in module.modules() if copied else [module]:
                taken[id(part)] = name
        for unit in units:
            for site in unit.sites:
                host = model.get_submodule(site.module)
                for part in host.modules() if unit.owns_modules else [host]:
                    if id(part) in taken:
                        raise GraftError(
                            f"beside: graft {graft.name!r} has {taken[id(part)]}, where unit "
                            f"{unit.name!r} sits; leave it out of the units or of the graft"
                        )
