"""Keep the edit of a new task apart from those of earlier ones by a penalty: the soft form of CoRe's constraint.

    L = task + overlap * sum_{s<t} ||R_t R_s^T||_F^2 + drift * mean ||Q^T (Phi_t(h) - h)||^2            (reconstruction)

R_s are the rows that an earlier task's edit lies in, Q an orthonormal basis of them all, and the mean is over the
vectors that the block returns; both are sums over blocks. As with CoRe, whose hard form needs neither, the paper (Luo
et al. 2026, arXiv 2603.11201) was not to be had whole: the terms are ours.

    new = gw.graft(model, gw.LoReFT(4, where="all"), sites=sites, name="second")
    isolation.start_apart(new, "first")
    with isolation.isolated(new, "first") as apart:
        loss = task(model(x), y) + apart()
    loss.backward()

The gradient reaches the new graft alone. LoReFT, DiReFT and CoRe, tied, on the same blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from graftwork.attach import CALL
from graftwork.errors import GraftError
from graftwork.handle import Graft, get
from graftwork.interventions import Intervention
from graftwork.methods.loreft import LoReFT
from graftwork.starts.orthonormal import orthonormal
from graftwork.states import MethodState


@contextlib.contextmanager
def isolated(
    graft: Graft, *earlier: str, overlap: float = 1.0, drift: float = 0.1
) -> Iterator[Callable[[], Tensor]]:
    """Collect what the penalty needs; yields a function that returns it, once the forward passes are made.

    Args:
        graft: the task that trains; switched on.
        earlier: names of the other tasks' grafts on the same model; off or on.
        overlap, drift: weights of the two terms, at least 0.

    Raises:
        GraftError: a graft that is not there, is of another kind or sits on other blocks; a negative weight.
    """
    for name, value in (("overlap", overlap), ("drift", drift)):
        if not value >= 0:
            raise GraftError(f"isolation: {name} must be at least 0, not {value!r}")
    pairs = _pairs(graft, earlier)
    changes: list[tuple[Tensor, Tensor]] = []
    for state, others in pairs:
        basis = _basis(others)
        state.watch = lambda change, basis=basis: changes.append((change, basis))

    def penalty() -> Tensor:
        total = torch.zeros((), device=next(pairs[0][0].parameters()).device)
        for state, others in pairs:
            own = _rows(state)
            total = total + overlap * sum((own @ r.mT).square().sum() for r in others)
        for change, basis in changes:
            part = change.to(basis.dtype) @ basis.mT
            total = total + drift * part.square().sum(-1).mean()
        changes.clear()
        return total

    try:
        yield penalty
    finally:
        for state, _ in pairs:
            state.watch = None


@torch.no_grad()
def start_apart(graft: Graft, *earlier: str) -> None:
    """Start a LoReFT's rows orthogonal to those of earlier tasks, at the base.

    R is drawn by torch's global generator in the complement of theirs, W = R as it is made orthonormal on this device,
    b = 0: the output is the base's, and stays so on another device up to rounding.

    Raises:
        GraftError: as `isolated`; another method than LoReFT; ranks that are together above the width.
    """
    for state, others in _pairs(graft, earlier):
        if not isinstance(state.method, LoReFT):
            raise GraftError(
                f"isolation: {state.method.id} has no start of its own here; take LoReFT"
            )
        p, basis = state.params(), _basis(others)
        rank, width = p["R"].shape
        if rank + len(basis) > width:
            raise GraftError(
                f"isolation: {len(basis)} dimensions of {width} belong to earlier tasks, which leaves no room for "
                f"LoReFT.rank = {rank}"
            )
        drawn = torch.randn_like(p["R"], dtype=torch.float64)
        p["R"].copy_(orthonormal(drawn - drawn @ basis.mT.double() @ basis.double()))
        p["W"].copy_(orthonormal(p["R"]))
        p["b"].zero_()


def _pairs(graft: Graft, earlier: tuple[str, ...]) -> list[tuple[MethodState, list[Tensor]]]:
    """Each block's state, and the rows of the earlier tasks there."""
    if not earlier or graft.name in earlier:
        raise GraftError(f"isolation: name the grafts of earlier tasks, not {list(earlier)}")
    own = _states(graft)
    others = [_states(get(graft.model, name)) for name in earlier]
    for name, states in zip(earlier, others, strict=True):
        if states.keys() != own.keys():
            differ = sorted(states.keys() ^ own.keys())[0]
            raise GraftError(
                f"isolation: {name!r} and {graft.name!r} differ at {differ!r}; graft both on the same"
            )
    return [(state, [_rows(o[site]).detach() for o in others]) for site, state in own.items()]


def _states(graft: Graft) -> dict[str, MethodState]:
    found = {}
    for site, method in graft.entry.sites:
        state = graft.site(site.module).state(graft.name, CALL)
        if (
            not isinstance(method, Intervention)
            or not method.tied
            or not isinstance(state, MethodState)
        ):
            own = f"{graft.name!r} has {method} at {site.name!r}"
            raise GraftError(f"isolation: {own}; take a tied edit of hidden states")
        found[site.name] = state
    return found


def _rows(state: MethodState) -> Tensor:
    """The orthonormal rows `(r, d)` that the edit lies in."""
    assert isinstance(state.method, Intervention)
    return state.method.rows(state.params())


def _basis(rows: list[Tensor]) -> Tensor:
    """Orthonormal rows that span all of these."""
    _, s, v = torch.linalg.svd(torch.cat(rows).double(), full_matrices=False)
    spans: Tensor = v[s > 1e-6 * s[0]]
    return spans.to(rows[0].dtype)
