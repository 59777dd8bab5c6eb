"""The stateless view that `graft()` returns: everything it shows lives in the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.attach import CALL, SiteGrafts, grafts_of, release
from graftwork.errors import GraftError
from graftwork.ledger import ATTRIBUTE, Entry, Ledger, ledger_of, refuse_sharded, root_of
from graftwork.methods.base import Method
from graftwork.seeded import GENERATOR
from graftwork.states import MethodState, SiteState
from graftwork.summary import Summary, summarise
from graftwork.together import check_together, check_weight

if TYPE_CHECKING:
    from graftwork.rounding import Roundings


@dataclass(frozen=True)
class Graft:
    """A named graft on a model; found again with `get(model, name)`, on a deepcopy too."""

    model: nn.Module
    name: str

    @property
    def entry(self) -> Entry:
        """What the ledger holds of this graft.

        Raises:
            GraftError: the graft was removed.
        """
        entries = ledger_of(self.model).entries
        if self.name not in entries:
            raise GraftError(f"no graft {self.name!r} any more; the model has {sorted(entries)}")
        return entries[self.name]

    @property
    def method(self) -> Method:
        """The method, without per-site overrides."""
        return self.entry.method

    @property
    def merged(self) -> bool:
        """Whether this graft is merged into the base right now."""
        record = ledger_of(self.model).merged
        return record is not None and self.name in record.weights

    def states(self) -> Iterator[tuple[str, SiteState]]:
        """(site name, state) for everything that belongs to this graft."""
        for module_name in self.entry.modules():
            for slot, state in self.site(module_name).slots(self.name).items():
                yield _join(module_name, slot), state

    def site(self, module_name: str) -> SiteGrafts:
        """What hangs on one of this graft's modules.

        Raises:
            GraftError: somebody put another module in its place.
        """
        grafts = grafts_of(self.model.get_submodule(module_name))
        if grafts is None or not grafts.slots(self.name):
            raise GraftError(
                f"{module_name or 'the model'} was replaced after graft {self.name!r} was attached; "
                "change the base first (resize its embeddings, say) and graft then"
            )
        return grafts

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This graft's trainable tensors by stable key; one that sites share comes once, with its first key."""
        seen: set[int] = set()
        for site, state in self.states():
            for name, p in state.named_parameters():
                if id(p) not in seen:
                    seen.add(id(p))
                    yield _join(site, name), p

    def parameters(self) -> Iterator[nn.Parameter]:
        """This graft's trainable tensors."""
        for _, p in self.named_parameters():
            yield p

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of this graft, buffers included, by stable key `<site>.<name>`."""
        return {
            _join(site, name): t.detach()
            for site, state in self.states()
            for name, t in state.own_tensors()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill this graft from `tensors`, strictly; on error nothing has changed.

        Raises:
            GraftError: missing, extra, wrongly shaped or non-finite tensors; all are listed.
        """
        fill(self.states(), tensors)

    def base_tensors(self) -> dict[str, Tensor]:
        """The frozen tensors under each site, by `<site>.<parameter>`; for fingerprints.

        Raises:
            GraftError: a graft is merged, or the base is sharded; its own tensors are not in place then.
        """
        _refuse_merged(ledger_of(self.model), "base_tensors()")
        refuse_sharded(ledger_of(self.model), "base_tensors()")
        out: dict[str, Tensor] = {}
        for name in self.entry.modules():
            module = self.model.get_submodule(name)
            copied = any(b.name == name and b.new is None for b in self.entry.beside)
            for leaf, t in module.state_dict().items() if copied else module._parameters.items():
                if t is not None:
                    out[_join(name, leaf)] = t.detach()
        return out

    def spec(self) -> dict[str, Any]:
        """The graft as plain JSON: enough to rebuild it on a fresh base."""
        sites = []
        for site, method in self.entry.sites:
            item: dict[str, Any] = {
                "name": site.name,
                "kind": site.geo.kind if site.geo else "norm",
            }
            if site.geo and site.geo.groups > 1:
                item["groups"] = site.geo.groups  # so that a file can be merged without the model
            drawn = self._drawn(site.module, site.weight if site.raw else CALL)
            if drawn:
                item["seeded"] = {"generator": GENERATOR, "sha256": drawn}
            if method != self.method:
                item["method"] = {"id": method.id, "config": method.config()}
            sites.append(item)
        beside = [
            {"name": b.name, "kind": "module"}
            if b.new is None
            else {"name": b.name, "kind": "rows", "new": b.new}
            for b in self.entry.beside
        ]
        shared = {"id": self.method.id, "config": self.method.config()}
        return {"method": shared, "sites": sites, "also_train": beside, "merged": self.merged}

    def _drawn(self, module_name: str, slot: str) -> str:
        """The hash of what a site drew from a seed; empty if nothing."""
        state = self.site(module_name).state(self.name, slot)
        return state.digest if isinstance(state, MethodState) else ""

    def summary(self) -> Summary:
        """Sites, parameters and share; prints as a table."""
        return summarise(self)

    @contextlib.contextmanager
    def off(self) -> Iterator[nn.Module]:
        """The base, bit for bit: all grafts of the model are off inside the block.

        Raises:
            GraftError: a graft is merged; the base's own tensors are not in place then.
        """
        _refuse_merged(ledger_of(self.model), "off()")
        sites = list(_all_sites(self.model))
        before = [s.active for s in sites]
        for s in sites:
            s.active = ()
        try:
            yield self.model
        finally:
            for s, active in zip(sites, before, strict=True):
                s.active = active

    def merge(self, keep: str | bool = "device", round: bool = False) -> Roundings:
        """See `graftwork.merge`."""
        from graftwork.merging import merge

        return merge(self, keep=keep, round=round)

    def unmerge(self) -> None:
        """See `graftwork.unmerge`."""
        from graftwork.merging import unmerge

        unmerge(self)

    def remove(self) -> None:
        """See `graftwork.remove`."""
        remove(self)


def grafts(model: nn.Module) -> dict[str, Graft]:
    """All grafts on a model, by name; empty if there are none."""
    root = root_of(model)
    return {} if root is None else {n: Graft(root, n) for n in ledger_of(root).entries}


def get(model: nn.Module, name: str = "default") -> Graft:
    """The graft of this name.

    Raises:
        GraftError: no such graft; the message lists those there are.
    """
    found = grafts(model)
    if name not in found:
        raise GraftError(f"no graft {name!r} on {type(model).__name__}; it has {sorted(found)}")
    return found[name]


def activate(model: nn.Module, which: str | Mapping[str, float] | None) -> None:
    """Switch to one graft, to a weighted sum of several, or to the base (`None`).

    Grafts that own modules or rows take part with the weight 1, where no other one touches what
    they own.

    Raises:
        GraftError: unknown name, a merge in force, or grafts that cannot act together.
    """
    weights = {} if which is None else {which: 1.0} if isinstance(which, str) else dict(which)
    there = grafts(model)
    chosen = {name: get(model, name) for name in weights}
    weights = {name: check_weight("activate", name, w) for name, w in weights.items()}
    check_together("activate", chosen, weights)
    if not there:
        if which is None:
            return
        raise GraftError(f"{type(model).__name__} carries no graft")
    root = next(iter(there.values())).model
    _refuse_merged(ledger_of(root), "activate")
    for here in _all_sites(root):
        here.active = tuple((n, w) for n, w in weights.items() if here.slots(n))


def active(model: nn.Module) -> dict[str, float]:
    """The grafts that are switched on, with their weights, as `activate` takes them; empty: the base."""
    found = {n: w for here in _all_sites(model) for n, w in here.active}
    return {name: found[name] for name in grafts(model) if name in found}


def remove(graft: Graft | nn.Module, name: str = "default") -> None:
    """Take a graft off; after the last one every module is of its own class again, bit for bit.

    Raises:
        GraftError: the graft is merged (`merge(keep=False)` excepted: then its change stays), or the base sharded.
    """
    graft = graft if isinstance(graft, Graft) else get(graft, name)
    model, ledger = graft.model, ledger_of(graft.model)
    refuse_sharded(ledger, "remove")
    if not (graft.merged and ledger.merged.final):
        _refuse_merged(ledger, "remove")
    for module_name in graft.entry.modules():
        site = grafts_of(model.get_submodule(module_name))
        if site is not None:  # else the layer was replaced, and its graft went with it
            site.drop(graft.name)
    del ledger.entries[graft.name]
    if ledger.merged is not None:
        del ledger.merged.weights[graft.name]
        ledger.merged = ledger.merged if ledger.merged.weights else None
    tidy(model, ledger)


def tidy(model: nn.Module, ledger: Ledger) -> None:
    """Release what no graft needs any more."""
    for _, module in list(model.named_modules()):
        site = grafts_of(module)
        if site is None:
            continue
        site.serves = tuple(p for p in site.serves if _carries(module, p))
        if not ledger.entries and site.frozen_norm:
            site.frozen_norm = False
            module.training = site.training
        release(module)
    if not ledger.entries:
        named = dict(model.named_parameters())
        for name in ledger.trained:
            if name in named:
                named[name].requires_grad_(True)
        del model.__dict__[ATTRIBUTE]


def fill(states: Iterable[tuple[str, SiteState]], tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into (site name, state) pairs, strictly; on error nothing has changed.

    Raises:
        GraftError: missing, extra, wrongly shaped or non-finite tensors; all are listed.
    """
    mine = {_join(site, name): t for site, state in states for name, t in state.own_tensors()}
    faults = tensor_faults({k: tuple(t.shape) for k, t in mine.items()}, tensors, mine)
    first: dict[int, str] = {}
    for key, t in mine.items():
        one = first.setdefault(id(t), key)
        if key in tensors and one in tensors and not torch.equal(tensors[key], tensors[one]):
            faults.append(f"{key}: differs from {one}, and they are one tensor here")
    if faults:
        raise GraftError("the tensors do not fit this graft:\n  " + "\n  ".join(faults))
    with torch.no_grad():
        for key, t in mine.items():
            t.copy_(tensors[key])


def tensor_faults(
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Tensor],
    now: Mapping[str, Tensor] | None = None,
) -> list[str]:
    """Everything wrong with `tensors` for a graft of these shapes, one line each.

    Args:
        now: the graft's present tensors; an infinity that stands there already (in a mask that
            came with a copied module) is no fault.
    """
    faults = [f"{k}: missing" for k in shapes if k not in tensors]
    faults += [f"{k}: not part of this graft" for k in tensors if k not in shapes]
    for key, shape in shapes.items():
        t = tensors.get(key)
        if t is None:
            continue
        if tuple(t.shape) != shape:
            faults.append(f"{key}: shape {tuple(t.shape)}, expected {shape}")
        elif not is_sound(t, None if now is None else now[key]):
            faults.append(f"{key}: holds NaN or infinite values")
    return faults


def is_sound(value: Tensor, old: Tensor | None) -> bool:
    """Finite everywhere, or infinite just where `old` is (a mask in a buffer)."""
    if not value.is_floating_point():
        return True
    finite = torch.isfinite(value)
    if old is not None and old.shape == value.shape:
        finite |= value == old.to(value.device)
    return bool(finite.all())


def _refuse_merged(ledger: Ledger, verb: str) -> None:
    if ledger.merged is not None:
        raise GraftError(f"{verb}: graft {ledger.merged.names} is merged; call unmerge() first")


def _carries(owner: nn.Module, path: str) -> bool:
    site = grafts_of(owner.get_submodule(path) if path else owner)
    return site is not None and any(isinstance(s, SiteState) for s in site._modules.values())


def _all_sites(model: nn.Module) -> Iterator[SiteGrafts]:
    for module in model.modules():
        site = grafts_of(module)
        if site is not None:
            yield site


def _join(*parts: str) -> str:
    return ".".join(p for p in parts if p)
