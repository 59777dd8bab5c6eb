"""Any mergeable graft as a plain LoRA graft: the best factors of each site's weight change.

    dW = U S V^T,   B = U_r sqrt(S_r),   A = sqrt(S_r) V_r^T

The truncated SVD is the closest matrix of rank r (Eckart and Young 1936). A convolution's change is the
matrix `(out, in/g * prod(kernel))`; with groups that divide the rank each group is factored by itself, as the
LoRA layout has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graftwork.algebra.geometry import Geometry
from graftwork.attach import grafts_of
from graftwork.errors import GraftError
from graftwork.graft import graft_from_spec
from graftwork.handle import Graft, get
from graftwork.ledger import ledger_of
from graftwork.methods.lora import LoRA
from graftwork.sites import Site
from graftwork.states import MethodState
from graftwork.store.passport import shorten

_DOUBLE = 2**22  # changes of more entries than this are factored in float32: float64 takes too long


@dataclass(frozen=True)
class Conversion:
    """A new LoRA graft, and what the conversion lost.

    Attributes:
        graft: on the same model, switched on alone.
        rows: (site, rank, relative Frobenius error of its weight change).
        total: relative Frobenius error over all sites together.
    """

    graft: Graft
    rows: tuple[tuple[str, int, float], ...]
    total: float

    def __str__(self) -> str:
        width = max(4, *(len(r[0]) for r in self.rows))
        lines = [f"{'site':<{width}}  {'rank':>4}  relative error"]
        lines += [
            f"{name or '(model)':<{width}}  {rank:>4}  {err:.2e}" for name, rank, err in self.rows
        ]
        return "\n".join([*lines, f"{'all sites':<{width}}  {'':>4}  {self.total:.2e}"])


def to_lora(
    graft: Graft | nn.Module,
    rank: int | None = None,
    error: float | None = None,
    *,
    name: str = "default",
    new_name: str | None = None,
) -> Conversion:
    """Approximate a graft's weight changes by LoRA factors, on the same model.

    Args:
        graft: a handle, or a grafted model and the graft's `name`.
        rank: of every site; or
        error: the largest relative Frobenius error of a site; the smallest rank that keeps it is taken.
        new_name: of the LoRA graft; `None` appends "_lora".

    Returns:
        The new graft and its errors. Modules that train beside the adapter are carried over unchanged.

    Raises:
        GraftError: neither or both of `rank` and `error`, values out of range, a merge in force, a method
            that is not mergeable, or sites whose bias changes (LoRA has no form for that; all are
            listed). The model has not changed then.
    """
    graft = graft if isinstance(graft, Graft) else get(graft, name)
    _check(rank, error)
    if ledger_of(graft.model).merged is not None:
        raise GraftError("to_lora: a graft is merged; unmerge() first")
    faults: list[str] = []
    deltas: list[tuple[Site, Tensor]] = []
    for site, method in graft.entry.sites:
        if site.geo is None or not method.mergeable or site.geo.kind not in LoRA.layer_kinds:
            faults.append(f"{site.name or '(model)'}: {method.id} has no LoRA form here")
            continue
        with torch.no_grad():
            change = _state(graft, site).delta(graft.model.get_submodule(site.module))
        if change.bias is not None and bool(change.bias.any()):
            faults.append(f"{site.name or '(model)'}: {method.id} changes the bias, LoRA cannot")
        elif change.weight is None:
            faults.append(f"{site.name or '(model)'}: {method.id} changes no weight")
        else:
            deltas.append((site, change.weight))
    if faults:
        raise GraftError("to_lora: this graft is no change of weights alone:\n  " + shorten(faults))
    names = {s.name for s, _ in graft.entry.sites}
    tensors = {k: t for k, t in graft.tensors().items() if k.rpartition(".")[0] not in names}
    rows, sites, lost, whole = [], [], 0.0, 0.0
    for site, delta in deltas:
        assert site.geo is not None
        a, b = factors(site.geo, delta, rank, error)
        gone = float((delta.double() - site.geo.product(a, b).double()).norm())
        size = float(delta.double().norm())
        tensors |= {_join(site.name, "A"): a, _join(site.name, "B"): b}
        rows.append((site.name, a.shape[0], gone / size if size else 0.0))
        sites.append((site.name, site.geo.kind, LoRA(a.shape[0])))
        lost, whole = math.hypot(lost, gone), math.hypot(whole, size)
    first = sites[0][2]
    spec = {
        "method": {"id": "lora", "config": first.config()},
        "sites": [
            {"name": n, "kind": k}
            | ({} if m == first else {"method": {"id": "lora", "config": m.config()}})
            for n, k, m in sites
        ],
        "also_train": graft.spec()["also_train"],
        "merged": False,
    }
    made = graft_from_spec(graft.model, spec, new_name or f"{graft.name}_lora", tensors)
    return Conversion(made, tuple(rows), lost / whole if whole else 0.0)


def factors(
    geo: Geometry, delta: Tensor, rank: int | None, error: float | None
) -> tuple[Tensor, Tensor]:
    """LoRA's A and B for a weight change, at a rank, or at the smallest rank within a relative error."""
    wide = torch.float64 if delta.numel() <= _DOUBLE else torch.float32
    canonical = geo.canonical(delta.detach().to(wide)).flatten(2)  # (groups, out/g, in/g * k)
    groups = geo.groups if rank is None or geo.splits(rank) else 1
    matrices = canonical if groups == geo.groups else canonical.flatten(0, 1).unsqueeze(0)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    each = _smallest_rank(s, error) if rank is None else rank // groups
    keep = min(each, s.shape[1])
    root = s[:, :keep].sqrt()
    a = torch.zeros(groups, each, matrices.shape[2], dtype=wide, device=delta.device)
    b = torch.zeros(groups, matrices.shape[1], each, dtype=wide, device=delta.device)
    a[:, :keep] = root.unsqueeze(2) * vh[:, :keep]
    b[:, :, :keep] = u[:, :, :keep] * root.unsqueeze(1)
    a_shape, b_shape = geo.factor_shapes(groups * each)
    return a.reshape(a_shape).to(delta.dtype), b.reshape(b_shape).to(delta.dtype)


def _smallest_rank(s: Tensor, error: float | None) -> int:
    """The fewest singular values per group that keep the error; at least one."""
    assert error is not None
    power = s.double().square().sum(0)  # over groups, which share one rank
    tail = power.flip(0).cumsum(0).flip(0)  # what is lost when cutting before each place
    allowed = error**2 * float(tail[0])
    kept = int((tail > allowed).sum())
    return max(1, kept)


def _check(rank: int | None, error: float | None) -> None:
    if (rank is None) == (error is None):
        raise GraftError("to_lora: give either rank or error")
    if rank is not None and (type(rank) is not int or rank < 1):
        raise GraftError(f"to_lora: rank must be a whole number of at least 1, not {rank!r}")
    if error is not None and not (isinstance(error, int | float) and 0 <= error < 1):
        raise GraftError(f"to_lora: error must lie in [0, 1), not {error!r}")


def _state(graft: Graft, site: Site) -> MethodState:
    grafts = grafts_of(graft.model.get_submodule(site.module))
    assert grafts is not None
    state = grafts.state(graft.name, site.weight if site.raw else "")
    assert isinstance(state, MethodState)
    return state


def _join(site: str, leaf: str) -> str:
    return f"{site}.{leaf}" if site else leaf
