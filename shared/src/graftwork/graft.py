"""The one door: attach a graft to any `nn.Module`, all or nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.algebra.geometry import Geometry
from graftwork.algebra.recognise import has_statistics, recognise
from graftwork.also_train import beside_of
from graftwork.attach import CALL, CHILD, ROWS, ensure, grafts_of
from graftwork.beside import NewRows
from graftwork.errors import GraftError
from graftwork.fast.sites import Fast
from graftwork.fast.twins import Pool
from graftwork.handle import Graft, activate, fill, get
from graftwork.ledger import ATTRIBUTE, Beside, Entry, Ledger, refuse_sharded
from graftwork.methods import method_class
from graftwork.methods.base import Method, from_config
from graftwork.refusals import check_entry, check_name, check_ranks, check_root, obstacle
from graftwork.seeded import GENERATOR
from graftwork.sites import (
    Pattern,
    Site,
    candidates,
    is_norm,
    matches,
    no_match,
    own_modules,
    select,
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
    any_rank: bool = False,
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
        any_rank: let LoRA and DoRA have ranks above those of named layers, where one rank is given to layers of
            many sizes: there a graft has more parameters than the layer's weight.

    Returns:
        A stateless view of the graft.

    Raises:
        GraftError: bad name, pattern without a match, a layer that cannot be served exactly, a rank above
            that of layers that `sites` or `overrides` match, a name already in use. Nothing has changed then.
    """
    if not isinstance(model, nn.Module):
        raise GraftError(f"model: pass a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(method, Method):
        raise GraftError(f"method: pass an instance such as LoRA(8), not {method!r}")
    beside = beside_of(model, also_train)
    outside = {b.name for b in beside if b.new is None}
    chosen, left = select(model, method, sites, outside)
    pairs = _with_overrides(model, chosen, method, overrides or {})
    if not any_rank:  # default sites of a model of tiny layers only take any rank
        check_ranks((s, own) for s, own in pairs if sites is not None or own != method)
    pairs, method = _fitted(pairs, method)
    return attach_entry(model, name, Entry(method, pairs, beside, left), seed)


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
    entry, faults = resolve(model, spec)
    if faults:
        raise GraftError(
            f"the graft does not fit {type(model).__name__}:\n  " + "\n  ".join(faults)
        )
    drawn = {item["name"]: item["seeded"]["sha256"] for item in spec["sites"] if "seeded" in item}
    return attach_entry(model, name, entry, None, tensors, drawn)


def resolve(model: nn.Module, spec: Mapping[str, Any]) -> tuple[Entry, list[str]]:
    """Find a spec's sites and modules on a model, without touching it.

    Returns:
        What was found, and one line for everything that the model lacks or that is of another kind.

    Raises:
        GraftError: a method that is unknown or whose config is bad.
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
        elif "seeded" in item and item["seeded"]["generator"] != GENERATOR:
            theirs = item["seeded"]["generator"]
            faults.append(
                f"{item['name'] or '(model)'}: its random matrices were drawn by {theirs!r}; this "
                f"graftwork has {GENERATOR!r}"
            )
        else:
            pairs.append((site, own))
    beside = []
    for item in spec["also_train"]:
        if item["name"] not in modules:
            faults.append(f"{item['name']}: the model has no such module")
        else:
            beside.append(Beside(item["name"], item.get("new")))
    return Entry(method, pairs, beside, {}), faults


def _method(item: Mapping[str, Any]) -> Method:
    return from_config(method_class(str(item["id"])), item["config"])


def _named_site(
    name: str,
    kind: str,
    method: Method,
    layers: dict[str, Site | str],
    modules: dict[str, nn.Module],
) -> Site | str:
    from graftwork.algebra.recognise import recognise_attention, recognise_block

    if method.changes == "module":
        good = name in modules and is_norm(modules[name])
        return Site(name, name, None) if good else "the model has no such norm"
    if kind in ("block", "attention"):
        if kind not in method.layer_kinds:
            return f"{method.id} does not serve {'a block' if kind == 'block' else kind}"
        if name not in modules:
            return "the model has no such module"
        look = recognise_block if kind == "block" else recognise_attention
        whole = look(modules[name]) or "no attention module here"
        if isinstance(whole, str):
            return whole
        return method.refuses(whole, None) or Site(name, name, whole)
    site = layers.get(name, "the model has no such layer")
    if isinstance(site, str) or site.geo is None:
        return site
    if site.geo.kind != kind:
        return f"a {site.geo.kind} here, a {kind} in the graft"
    if kind not in method.layer_kinds:
        return f"{method.id} does not serve a {kind}"
    return method.refuses(site.geo, modules[site.module]._parameters.get(site.bias)) or site


def _with_overrides(
    model: nn.Module,
    chosen: list[Site],
    method: Method,
    overrides: Mapping[str, Mapping[str, Any] | Method],
) -> list[tuple[Site, Method]]:
    methods = {s.name: method for s in chosen}
    for pattern, change in overrides.items():
        if not isinstance(change, Mapping | Method):
            raise GraftError(f"overrides: {pattern!r} must give fields or a method, not {change!r}")
        hits = [s for s in chosen if matches(pattern, s.name, model.get_submodule(s.module))]
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
            bias = model.get_submodule(site.module)._parameters.get(site.bias)
            why = new.refuses(site.geo, bias)
            if why is not None:
                raise GraftError(f"overrides: {new.id} refuses {site.name}: {why}")
            methods[site.name] = new
    return [(s, methods[s.name]) for s in chosen]


def _fitted(
    pairs: list[tuple[Site, Method]], method: Method
) -> tuple[list[tuple[Site, Method]], Method]:
    """The sites and the graft's method, each told of all the layers that have its settings."""
    layers: dict[Method, list[Geometry]] = {}
    for site, own in pairs:
        if site.geo is not None:
            layers.setdefault(own, []).append(site.geo)
    made = {own: own.fitted(geometries) for own, geometries in layers.items()}
    return [(site, made.get(own, own)) for site, own in pairs], made.get(method, method)


def attach_entry(
    model: nn.Module,
    name: str,
    entry: Entry,
    seed: int | None,
    tensors: Mapping[str, Tensor] | None = None,
    drawn: Mapping[str, str] | None = None,
) -> Graft:
    """Attach a graft whose sites are known. Every state is built first: a refusal leaves the model as it was.

    Args:
        tensors: the graft's, loaded in place of start values, which are not computed then.
        drawn: by site, the hash that the tensors drawn from a seed must have; `None` checks nothing.

    Raises:
        GraftError: as `graft` does.
    """
    check_name(name)
    check_root(model)
    ledger: Ledger = model.__dict__.get(ATTRIBUTE) or Ledger()
    if name in ledger.entries:
        raise GraftError(
            f"name: the model already has a graft {name!r}; remove it or choose another name"
        )
    if ledger.merged is not None:
        raise GraftError("a graft is merged; call unmerge() before grafting another")
    refuse_sharded(ledger, "graft")
    readings = check_entry(model, entry)
    first = ATTRIBUTE not in model.__dict__
    norms = [m for _, m in own_modules(model) if has_statistics(m)] if first else []
    for norm in norms:
        why = obstacle(norm, called=False)
        if why is not None:
            raise GraftError(f"{type(norm).__name__} cannot be kept in eval mode: {why}")
    # start values that are replaced at once must not move the caller's generator
    cards = {p.device.index for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(
        devices=sorted(i for i in cards if i is not None),
        enabled=seed is not None or tensors is not None,
    ):
        if seed is not None:
            torch.manual_seed(seed)
        states = _states(model, entry, blank=tensors is not None)
    if drawn is not None:
        _check_drawn(states, drawn)
    if tensors is not None:
        fill(((f"{m}.{slot}".strip("."), state) for m, slot, state in states), tensors)

    for module_name, slot, state in states:
        module = model.get_submodule(module_name)
        grafts = ensure(module)
        state.training = grafts.training
        grafts.add(name, slot, state)
    for site, gated, owner, path in readings:
        ensure(model.get_submodule(site), gated)
        serving = ensure(model.get_submodule(owner))
        serving.serves = tuple(dict.fromkeys([*serving.serves, path]))
    if first:
        model.__dict__[ATTRIBUTE] = ledger
        for param_name, p in model.named_parameters():
            if CHILD not in param_name.split(".") and p.requires_grad:
                ledger.trained.append(param_name)
                p.requires_grad_(False)
        for norm in norms:
            ensure(norm).frozen_norm = True
            norm.training = False
    ledger.entries[name] = entry
    activate(model, name)
    return get(model, name)


def _check_drawn(states: list[tuple[str, str, SiteState]], drawn: Mapping[str, str]) -> None:
    """Refuse tensors that came out of their seed otherwise than the graft was trained with."""
    faults = []
    for module_name, slot, state in states:
        name = f"{module_name}.{slot}".strip(".")
        if isinstance(state, MethodState) and state.digest != drawn.get(name, ""):
            faults.append(f"{name or '(model)'}: {state.method.id}")
    if faults:
        raise GraftError(
            "the frozen random matrices that are drawn from the method's seed are not the ones that the "
            "graft was trained with (another generator, or an edited passport); nothing can be loaded "
            "onto them:\n  " + "\n  ".join(faults)
        )


def _states(
    model: nn.Module, entry: Entry, blank: bool = False
) -> list[tuple[str, str, SiteState]]:
    made: list[tuple[str, str, SiteState]] = []
    for site, method in entry.sites:
        module = model.get_submodule(site.module)
        if site.geo is None:
            made.append((site.module, CALL, CopyState(module, plain_copy(site.name, module))))
        else:
            slot = site.weight if site.raw else CALL
            try:
                state = MethodState(method, site.geo, module, site.weight, site.bias, blank)
            except GraftError as refusal:
                raise GraftError(f"{site.name or 'the model'}: {refusal}") from None
            made.append((site.module, slot, state))
    _tie(entry, made)
    pool = Pool()
    for _, _, one in made:
        if isinstance(one, MethodState) and isinstance(one.fast, Fast):
            one.fast.pool = pool
    for item in entry.beside:
        module = model.get_submodule(item.name)
        if item.new is None:
            made.append((item.name, CALL, CopyState(module, plain_copy(item.name, module))))
            continue
        geo = recognise(module)
        assert geo is not None and not isinstance(geo, str)  # check_entry refused the rest
        made.append((item.name, ROWS, RowsState(item.new, geo, module)))
    return made


def _tie(entry: Entry, made: list[tuple[str, str, SiteState]]) -> None:
    """Give sites that share their trained tensors the first one's.

    Raises:
        GraftError: their shapes differ.
    """
    first: dict[tuple[Method, str], tuple[str, SiteState]] = {}
    for (site, method), (_, _, state) in zip(entry.sites, made, strict=True):
        word = None if site.geo is None else method.shares(site.name, site.geo)
        if word is None:
            continue
        name, owner = first.setdefault((method, word), (site.name, state))
        for leaf, p in owner.named_parameters():
            if p.shape != state.get_parameter(leaf).shape:
                raise GraftError(
                    f"{site.name}: its {leaf} cannot be that of {name}: {tuple(state.get_parameter(leaf).shape)} "
                    f"and {tuple(p.shape)}"
                )
            state.register_parameter(leaf, p)


def plain_copy(name: str, module: nn.Module) -> nn.Module:
    """A deep copy without anything that a graft added, each part in the mode it would have."""
    try:
        copied = copy.deepcopy(module)
    except RuntimeError as error:  # torch: a tensor that was computed cannot be copied
        raise GraftError(f"also_train: {name or 'the model'} cannot be copied: {error}") from None
    for m in list(copied.modules()):
        grafts = grafts_of(m)
        if grafts is not None:
            if grafts.frozen_norm:
                m.training = grafts.training
            del m._modules[CHILD]
            m.__class__ = m._base_class  # type: ignore[assignment]
    return copied
