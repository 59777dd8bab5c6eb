"""Inference with many adapters at once: every row of a batch under an adapter of its own choice.

    shelf = gw.tenants.Shelf(model, gw.LoRA(16), sites=["*.q_proj", "*.v_proj"], capacity=1000)
    shelf.add("anna", graft)                       # its factors are copied; the graft may be removed
    with torch.no_grad(), shelf.rows(["anna", "ben", "anna", ""]):
        model(x)                                   # "" is the base

All adapters lie in two tensors for each layer, `(capacity + 1, rank, in)` and `(capacity + 1, out, rank)`. Entering a
block gathers the rows' factors into tensors that stay where they are, so nothing is compiled or recorded anew when the
mix changes. Every row is a tile of its own, whichever adapters come together, so a batch costs the same for one adapter
as for as many as it has rows. s B is rounded once to the layer's dtype, as in `graftwork.serving`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.algebra.quantised import scheme
from graftwork.attach import ensure, grafts_of, release
from graftwork.errors import GraftError
from graftwork.fast.sites import KINDS
from graftwork.handle import Graft
from graftwork.ledger import Entry
from graftwork.methods.base import Method
from graftwork.refusals import check_entry
from graftwork.sites import Pattern, Site, select
from graftwork.states import MethodState
from graftwork.tenants.segments import NOBODY


class Place:
    """One layer's adapters, and those of the rows that run now."""

    def __init__(self, site: Site, layer: nn.Module, rank: int, capacity: int) -> None:
        assert site.geo is not None
        weight = layer._parameters[site.weight]
        assert weight is not None
        self.site, self.layer, self.dtype = site, layer, weight.dtype
        self.a = weight.new_zeros(capacity + 1, rank, site.geo.in_)
        self.b = weight.new_zeros(capacity + 1, site.geo.out, rank)
        self.a_now, self.b_now = self.a[:0], self.b[:0]

    def gather(self, slots: Tensor) -> None:
        """Take the factors of one slot for each row."""
        if self.a_now.shape[0] != slots.shape[0]:
            self.a_now = self.a.new_empty(slots.shape[0], *self.a.shape[1:])
            self.b_now = self.b.new_empty(slots.shape[0], *self.b.shape[1:])
        torch.index_select(self.a, 0, slots, out=self.a_now)
        torch.index_select(self.b, 0, slots, out=self.b_now)

    def run(self, layer: nn.Module, base: Any, args: Any, kwargs: Any) -> Any:
        """The layer's output with every row's own branch."""
        y: Tensor = base(*args, **kwargs)
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        rows = self.a_now.shape[0]
        if x.numel() % (rows * x.shape[-1]):
            raise GraftError(
                f"shelf: a layer was called with input of shape {tuple(x.shape)} in a block for {rows} rows; enter the "
                "block with one name for each row of the batch"
            )
        by_row = x.reshape(rows, -1, x.shape[-1]).to(self.dtype)
        hidden = by_row.bmm(self.a_now.transpose(1, 2))
        up = self.b_now.transpose(1, 2)
        if torch.is_grad_enabled() or not y.is_contiguous() or y.dtype is not self.dtype:
            return (y + hidden.bmm(up).view(y.shape)).to(y.dtype)
        y.view(rows, -1, y.shape[-1]).baddbmm_(hidden, up)  # the layer's own, fresh output
        return y


def _serves(site: Site, layer: nn.Module) -> bool:
    linear = not site.raw and site.geo is not None and site.geo.kind in KINDS
    return linear and scheme(layer) is None


class Shelf:
    """Adapters in store, side by side on one model.

    Args:
        model: the base; other grafts on it do not act inside `rows`.
        method: names the sites where none are given, and the largest rank.
        sites: globs over linear layers, as `graftwork.graft` takes them.
        capacity: how many adapters there is room for.

    Raises:
        GraftError: a method without low-rank factors, sites that are not linear layers, or a capacity below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        sites: Iterable[Pattern] | Pattern | None = None,
        capacity: int = 64,
    ) -> None:
        rank = getattr(method, "rank", None)
        if not isinstance(rank, int):
            raise GraftError(
                f"shelf: {type(method).__name__} has no rank; give a method such as LoRA(16)"
            )
        if capacity < 1:
            raise GraftError(f"Shelf.capacity must be 1 or more, not {capacity!r}")
        found, _ = select(model, method, sites, set())
        wrong = [s.name for s in found if not _serves(s, model.get_submodule(s.module))]
        if wrong:
            raise GraftError(
                f"shelf: only linear layers that are not quantised hold adapters side by side, not {wrong[:5]}"
            )
        readings = check_entry(model, Entry(method, [(s, method) for s in found], [], {}))
        if readings:
            raise GraftError(
                f"shelf: {readings[0][0]} is read by its owner without being called, for all rows at once; leave it out"
            )
        self.model, self.rank, self.capacity = model, rank, capacity
        self.places = {
            s.name: Place(s, model.get_submodule(s.module), rank, capacity) for s in found
        }
        self._slots: dict[str, int] = {}
        self._free = list(range(capacity, 0, -1))  # slot 0 is the base's, and stays zero

    @property
    def names(self) -> list[str]:
        """The adapters in store."""
        return list(self._slots)

    @torch.no_grad()
    def add(
        self, name: str, source: Graft | Mapping[str, Tensor], method: Method | None = None
    ) -> None:
        """Copy an adapter's factors into the store.

        Args:
            name: to call it by.
            source: a graft of this or another model with the same layers, or its tensors by `<site>.<name>`.
            method: of tensors.

        Raises:
            GraftError: the name is taken, the store is full, or a change that is more than factors of at most the
                shelf's rank at the shelf's sites.
        """
        if name in self._slots or name == NOBODY:
            raise GraftError(f"shelf: the name {name!r} is taken; remove that adapter first")
        if not self._free:
            raise GraftError(
                f"shelf: it is full ({self.capacity} adapters); remove one, or make a larger one"
            )
        parts = self._factors(name, source, method)
        slot = self._free.pop()
        for place in self.places.values():
            place.a[slot].zero_()
            place.b[slot].zero_()
        for site, (a, b, scale) in parts.items():
            place, r = self.places[site], a.shape[0]
            place.a[slot, :r] = a
            place.b[slot, :, :r] = scale * b
        self._slots[name] = slot

    def _factors(
        self, name: str, source: Graft | Mapping[str, Tensor], method: Method | None
    ) -> dict[str, tuple[Tensor, Tensor, float]]:
        known: dict[str, tuple[Any, Mapping[str, Tensor]]] = {}
        if isinstance(source, Graft):
            for site, state in source.states():
                if isinstance(state, MethodState):
                    known[site] = (state.method, state.params())
                else:
                    known[site] = (None, {})
        else:
            by_site: dict[str, dict[str, Tensor]] = {}
            for key, t in source.items():
                site, _, leaf = key.rpartition(".")
                by_site.setdefault(site, {})[leaf] = t
            known = {site: (method, p) for site, p in by_site.items()}
        out, faults = {}, []
        for site, (own, p) in known.items():
            place = self.places.get(site)
            factors = None
            if place is not None and own is not None and place.site.geo is not None:
                factors = own.factors(place.site.geo, p, False)
            if factors is None or any(more is not None for more in factors[3:]):
                why = "is not on the shelf" if place is None else "changes by more than factors"
                faults.append(f"{site or 'the model'} {why}")
            elif factors.a.shape[0] > self.rank:
                faults.append(f"{site} has rank {factors.a.shape[0]}, and the shelf {self.rank}")
            else:
                out[site] = (factors.a, factors.b, factors.scale)
        if faults:
            raise GraftError(f"shelf: {name!r} cannot be taken in:\n  " + "\n  ".join(faults))
        return out

    def remove(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            GraftError: there is none of this name.
        """
        self._free.append(self._slots.pop(self._known(name)))

    def _known(self, name: str) -> str:
        if name not in self._slots:
            raise GraftError(f"shelf: no adapter {name!r}; there are {len(self._slots)} others")
        return name

    @contextlib.contextmanager
    def rows(self, names: Sequence[str]) -> Iterator[nn.Module]:
        """Inside the block row i of every batch runs under the adapter `names[i]`; `""` is the base.

        Raises:
            GraftError: an unknown name, no row, or another such block around this one.
        """
        if not names:
            raise GraftError("shelf: give one name for each row of the batch")
        slots = [0 if n == NOBODY else self._slots[self._known(n)] for n in names]
        device = next(iter(self.places.values())).a.device
        chosen = torch.tensor(slots, device=device)
        every = [g for m in self.model.modules() if (g := grafts_of(m)) is not None]
        if any(g.mix is not None for g in every):
            raise GraftError("shelf: the model is inside another such block; leave that one first")
        before = [g.active for g in every]
        for g in every:
            g.active = ()
        with torch.no_grad():
            for place in self.places.values():
                place.gather(chosen)
        try:
            for place in self.places.values():
                ensure(place.layer).mix = place
            yield self.model
        finally:
            for place in self.places.values():
                ensure(place.layer).mix = None
                release(place.layer)
            for g, active in zip(every, before, strict=True):
                g.active = active
