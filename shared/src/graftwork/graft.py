"""The one door: attach a graft to any `nn.Module`, all or nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.algebra.recognise import is_norm_with_statistics, recognise
from graftwork.attach import CALL, CHILD, ROWS, ensure, grafts_of
from graftwork.beside import NewRows
from graftwork.errors import GraftError
from graftwork.fused import owners
from graftwork.handle import Graft, activate, get
from graftwork.ledger import ATTRIBUTE, Beside, Entry, Ledger, root_of
from graftwork.methods import method_class
from graftwork.methods.base import Method, from_config
from graftwork.sites import (
    Pattern,
    Site,
    candidates,
    check_patterns,
    is_norm,
    matches,
    no_match,
    own_modules,
    select,
    within,
)
from graftwork.states import CopyState, MethodState, RowsState, SiteState


def graft(
    model: nn.Module,
    method: Method,
    *,
    sites: Iterable[Pattern] | Pattern | None = None,
    overrides: Mapping[str, Mapping[str, Any] | Method] | None = None,
    also_train: Iterable[str | NewRows] | str | NewRows = (),
    name: str = "default",
    seed: int | None = None,
) -> Graft:
    """Attach a graft in place; the model stays the module it was, its base frozen and untouched.

    Args:
        model: any module; a bare layer is fine.
        method: for example `LoRA(8)`.
        sites: globs over dotted names ("*" crosses dots), "type:Name", or classes; `None` takes the
            method's default sites. Every pattern must match.
        overrides: glob -> changed fields, or another method, for the sites it matches; later ones
        win. also_train: globs of whole modules the graft owns a copy of, and `NewRows`.
        name: of this graft; the new graft is switched on alone.
        seed: of the start values; `None` draws from torch's global generator.

    Returns:
        A stateless view of the graft.

    Raises:
        GraftError: bad name, pattern without a match, a layer that cannot be served exactly, a name
            already in use. Nothing has changed then.
    """
    if isinstance(sites, str | type):
        sites = [sites]
    beside = _beside(model, also_train)
    outside = {b.name for b in beside if b.new is None}
    chosen, left = select(model, method, sites, outside)
    pairs = _with_overrides(chosen, method, overrides or {})
    return _attach(model, name, Entry(method, pairs, beside, left), seed)


def graft_from_spec(
    model: nn.Module,
    spec: Mapping[str, Any],
    name: str = "default",
    tensors: Mapping[str, Tensor] | None = None,
) -> Graft:
    """Rebuild a graft from `Graft.spec()` on a fresh base, all or nothing.

    Raises:
        GraftError: a site that the model lacks or that is another kind of layer (all are listed),
            a bad method config, or tensors that do not fit.
    """
    method = _method(spec["method"])
    layers = candidates(model)
    modules = dict(own_modules(model))
    faults: list[str] = []
    pairs: list[tuple[Site, Method]] = []
    for item in spec["sites"]:
        own = _method(item["method"]) if "method" in item else method
        site = _named_site(item["name"], item["kind"], own, layers, modules)
        if isinstance(site, str):
            faults.append(f"{item['name'] or '(model)'}: {site}")
        else:
            pairs.append((site, own))
    beside = []
    for item in spec["also_train"]:
        if item["name"] not in modules:
            faults.append(f"{item['name']}: the model has no such module")
        beside.append(Beside(item["name"], item.get("new")))
    if faults:
        raise GraftError(
            f"the graft does not fit {type(model).__name__}:\n  " + "\n  ".join(faults)
        )
    made = _attach(model, name, Entry(method, pairs, beside, {}), None)
    if tensors is not None:
        try:
            made.load_tensors(tensors)
        except GraftError:
            made.remove()
            raise
    return made


def _method(item: Mapping[str, Any]) -> Method:
    return from_config(method_class(str(item["id"])), item["config"])


def _named_site(
    name: str,
    kind: str,
    method: Method,
    layers: dict[str, Site | str],
    modules: dict[str, nn.Module],
) -> Site | str:
    from graftwork.algebra.recognise import recognise_block

    if method.changes == "module":
        good = name in modules and is_norm(modules[name])
        return Site(name, name, None) if good else "the model has no such norm"
    if kind == "block":
        block = (
            recognise_block(modules[name]) if name in modules else "the model has no such module"
        )
        return block if isinstance(block, str) else Site(name, name, block)
    site = layers.get(name, "the model has no such layer")
    if isinstance(site, Site) and site.geo is not None and site.geo.kind != kind:
        return f"a {site.geo.kind} here, a {kind} in the graft"
    return site


def _with_overrides(
    chosen: list[Site], method: Method, overrides: Mapping[str, Mapping[str, Any] | Method]
) -> list[tuple[Site, Method]]:
    methods = {s.name: method for s in chosen}
    for pattern, change in overrides.items():
        hits = [s for s in chosen if matches(pattern, s.name, nn.Identity())]
        if not hits:
            raise no_match(pattern, methods, "overrides")
        for site in hits:
            new = change if isinstance(change, Method) else methods[site.name].with_fields(**change)
            if new.changes == "module" or site.geo is None:
                raise GraftError(
                    f"overrides: {site.name} cannot switch between {method.id} and {new.id}"
                )
            if site.geo.kind not in new.layer_kinds:
                raise GraftError(
                    f"overrides: {new.id} does not serve {site.name} ({site.geo.kind})"
                )
            methods[site.name] = new
    return [(s, methods[s.name]) for s in chosen]


def _beside(model: nn.Module, also_train: Iterable[str | NewRows] | str | NewRows) -> list[Beside]:
    items = [also_train] if isinstance(also_train, str | NewRows) else list(also_train)
    modules = dict(own_modules(model))
    copied: list[str] = []
    rows: list[Beside] = []
    for item in items:
        pattern = item.site if isinstance(item, NewRows) else item
        (pattern,) = check_patterns([pattern], "also_train")  # type: ignore[assignment]
        hits = [n for n, m in modules.items() if matches(pattern, n, m) and _has_tensors(m)]
        if not hits:
            raise no_match(pattern, modules, "also_train")
        if isinstance(item, NewRows):
            if len(hits) > 1:
                raise GraftError(
                    f"NewRows: {pattern!r} matches {len(hits)} layers: {', '.join(hits[:4])}"
                )
            rows.append(Beside(hits[0], item.new))
        else:
            copied += [n for n in hits if not within(n, {h for h in hits if h != n} | set(copied))]
    whole = [Beside(n) for n in dict.fromkeys(copied) if not within(n, set(copied) - {n})]
    return whole + rows


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _attach(model: nn.Module, name: str, entry: Entry, seed: int | None) -> Graft:
    """Build every state first, then touch the model: a refusal leaves it as it was."""
    if not name or any(c in name for c in ".:/\\") or not name.isprintable() or len(name) > 100:
        raise GraftError(
            f"name: {name!r} is not a graft name (no dots, colons or slashes; up to 100 characters)"
        )
    root = root_of(model)
    if root is not None and root is not model:
        raise GraftError(
            "a module inside this one is already grafted; graft that one, or remove its graft"
        )
    ledger: Ledger = model.__dict__.get(ATTRIBUTE) or Ledger()
    if name in ledger.entries:
        raise GraftError(
            f"name: the model already has a graft {name!r}; remove it or choose another name"
        )
    if ledger.merged is not None:
        raise GraftError("a graft is merged; call unmerge() before grafting another")
    readers = [(site, method, _owners(model, site, method)) for site, method in entry.sites]
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        states = _states(model, entry)

    for module_name, slot, state in states:
        module = model.get_submodule(module_name)
        state.train(model.training)
        ensure(module).add(name, slot, state)
    for site, _, found in readers:
        for owner, path in found:
            gate = (site.weight, site.bias) if site.bias else (site.weight,)
            ensure(model.get_submodule(site.module), gate)
            serving = ensure(model.get_submodule(owner))
            serving.serves = tuple(dict.fromkeys([*serving.serves, path]))
    if ATTRIBUTE not in model.__dict__:
        model.__dict__[ATTRIBUTE] = ledger
        for param_name, p in model.named_parameters():
            if CHILD not in param_name.split(".") and p.requires_grad:
                ledger.trained.append(param_name)
                p.requires_grad_(False)
        for _, module in list(own_modules(model)):
            if is_norm_with_statistics(module):
                ensure(module).frozen_norm = True
                module.training = False
    ledger.entries[name] = entry
    activate(model, name)
    return get(model, name)


def _owners(model: nn.Module, site: Site, method: Method) -> list[tuple[str, str]]:
    """Modules that read this site's weight; refused by name if the method cannot serve them."""
    names = (site.weight, site.bias) if site.bias else (site.weight,)
    found = list(owners(model, site.module, names))
    if found and site.geo is not None:
        why = method.refuses_fused(site.geo)
        if why is not None:
            kind = type(model.get_submodule(found[0][0])).__name__
            raise GraftError(
                f"{method.id} refuses {site.name}: {kind} reads its weight directly. {why}"
            )
    if site.raw and not found:
        raise GraftError(
            f"{site.name}: its module's forward is unknown; declare it with register_reader"
        )
    return found


def _states(model: nn.Module, entry: Entry) -> list[tuple[str, str, SiteState]]:
    made: list[tuple[str, str, SiteState]] = []
    for site, method in entry.sites:
        module = model.get_submodule(site.module)
        if site.geo is None:
            made.append((site.module, CALL, CopyState(method, plain_copy(module, model.training))))
        else:
            slot = site.weight if site.raw else CALL
            made.append(
                (site.module, slot, MethodState(method, site.geo, module, site.weight, site.bias))
            )
    for item in entry.beside:
        module = model.get_submodule(item.name)
        if item.new is None:
            made.append((item.name, CALL, CopyState(None, plain_copy(module, model.training))))
            continue
        geo = recognise(module)
        if geo is None or isinstance(geo, str) or geo.groups != 1 or geo.kind == "norm":
            why = geo if isinstance(geo, str) else "it is no layer with rows, or has groups"
            raise GraftError(f"NewRows({item.name!r}): {why}")
        made.append((item.name, ROWS, RowsState(item.new, geo, module)))
    return made


def plain_copy(module: nn.Module, training: bool) -> nn.Module:
    """A deep copy without anything that a graft added, in the model's own mode."""
    copied = copy.deepcopy(module)
    for m in list(copied.modules()):
        if grafts_of(m) is not None:
            del m._modules[CHILD]
            m.__class__ = m._base_class  # type: ignore[assignment]
    return copied.train(training)
