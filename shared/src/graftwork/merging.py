"""Merge and unmerge: all or nothing, and bit for bit back.

Merging never writes into a base tensor that it must give back: it computes all new tensors first,
then puts new Parameters in the old ones' places and keeps the old. Unmerging puts the old objects
back, so bits and tying are restored by identity, not by arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from graftwork.algebra import quantised
from graftwork.attach import ROWS, grafts_of
from graftwork.errors import GraftError
from graftwork.handle import Graft, get, is_sound
from graftwork.ledger import ledger_of, refuse_sharded, root_of
from graftwork.parking import Parked
from graftwork.rounding import Roundings
from graftwork.states import CopyState, MethodState, RowsState, SiteState, merged_sum
from graftwork.together import check_together, check_weight

Batch = list[tuple[str, str, Tensor]]  # (module, leaf, new tensor) of one grafted module
KEEP = ("device", "cpu", "disk", False)


@dataclass
class Swap:
    """One tensor that a merge put aside: where it sat, and the old one (`None`: there was none)."""

    module: str
    leaf: str
    old: Parked | None
    new_device: torch.device
    new_dtype: torch.dtype


@dataclass
class Record:
    """A merge in force: of which grafts, with which weights."""

    weights: dict[str, float]
    final: bool
    swaps: list[Swap] = field(default_factory=list)
    active: list[tuple[str, tuple[tuple[str, float], ...]]] = field(default_factory=list)
    widths: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def names(self) -> str:
        """The grafts' names, quoted."""
        return " + ".join(map(repr, self.weights))


def merge(
    graft: Graft | nn.Module,
    name: str | Mapping[str, float] = "default",
    *,
    keep: str | bool = "device",
    round: bool = False,
) -> Roundings:
    """Put the graft's change into the base's own tensors.

    Args:
        graft: a handle, or a model and the graft's `name`.
        name: where a model is given, also a weighted sum `{name: weight}`, as `activate` takes it.
        keep: where the old tensors wait for `unmerge`: "device" (beside the new ones), "cpu",
            "disk"; `False` writes in place and cannot be undone. All but "device" need no more
            extra memory on the device than the work on one layer.
        round: merge into layers quantised to 4 bits too, rounding the result to their format. What that loses
            is printed, and returned.

    Returns:
        The rounding error of each quantised layer; empty where there is none.

    Raises:
        GraftError: the method changes activations, a merge is in force, the base is sharded, or quantised and
            `round` was not asked for, grafts that cannot act together, or a merged tensor is not finite. Nothing
            has changed then.
    """
    grafts, weights = _chosen(graft, name)
    if keep not in KEEP or keep is True:
        raise GraftError(f"merge: keep must be one of {list(KEEP)}, not {keep!r}")
    model = next(iter(grafts.values())).model
    ledger = ledger_of(model)
    refuse_sharded(ledger, "merge")
    if ledger.merged is not None:
        raise GraftError(f"merge: graft {ledger.merged.names} is merged already")
    for part in grafts.values():
        for site, method in part.entry.sites:
            why = method.refuses_merge()
            if why is not None:
                raise GraftError(f"merge: {site.name or 'the model'}: {why}")
    errors = Roundings(round, keep)
    # Refuse before the first write. Where the old tensors leave the device, or are overwritten, a
    # second pass computes the new ones again, so that one layer at a time is there twice.
    new: Iterable[Batch]
    if keep == "device":
        new = list(_new_tensors(grafts, weights, errors))
    else:
        for _ in _new_tensors(grafts, weights, errors):
            pass
        new = _new_tensors(grafts, weights, errors)
    record = Record(weights, final=keep is False)
    try:
        _swap(model, record, new, keep)
    except BaseException:  # the disk is full, say: put back what was swapped so far
        _put_back(model, record)
        raise
    for part in grafts.values():
        _widen(part, record)
    for module_name, module in model.named_modules():
        site_grafts = grafts_of(module)
        if site_grafts is not None:
            record.active.append((module_name, site_grafts.active))
            site_grafts.active = ()
    ledger.merged = record
    if errors:
        print(errors)
    return errors


def _chosen(
    graft: Graft | nn.Module, name: str | Mapping[str, float]
) -> tuple[dict[str, Graft], dict[str, float]]:
    if isinstance(graft, Graft):
        return {graft.name: graft}, {graft.name: 1.0}
    weights = {name: 1.0} if isinstance(name, str) else dict(name)
    if not weights:
        raise GraftError("merge: name a graft, or several as {name: weight}")
    grafts = {n: get(graft, n) for n in weights}
    weights = {n: check_weight("merge", n, w) for n, w in weights.items()}
    check_together("merge", grafts, weights)
    return grafts, weights


def unmerge(graft: Graft | nn.Module, name: str | None = None) -> None:
    """Put every base tensor back, bit for bit and object for object.

    Args:
        graft: a handle, or a model.
        name: one of the merged grafts; `None` takes what is merged.

    Raises:
        GraftError: not merged, or merged with `keep=False`.
    """
    model, name = (graft.model, graft.name) if isinstance(graft, Graft) else (graft, name)
    ledger = ledger_of(model)
    record: Record | None = ledger.merged
    if record is None or (name is not None and name not in record.weights):
        raise GraftError(f"unmerge: graft {name or 'default'!r} is not merged")
    if record.final:
        raise GraftError(
            "unmerge: merged with keep=False, so the old tensors are gone; load the base again"
        )
    root = root_of(model)
    assert root is not None  # it has a ledger
    _put_back(root, record)
    for module_name, attribute, value in record.widths:
        setattr(root.get_submodule(module_name), attribute, value)
    for module_name, active in record.active:
        site = grafts_of(root.get_submodule(module_name))
        if site is not None:
            site.active = active
    ledger.merged = None


def _new_tensors(
    grafts: Mapping[str, Graft], weights: Mapping[str, float], errors: Roundings
) -> Iterator[Batch]:
    """Everything that the grafts change, module by module, checked to be finite; quantised where the layer is."""
    model = next(iter(grafts.values())).model
    names = [m for graft in grafts.values() for m in graft.entry.modules()]
    for module_name in dict.fromkeys(names):
        module = model.get_submodule(module_name)
        slots = [
            (slot, state, weights[name])
            for name, graft in grafts.items()
            if module_name in graft.entry.modules()
            for slot, state in graft.site(module_name).slots(name).items()
        ]
        for _, state, _ in slots:
            state.check(module)
        batch: Batch = []
        for leaf, value in _of_module(module, slots).items():
            path, _, own = leaf.rpartition(".")
            coded = leaf == "weight" and quantised.scheme(module) is not None
            if not is_sound(value, None if coded else _old(module.get_submodule(path), own)):
                raise GraftError(f"merge: {module_name}.{leaf} would hold NaN or infinite values")
            if coded:
                value = errors.stored(module_name, module, value)
            batch.append((".".join(p for p in (module_name, path) if p), own, value))
        yield batch


def _of_module(
    module: nn.Module, slots: Iterable[tuple[str, SiteState, float]]
) -> dict[str, Tensor]:
    """The new tensors of one module, by name; rows come last, behind what else changes."""
    new: dict[str, Tensor] = {}
    changes: dict[str, list[tuple[MethodState, float]]] = {}
    for slot, state, weight in slots:
        if isinstance(state, CopyState):
            new |= state.merged(module)
        elif isinstance(state, MethodState):
            changes.setdefault(slot, []).append((state, weight))
    for parts in changes.values():
        new |= merged_sum(module, parts)
    for _, state, _ in slots:
        if isinstance(state, RowsState):
            weight_now, bias = (new.get(k, module._parameters.get(k)) for k in ("weight", "bias"))
            assert weight_now is not None
            new |= state.widen(weight_now, bias)
    return new


def _old(module: nn.Module, leaf: str) -> Tensor | None:
    return module._buffers[leaf] if leaf in module._buffers else module._parameters.get(leaf)


def _storage(tensor: Tensor) -> int:
    if is_traceable_wrapper_subclass(
        tensor
    ):  # it has no memory of its own; tied places hold one object
        return -id(tensor)
    return tensor.untyped_storage().data_ptr()


def _shared(model: nn.Module) -> set[int]:
    """Storages that more than one place of the model holds (tied weights)."""
    count: Counter[int] = Counter()
    for module in model.modules():
        for t in (*module._parameters.values(), *module._buffers.values()):
            if t is not None:
                count[_storage(t)] += 1
    return {s for s, n in count.items() if n > 1}


def _swap(model: nn.Module, record: Record, new: Iterable[Batch], keep: str | bool) -> None:
    """Put every new tensor in its place; what was there goes into the record."""
    shared = _shared(model)
    for batch in new:
        placed: dict[int, Tensor] = {}  # what is tied inside a graft's own copy stays tied
        for where, leaf, value in batch:
            module = model.get_submodule(where)
            old = _old(module, leaf)
            tied = old is not None and _storage(old) in shared
            made = isinstance(
                value, nn.Parameter
            )  # quantised anew, with more to it than its numbers
            same = old is not None and not tied and old.shape == value.shape
            if keep is False and old is not None and same and not made:
                with torch.no_grad():
                    old.copy_(value)
                continue
            if id(value) not in placed:
                ours = value if made else _like(value, old)
                plain = leaf not in module._buffers and not made
                placed[id(value)] = nn.Parameter(ours, requires_grad=False) if plain else ours
            if keep is not False:
                # where tied, another place still needs the old values
                parked = None if old is None else Parked(old, "device" if tied else str(keep))
                record.swaps.append(Swap(where, leaf, parked, value.device, value.dtype))
            setattr(module, leaf, placed[id(value)])


def _like(value: Tensor, old: Tensor | None) -> Tensor:
    """`value` in the memory format of the tensor that it takes over from."""
    if old is None or old.shape != value.shape or old.stride() == value.stride():
        return value
    return torch.empty_like(old).copy_(value)


def _put_back(model: nn.Module, record: Record) -> None:
    for swap in reversed(record.swaps):
        module = model.get_submodule(swap.module)
        if swap.old is None:
            setattr(module, swap.leaf, None)
            continue
        # where the model was moved or cast while merged, the old tensor follows
        now = _old(module, swap.leaf)
        moved = now is not None and (now.device, now.dtype) != (swap.new_device, swap.new_dtype)
        setattr(module, swap.leaf, swap.old.fetch(now if moved else None))


def _widen(graft: Graft, record: Record) -> None:
    """A layer with merged new rows tells its new width."""
    for beside in graft.entry.beside:
        if beside.new is None:
            continue
        module = graft.model.get_submodule(beside.name)
        state = graft.site(beside.name).state(graft.name, ROWS)
        assert isinstance(state, RowsState)
        attribute = state.geo.out_attribute
        record.widths.append((beside.name, attribute, getattr(module, attribute)))
        setattr(module, attribute, getattr(module, attribute) + beside.new)
