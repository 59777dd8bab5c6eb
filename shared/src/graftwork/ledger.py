"""What a model's root remembers about its grafts: names and settings, never modules.

The ledger is a plain attribute of the root module, so deepcopy and pickle carry it along and a
handle can be found again on the copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from graftwork.errors import GraftError
from graftwork.methods.base import Method
from graftwork.sites import Site

ATTRIBUTE = "_graft_ledger"


@dataclass
class Beside:
    """A module that trains beside the adapter: copied whole, or given `new` rows."""

    name: str
    new: int | None = None


@dataclass
class Entry:
    """One graft: its method, its sites (with the method each one runs), what trains beside it."""

    method: Method
    sites: list[tuple[Site, Method]]
    beside: list[Beside]
    left_out: dict[str, str]

    def modules(self) -> list[str]:
        """Names of all modules that carry a part of this graft, once each."""
        return list(
            dict.fromkeys([*(s.module for s, _ in self.sites), *(b.name for b in self.beside)])
        )


@dataclass
class Ledger:
    """All grafts of one root module.

    Attributes:
        trained: names of base parameters that required gradients before the first graft.
        merged: the record of a merge in force, or `None`.
        sharded: while the base is shared out among processes, its fingerprints by graft, taken when it was whole.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)
    merged: Any = None
    sharded: dict[str, Any] | None = None


def root_of(model: nn.Module) -> nn.Module | None:
    """The module whose ledger is meant: the model itself or the one grafted module inside it."""
    if ATTRIBUTE in model.__dict__:
        return model
    inside = [m for m in model.modules() if ATTRIBUTE in m.__dict__]
    if len(inside) > 1:
        raise GraftError("several modules inside this one are grafted; name the one you mean")
    return inside[0] if inside else None


def ledger_of(model: nn.Module) -> Ledger:
    """The ledger of a grafted model.

    Raises:
        GraftError: the model carries no graft.
    """
    root = root_of(model)
    if root is None:
        raise GraftError(f"{type(model).__name__} carries no graft; call graftwork.graft first")
    ledger = root.__dict__[ATTRIBUTE]
    assert isinstance(ledger, Ledger)
    return ledger


def refuse_sharded(ledger: Ledger, verb: str) -> None:
    """Refuse what needs whole base tensors.

    Raises:
        GraftError: the base is sharded.
    """
    if ledger.sharded is not None:
        raise GraftError(
            f"{verb}: the base is shared out among processes; save the graft and load it onto a whole base in one "
            "process"
        )
