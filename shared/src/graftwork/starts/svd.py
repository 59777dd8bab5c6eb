"""Singular triplets of a layer's weight: chosen ones of a full SVD, or the largest by a randomised one.

    W = sum_j  s_j u_j v_j^T,   s_0 >= s_1 >= ...

on the weight's own device, in float32 (float64 stays). A convolution's matrix is `(out, in/g * prod(kernel))`, one for
each group. The sign of a triplet is fixed by making the largest entry of u positive, so that two libraries
that agree on the subspace agree on the factors. A weight is decomposed once: see `cache`.

The randomised SVD is Halko, Martinsson and Tropp's (arXiv 0909.4061, algorithms 4.4 and 5.1, as in
`torch.svd_lowrank`) with ten columns more than are kept. A matrix of at most `SMALL` rows or columns is
cheaper to decompose in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.algebra.geometry import Geometry
from graftwork.errors import GraftError
from graftwork.starts import cache

SMALL = 512
Compute = Callable[[], tuple[Tensor, Tensor, Tensor]]
_OVERSAMPLE = 10


@dataclass(frozen=True)
class Triplets:
    """Some singular triplets of matrices `(groups, m, n)`.

    Attributes:
        u: `(groups, m, k)`. s: `(groups, k)`. v: `(groups, k, n)`.
        error: ||(W v - u s, W^T u - v s)|| / ||s|| (Frobenius), the largest over groups: rounding for a full
            SVD; for a randomised one how far the kept triplets are from being singular triplets of W.
    """

    u: Tensor
    s: Tensor
    v: Tensor
    error: float


def matrices(geo: Geometry, weight: Tensor) -> Tensor:
    """A stored weight as `(groups, out/g, in/g * prod(kernel))`, in float32 or wider."""
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    return geo.canonical(wide).flatten(2)


def width(geo: Geometry) -> int:
    """How many singular values each group's matrix has."""
    rows, cols = geo.group_shape
    return min(rows, cols * math.prod(geo.kernel))


def exact(w: Tensor, picks: Sequence[int]) -> Triplets:
    """The triplets of these indices (0 is the largest) by a full SVD.

    Raises:
        GraftError: the weight is not finite.
    """
    ask = "exact " + " ".join(map(str, picks))
    return _cached(w, ask, len(picks), lambda: _pick(w, list(picks)))


def largest(w: Tensor, rank: int, niter: int | None, seed: int = 0) -> Triplets:
    """The `rank` largest triplets.

    Args:
        w: `(groups, m, n)`.
        rank: at most min(m, n).
        niter: power iterations of a randomised SVD; `None` asks for a full one.
        seed: of the randomised SVD; the caller's random state does not move.

    Raises:
        GraftError: the weight is not finite.
    """
    if niter is None or min(w.shape[1:]) <= max(SMALL, rank + _OVERSAMPLE):
        return exact(w, range(rank))
    ask = f"randomised {rank} {niter} {seed}"
    return _cached(w, ask, rank, lambda: _randomised(w, rank, niter, seed))


def factors(geo: Geometry, t: Triplets, scale: float) -> tuple[Tensor, Tensor]:
    """A and B of LoRA's shapes with B A = scale * u s v: each takes the root of scale * s."""
    a_shape, b_shape = geo.factor_shapes(t.s.numel())
    if t.s.is_meta:  # arithmetic there would import half of torch for shapes that are known
        return t.v.new_empty(a_shape), t.u.new_empty(b_shape)
    root = (scale * t.s).sqrt()
    a, b = root.unsqueeze(2) * t.v, t.u * root.unsqueeze(1)
    return a.reshape(a_shape), b.reshape(b_shape)


def _cached(w: Tensor, ask: str, k: int, compute: Compute) -> Triplets:
    groups, m, n = w.shape
    if w.is_meta:
        blank = w.new_empty
        return Triplets(blank(groups, m, k), blank(groups, k), blank(groups, k, n), 0.0)
    if not bool(torch.isfinite(w).all()):
        raise GraftError("the weight holds NaN or infinite values; it has no singular vectors")
    key = cache.key_of(w, ask)
    found = cache.store().get(key)
    if found is None:
        u, s, v = compute()
        error = _error(w, u, s, v)
        found = {"u": u, "s": s, "v": v, "error": s.new_tensor(error)}
        cache.store().put(key, found)
    u, s, v = (found[name].to(w.device) for name in ("u", "s", "v"))
    return Triplets(u, s, v, float(found["error"]))


def _pick(w: Tensor, picks: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    return _signed(u[:, :, picks], s[:, picks], v[:, picks])


def _randomised(w: Tensor, rank: int, niter: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    devices = [w.device] if w.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        u, s, v = torch.svd_lowrank(w, q=rank + _OVERSAMPLE, niter=niter)
    return _signed(u[:, :, :rank], s[:, :rank], v[:, :, :rank].transpose(1, 2))


def _signed(u: Tensor, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    top = u.abs().argmax(dim=1, keepdim=True)
    sign = torch.where(u.gather(1, top) < 0, -1.0, 1.0).to(u.dtype)
    return (u * sign).contiguous(), s.contiguous(), (v * sign.transpose(1, 2)).contiguous()


def _error(w: Tensor, u: Tensor, s: Tensor, v: Tensor) -> float:
    right = (w @ v.transpose(1, 2) - u * s.unsqueeze(1)).flatten(1).norm(dim=1)
    left = (u.transpose(1, 2) @ w - s.unsqueeze(2) * v).flatten(1).norm(dim=1)
    whole = s.norm(dim=1).clamp_min(torch.finfo(s.dtype).tiny)
    return float((torch.hypot(left, right) / whole).max())
