"""Which tensors, of which shapes, a graft would have on a model: worked out without allocating them."""

from __future__ import annotations

from torch import Tensor, nn

from graftwork.algebra import quantised
from graftwork.algebra.linear import Embedding
from graftwork.algebra.recognise import recognise
from graftwork.errors import GraftError
from graftwork.ledger import Entry
from graftwork.methods.base import Method
from graftwork.sites import Site, own_modules
from graftwork.states import starts

Shape = tuple[int, ...]


def expected_shapes(model: nn.Module, entry: Entry) -> tuple[dict[str, Shape], list[str]]:
    """Shapes by tensor key, and one line for each site where the method cannot start.

    A hostile passport may ask for a rank of a million; on the meta device that costs nothing.
    """
    modules = dict(own_modules(model))
    shapes: dict[str, Shape] = {}
    faults: list[str] = []
    for site, method in entry.sites:
        if site.geo is None:
            shapes |= _copied(site.name, modules[site.module])
            continue
        try:
            start = _start(site, method, modules[site.module])
        except (GraftError, RuntimeError, OverflowError, TypeError, MemoryError) as e:
            faults.append(
                f"{site.name or '(model)'}: {method.id} cannot start here ({str(e)[:200]})"
            )
            continue
        shapes |= {_join(site.name, k): tuple(t.shape) for k, t in start.items()}
    for item in entry.beside:
        module = modules[item.name]
        if item.new is None:
            shapes |= _copied(item.name, module)
            continue
        geo = recognise(module)
        if geo is None or isinstance(geo, str) or geo.kind == "norm" or geo.groups != 1:
            faults.append(f"{item.name}: no layer that can get new rows")
            continue
        key = _join(item.name, "new_rows")
        rows = (
            (item.new, geo.out)
            if isinstance(geo, Embedding)
            else geo.with_out(item.new).weight_shape()
        )
        shapes[f"{key}.weight"] = rows
        if module._parameters.get("bias") is not None:
            shapes[f"{key}.bias"] = (item.new,)
    return shapes, faults


def _start(site: Site, method: Method, module: nn.Module) -> dict[str, Tensor]:
    weight, bias = (quantised.hollow(module, name) for name in (site.weight, site.bias))
    assert site.geo is not None
    base = weight if weight is not None else next(module.parameters()).detach().to("meta")
    trained, frozen = starts(method, site.geo, base, bias)
    return trained | frozen


def _copied(name: str, module: nn.Module) -> dict[str, Shape]:
    """A module copied whole: parameters and buffers, tied ones once, as `CopyState` lists them."""
    seen: set[int] = set()
    out: dict[str, Shape] = {}
    for path, m in own_modules(module):
        for leaf, t in [*m._parameters.items(), *m._buffers.items()]:
            if t is not None and id(t) not in seen:
                seen.add(id(t))
                out[_join(name, "module", path, leaf)] = tuple(t.shape)
    return out


def _join(*parts: str) -> str:
    return ".".join(p for p in parts if p)
