"""Merge and unmerge: all or nothing, and bit for bit back.

Merging never writes into a base tensor that it must give back: it computes all new tensors first,
then puts new Parameters in the old ones' places and keeps the old. Unmerging puts the old objects
back, so bits and tying are restored by identity, not by arithmetic.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.attach import ROWS, grafts_of
from graftwork.errors import GraftError
from graftwork.handle import Graft, get
from graftwork.ledger import Ledger, ledger_of
from graftwork.states import CopyState, MethodState, RowsState

KEEP = ("device", "cpu", "disk", False)


@dataclass
class Swap:
    """One tensor that a merge put aside: where it sat, and where its values are now."""

    module: str
    leaf: str
    old: Tensor | None
    device: torch.device | None = None
    file: str | None = None


@dataclass
class Record:
    """A merge in force."""

    name: str
    final: bool
    swaps: list[Swap] = field(default_factory=list)
    active: list[tuple[str, tuple[tuple[str, float], ...]]] = field(default_factory=list)
    widths: list[tuple[str, str, int]] = field(default_factory=list)


def merge(graft: Graft | nn.Module, name: str = "default", *, keep: str | bool = "device") -> None:
    """Put the graft's change into the base's own tensors.

    Args:
        graft: a handle, or a model and the graft's `name`.
        keep: where the old tensors wait for `unmerge`: "device" (beside the new ones), "cpu",
            "disk"; `False` writes in place, needs no extra memory beyond one layer, and cannot be
            undone.

    Raises:
        GraftError: the method changes activations, a merge is in force, or a merged tensor is not
            finite. Nothing has changed then.
    """
    graft = graft if isinstance(graft, Graft) else get(graft, name)
    if keep not in KEEP or keep is True:
        raise GraftError(f"merge: keep must be one of {list(KEEP)}, not {keep!r}")
    ledger = ledger_of(graft.model)
    if ledger.merged is not None:
        raise GraftError(f"merge: graft {ledger.merged.name!r} is merged already")
    for site, method in graft.entry.sites:
        if not method.mergeable:
            raise GraftError(
                f"merge: {site.name or 'the model'}: {method.id} changes activations, not weights"
            )
    if keep is False:
        for _ in _new_tensors(
            graft
        ):  # refuse before the first write; one layer in memory at a time
            pass
        new: Any = _new_tensors(graft)
    else:
        new = list(_new_tensors(graft))
    record = Record(graft.name, final=keep is False)
    uses = _uses(graft.model)
    for module_name, leaf, value in new:
        module = graft.model.get_submodule(module_name)
        _place(record, module_name, module, leaf, value, keep, uses)
    _widen(graft, record)
    for module_name, module in graft.model.named_modules():
        site_grafts = grafts_of(module)
        if site_grafts is not None:
            record.active.append((module_name, site_grafts.active))
            site_grafts.active = ()
    ledger.merged = record


def unmerge(graft: Graft | nn.Module, name: str = "default") -> None:
    """Put every base tensor back, bit for bit and object for object.

    Raises:
        GraftError: not merged, or merged with `keep=False`.
    """
    graft = graft if isinstance(graft, Graft) else get(graft, name)
    ledger: Ledger = ledger_of(graft.model)
    record: Record | None = ledger.merged
    if record is None or record.name != graft.name:
        raise GraftError(f"unmerge: graft {graft.name!r} is not merged")
    if record.final:
        raise GraftError(
            "unmerge: merged with keep=False, so the old tensors are gone; load the base again"
        )
    for swap in record.swaps:
        _restore(graft.model.get_submodule(swap.module), swap)
    for module_name, attribute, value in record.widths:
        setattr(graft.model.get_submodule(module_name), attribute, value)
    for module_name, active in record.active:
        site = grafts_of(graft.model.get_submodule(module_name))
        if site is not None:
            site.active = active
    ledger.merged = None


def _new_tensors(graft: Graft) -> Iterator[tuple[str, str, Tensor]]:
    """(module, leaf, merged tensor) for everything the graft changes, checked to be finite."""
    for module_name in graft.entry.modules():
        module = graft.model.get_submodule(module_name)
        site = grafts_of(module)
        assert site is not None
        new: dict[str, Tensor] = {}
        slots = site.slots(graft.name)
        for _, state in sorted(slots.items(), key=lambda s: s[0] == ROWS):
            if isinstance(state, RowsState):
                weight, bias = (new.get(k, module._parameters.get(k)) for k in ("weight", "bias"))
                assert weight is not None
                new |= state.widen(weight, bias)
            elif isinstance(state, MethodState | CopyState):
                new |= state.merged(module)
        for leaf, value in new.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise GraftError(f"merge: {module_name}.{leaf} would hold NaN or infinite values")
            path, _, own = leaf.rpartition(".")
            yield ".".join(p for p in (module_name, path) if p), own, value


def _uses(model: nn.Module) -> dict[int, int]:
    """How many places hold each tensor (tied weights have more than one)."""
    count: dict[int, int] = {}
    for module in model.modules():
        for t in (*module._parameters.values(), *module._buffers.values()):
            if t is not None:
                count[id(t)] = count.get(id(t), 0) + 1
    return count


def _place(
    record: Record,
    where: str,
    module: nn.Module,
    leaf: str,
    value: Tensor,
    keep: str | bool,
    uses: dict[int, int],
) -> None:
    home: dict[str, Any] = module._buffers if leaf in module._buffers else module._parameters
    old = home.get(leaf)
    shared = old is not None and uses.get(id(old), 0) > 1
    if old is not None and old.shape == value.shape:
        # keep the old tensor's memory format
        value = torch.empty_like(old).copy_(value) if keep is not False else value
    if keep is False and old is not None and not shared and old.shape == value.shape:
        with torch.no_grad():
            old.copy_(value)
        return
    home[leaf] = nn.Parameter(value, requires_grad=False) if home is module._parameters else value
    if keep is False:
        return
    swap = Swap(where, leaf, old, old.device if old is not None else None)
    if old is not None and not shared and keep in ("cpu", "disk"):
        _park(swap, old, str(keep))
    record.swaps.append(swap)


def _park(swap: Swap, old: Tensor, keep: str) -> None:
    """Move a tensor's values off its device; the object stays, so that unmerge is identity."""
    if keep == "cpu":
        old.data = old.data.cpu()
        return
    from safetensors.torch import save_file

    handle, swap.file = tempfile.mkstemp(prefix="graftwork-", suffix=".safetensors")
    os.close(handle)
    save_file({"t": old.data.contiguous()}, swap.file)
    old.data = torch.empty(0, dtype=old.dtype, device=old.device)


def _restore(module: nn.Module, swap: Swap) -> None:
    home: dict[str, Any] = module._buffers if swap.leaf in module._buffers else module._parameters
    if swap.old is not None:
        if swap.file is not None:
            from safetensors.torch import load_file

            swap.old.data = load_file(swap.file)["t"].to(swap.device)
            with contextlib.suppress(OSError):
                os.unlink(swap.file)
        else:
            swap.old.data = swap.old.data.to(swap.device)
    home[swap.leaf] = swap.old


def _widen(graft: Graft, record: Record) -> None:
    """A layer with merged new rows tells its new width."""
    for beside in graft.entry.beside:
        if beside.new is None:
            continue
        module = graft.model.get_submodule(beside.name)
        site = grafts_of(module)
        state = site.state(graft.name, ROWS) if site is not None else None
        assert isinstance(state, RowsState)
        attribute = state.geo.out_attribute
        record.widths.append((beside.name, attribute, getattr(module, attribute)))
        setattr(module, attribute, getattr(module, attribute) + beside.new)
