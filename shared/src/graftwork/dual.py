"""The dual graft: a shared and a private low-rank pair on the same sites (Med-DualLoRA, arXiv 2603.10967).

    W_i = W0 + s_g B_g A_g + s_l B_l A_l                                   (paper, section 3)

(A_g, B_g) is what a federation exchanges, (A_l, B_l) never leaves its client. The two are named grafts that are
active together, so each is saved, loaded, merged and counted like any graft, and the shared one's file cannot
hold a private tensor: they are not part of it.

Shapes and initialisation: those of LoRA, both B zero: the start is the base bit for bit. The private
A is drawn from a stream of its own, so that the branches do not start alike.

Departures: the paper's ranks, scales and training order are not known to us; both branches train jointly. A
classification head belongs to the shared graft unless it is named as private.
Refuses: methods other than LoRA (a DoRA's magnitude does not add up), a missing shared pair.

The sum is not identifiable: both branches can learn the same thing. `Dual.cosines` shows it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.also_train import beside_of
from graftwork.beside import NewRows
from graftwork.errors import GraftError
from graftwork.graft import attach_entry, graft
from graftwork.handle import Graft, activate, active, get
from graftwork.ledger import Entry
from graftwork.merging import merge, unmerge
from graftwork.methods.base import Method
from graftwork.methods.lora import LoRA
from graftwork.refusals import check_ranks
from graftwork.sites import Pattern, Site
from graftwork.states import MethodState

Beside = Iterable[str | NewRows] | str | NewRows


@dataclass(frozen=True)
class Dual:
    """A shared and a private graft on one model; like `Graft`, a view that keeps nothing.

    Args:
        model: the model that both sit on.
        shared: the graft that travels.
        private: the graft that stays; `None` where there is no private part.
    """

    model: nn.Module
    shared: Graft
    private: Graft | None

    def parts(self, private: bool = True) -> dict[str, float]:
        """The grafts that act, with their weights, as `activate` takes them."""
        chosen = [self.shared, *([self.private] if private and self.private else [])]
        return {g.name: 1.0 for g in chosen}

    def activate(self, private: bool = True) -> None:
        """Switch both branches on, or the shared one alone (a site that never trained)."""
        activate(self.model, self.parts(private))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Tensors that train, by `<graft>/<key>`; none of a frozen shared graft."""
        for part in (self.shared, self.private):
            for key, p in part.named_parameters() if part else ():
                if p.requires_grad:
                    yield f"{part.name}/{key}", p  # type: ignore[union-attr]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Tensors that train."""
        for _, p in self.named_parameters():
            yield p

    def groups(self, lr: float, private_lr: float | None = None) -> list[dict[str, Any]]:
        """Parameter groups for one optimizer, so that the private branch can have a rate of its own.

        Args:
            lr: the shared branch's rate.
            private_lr: the private branch's; `None` takes the same.
        """
        out: list[dict[str, Any]] = []
        for part, rate in ((self.shared, lr), (self.private, private_lr)):
            params = [p for p in part.parameters() if p.requires_grad] if part else []
            if part and params:
                rate = lr if rate is None else rate
                out.append({"params": params, "lr": rate, "name": part.name})
        return out

    def merge(self, private: bool = True, keep: str | bool = "device") -> None:
        """Merge both branches into the base, or the shared one alone; see `graftwork.merge`."""
        merge(self.model, self.parts(private), keep=keep)

    def unmerge(self) -> None:
        """Take out what is merged, bit for bit."""
        unmerge(self.model)

    def cosines(self) -> dict[str, float]:
        """How alike the branches are: cos(B_g A_g, B_l A_l) by site, between -1 and 1.

        0 where a branch is still zero. Near 1 the private branch repeats the shared one, near -1 it undoes it.

        Raises:
            GraftError: there is no private branch.
        """
        if self.private is None:
            raise GraftError("dual: there is no private branch to compare with")
        private = dict(self.private.states())
        out: dict[str, float] = {}
        for site, state in self.shared.states():
            other = private.get(site)
            if isinstance(state, MethodState) and isinstance(other, MethodState):
                out[site] = _cosine(_product(state), _product(other))
        return out


def dual(
    model: nn.Module,
    shared: LoRA | str | None,
    private: LoRA | None,
    *,
    sites: Iterable[Pattern] | Pattern | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    also_train: Beside = (),
    private_also_train: Beside = (),
    train_shared: bool = True,
    seed: int | None = None,
    private_seed: int | None = None,
    names: tuple[str, str] = ("shared", "private"),
    any_rank: bool = False,
) -> Dual:
    """Graft a shared and a private low-rank pair that act together.

    Args:
        model: any module, grafted in place.
        shared: for example `LoRA(8)`; or the name of a LoRA graft that the model carries already, say one
            that was loaded: the private pair then takes its sites.
        private: for example `LoRA(4)`; `None` is plain LoRA, nothing stays at home.
        sites, overrides: of both pairs, as in `graft`; not with a graft that is there already. Overrides
            change the shared pair.
        also_train: whole modules and new rows of the shared graft, such as the head.
        private_also_train: of the private graft.
        train_shared: `False` freezes the shared graft.
        seed: of the shared pair's start values; `None` draws from torch's global generator.
        private_seed: of the private pair's, the client's own; `None` takes `seed`. The stream is another one
            in any case, so equal ranks do not start alike.
        names: of the shared and the private graft.
        any_rank: as in `graft`, of both pairs.

    Raises:
        GraftError: another method than LoRA, no shared pair, or whatever `graft` refuses. Nothing has changed
            then.
    """
    name, private_name = names
    if name == private_name:
        raise GraftError(f"names: the shared and the private graft are both called {name!r}")
    for field, method in (("shared", shared), ("private", private)):
        if method is not None and not isinstance(method, str) and not _is_lora(method):
            raise GraftError(f"{field}: a dual graft is a pair of LoRA, not {method!r}")
    if shared is None or isinstance(private, str):
        raise GraftError(
            "shared: pass a LoRA, or the name of a graft of the model; private: a LoRA or None (a "
            "private pair alone is a plain graft)"
        )
    if private is None and private_also_train:
        raise GraftError("private_also_train: there is no private graft that could own it")
    before = active(model)
    if isinstance(shared, str):
        if sites is not None or overrides or also_train:
            raise GraftError(
                f"sites, overrides, also_train: graft {shared!r} has its own; leave them out"
            )
        if shared == private_name:
            raise GraftError(f"names: {shared!r} is the shared graft; rename the private one")
        own = get(model, shared)
        if any(method.id != "lora" for _, method in own.entry.sites):
            raise GraftError(f"shared: graft {shared!r} is not of LoRA alone; it cannot be paired")
    else:
        own = graft(
            model,
            shared,
            sites=sites,
            overrides=overrides,
            also_train=also_train,
            name=name,
            seed=seed,
            any_rank=any_rank,
        )
    mine = None
    try:
        if private is not None:
            places: list[tuple[Site, Method]] = [(site, private) for site, _ in own.entry.sites]
            if not any_rank and (sites is not None or isinstance(shared, str)):
                check_ranks(places)
            entry = Entry(private, places, beside_of(own.model, private_also_train), {})
            mine = attach_entry(
                own.model,
                private_name,
                entry,
                _private_seed(seed if private_seed is None else private_seed),
            )
        pair = Dual(own.model, own, mine)
        pair.activate()
    except GraftError:
        if mine is not None:
            mine.remove()
        if isinstance(shared, LoRA):
            own.remove()
        activate(model, before or None)
        raise
    for p in own.parameters():
        p.requires_grad_(train_shared)
    return pair


def _is_lora(method: object) -> bool:
    """LoRA itself: what builds on it, such as DoRA, does not add up."""
    return isinstance(method, LoRA) and method.id == "lora"


def _private_seed(seed: int | None) -> int | None:
    """Another stream than the shared pair's, whatever the seed."""
    if seed is None:
        return None
    digest = hashlib.sha256(f"private branch of seed {seed}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _product(state: MethodState) -> Tensor:
    method = state.method
    assert isinstance(method, LoRA)
    p = {name: value.detach().double() for name, value in state.params().items()}
    with torch.no_grad():
        return method.scale * state.geo.product(p["A"], p["B"]).flatten()


def _cosine(a: Tensor, b: Tensor) -> float:
    size = a.norm() * b.norm()
    return float(a @ b / size) if size > 0 else 0.0
