"""What `also_train` names on a model: whole modules of which the graft owns a copy, and new rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from graftwork.algebra.recognise import plain_class
from graftwork.attach import CHILD
from graftwork.beside import NewRows
from graftwork.errors import GraftError
from graftwork.ledger import Beside
from graftwork.sites import check_patterns, matches, no_match, own_modules, within


def beside_of(
    model: nn.Module, also_train: Iterable[str | NewRows] | str | NewRows
) -> list[Beside]:
    """The modules and rows that `also_train` names; every pattern must match."""
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
            copied += [part for n in hits for part in _callable_parts(n, modules)]
    whole = [Beside(n) for n in dict.fromkeys(copied) if not within(n, set(copied) - {n})]
    return whole + rows


def _callable_parts(name: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """The module itself; for a list or dict of modules, which is never called, its children."""
    if plain_class(modules[name]).forward is not nn.Module.forward:
        return [name]
    children = [
        f"{name}.{child}".lstrip(".")
        for child, m in modules[name].named_children()
        if child != CHILD and _has_tensors(m)
    ]
    return [part for child in children for part in _callable_parts(child, modules)]


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())
