"""What cannot be grafted, found before anything is touched.

Every check here only looks. Where a module reads a weight without calling its layer, the readers
that were found come back, so that the graft can serve them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from graftwork.algebra import quantised
from graftwork.algebra.recognise import plain_class, recognise
from graftwork.attach import CHILD, SiteGrafts, grafts_of
from graftwork.errors import GraftError
from graftwork.fused import owners, walks_children
from graftwork.ledger import Beside, Entry, root_of
from graftwork.methods.base import Method
from graftwork.sites import Site, is_within

_WEIGHT_HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)

#: so many layers are listed in a refusal
SHOWN = 20

#: a site (module name), the parameters that show effective there, and who reads them from where
Reading = tuple[str, tuple[str, ...], str, str]


def check_name(name: str) -> None:
    """Refuse a name that cannot be a key of files and of torch's module tree."""
    if not isinstance(name, str) or not name or any(c in name for c in ".:/\\"):
        raise GraftError(f"name: {name!r} is not a graft name (text without dots, colons, slashes)")
    if not name.isprintable() or len(name) > 100 or hasattr(SiteGrafts, name):
        raise GraftError(f"name: {name!r} is unprintable, too long or reserved; choose another")


def check_root(model: nn.Module) -> None:
    """Refuse a model that is a part of a grafted one, or that holds one, or is not complete."""
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        raise GraftError("the model has lazy layers; run it once on an example batch first")
    root = root_of(model)
    if root is not None and root is not model:
        raise GraftError(
            "a module inside this one is already grafted; graft that one, or remove its graft"
        )
    if root is None and any(grafts_of(m) is not None for m in model.modules()):
        raise GraftError(
            "this module is a part of a grafted model; graft the whole model, or remove its graft"
        )


def check_entry(model: nn.Module, entry: Entry) -> list[Reading]:
    """Refuse what cannot be served exactly; return who reads the sites' weights without a call."""
    copied = {b.name for b in entry.beside if b.new is None}
    for item in entry.beside:
        holder = next((c for c in copied if c != item.name and is_within(item.name, c)), None)
        if holder is not None:
            raise GraftError(f"also_train: {item.name} lies inside {holder}, which trains whole")
        module = model.get_submodule(item.name)
        if item.new is None:
            _check_copy(item.name, module)
        else:
            _check_rows(item.name, module)
    if entry.sites == [] and not entry.beside:
        raise GraftError("nothing to graft: sites and also_train are both empty")
    found = [r for site, method in entry.sites for r in _site_readings(model, site, method)]
    found += [r for item in entry.beside for r in _beside_readings(model, item)]
    for name in dict.fromkeys([*entry.modules(), *(owner for _, _, owner, _ in found)]):
        why = obstacle(model.get_submodule(name))
        if why is not None:
            raise GraftError(f"{name or 'the model'}: {why}")
    return found


def check_ranks(pairs: Iterable[tuple[Site, Method]]) -> None:
    """Refuse ranks above their layers' own in a graft that is no file's.

    Raises:
        GraftError: the layers, each with its largest rank, and what to do.
    """
    faults = []
    for site, method in pairs:
        why = None if site.geo is None else method.refuses_rank(site.geo)
        if site.geo is not None and why is not None:
            size = f"{site.geo.kind}, in {site.geo.in_}, out {site.geo.out}"
            faults.append(f"{site.name or 'the model'} ({size}): {why}")
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise GraftError(
            "ranks above the layers' own; take a lower rank, lower it there with `overrides`, choose `sites` without "
            "these layers, or set `any_rank` to true:\n  " + "\n  ".join(faults[:SHOWN] + more)
        )


def obstacle(module: nn.Module, called: bool = True) -> str | None:
    """Why this module cannot carry a graft, or `None`.

    Args:
        called: its call will change, not only its mode.
    """
    if grafts_of(module) is None and hasattr(module, CHILD):
        return f"it already has an attribute {CHILD!r}; rename it first"
    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        return "it is a compiled graph (TorchScript or torch.fx); graft the module it was made from"
    if called and "forward" in module.__dict__:
        return "its forward was replaced on the instance; remove that wrapper first"
    own = [n for n, _ in module.named_children() if n != CHILD]
    if called and own and walks_children(plain_class(module)):
        return "its forward loops over all its children, where a graft would be one more"
    return None


def _check_copy(name: str, module: nn.Module) -> None:
    for inner, part in module.named_modules():
        if quantised.scheme(part) is not None:
            path = ".".join(n for n in (name, inner) if n)
            raise GraftError(
                f"also_train: the weight of {path or 'the model'} is {quantised.scheme(part)}, and a quantised weight "
                "does not train; keep that module out of the quantisation"
            )
        if any(isinstance(h, _WEIGHT_HOOKS) for h in part._forward_pre_hooks.values()):
            path = ".".join(n for n in (name, inner) if n)
            raise GraftError(
                f"also_train: the weight of {path or 'the model'} is computed by a hook "
                "(weight_norm, spectral_norm or pruning); remove that first"
            )


def _check_rows(name: str, module: nn.Module) -> None:
    geo = recognise(module)
    if geo is None or isinstance(geo, str) or geo.groups != 1 or geo.kind == "norm":
        why = geo if isinstance(geo, str) else "it is no layer with rows, or has groups"
        raise GraftError(f"NewRows({name!r}): {why}")
    if quantised.scheme(module) is not None:
        raise GraftError(
            f"NewRows({name!r}): its weight is quantised and takes no rows; keep it out of the quantisation"
        )


def _site_readings(model: nn.Module, site: Site, method: Method) -> Iterator[Reading]:
    names = (site.weight, site.bias) if site.bias else (site.weight,)
    found = list(owners(model, site.module, names))
    how = quantised.scheme(model.get_submodule(site.module))
    if found and how is not None:
        raise GraftError(
            f"{site.name}: {_kind(model, found[0][0])} reads its weight directly, which is {how}; there is no change "
            "of it that could be read"
        )
    if found and site.geo is not None:
        why = method.refuses_fused(site.geo)
        if why is not None:
            raise GraftError(
                f"{method.id} refuses {site.name}: {_kind(model, found[0][0])} reads its weight "
                f"directly. {why}"
            )
    if site.raw and not found:
        raise GraftError(
            f"{site.name}: its module's forward is unknown; declare it with register_reader"
        )
    for owner, path in found:
        yield site.module, names, owner, path


def _beside_readings(model: nn.Module, item: Beside) -> Iterator[Reading]:
    """A copied module is read like a site; what lies deeper in it, and new rows, are refused."""
    module = model.get_submodule(item.name)
    inside = [(n, m) for n, m in module.named_modules() if CHILD not in n.split(".")]
    for inner, part in inside if item.new is None else inside[:1]:
        names = tuple(part._parameters)
        path = ".".join(p for p in (item.name, inner) if p)
        for owner, relative in owners(model, path, names, certain=bool(inner)):
            if is_within(owner, item.name):
                continue
            if inner or item.new is not None:
                raise GraftError(
                    f"also_train: {_kind(model, owner)} reads the weight of {path} directly and "
                    f"would miss the graft's own {'rows' if item.new else 'copy'}; "
                    f"let {owner or 'the whole model'} train whole, or leave {path} out"
                )
            yield path, names, owner, relative


def _kind(model: nn.Module, name: str) -> str:
    return plain_class(model.get_submodule(name)).__name__
