"""Singular triplets of a layer's weight: chosen ones of a full SVD, or the largest by a randomised one.

    W = sum_j  s_j u_j v_j^T,   s_0 >= s_1 >= ...

on the weight's own device, in float32 (float64 stays). A convolution's matrix is `(out, in/g * prod(kernel))`, one for
each group. The sign of a triplet is fixed by making the largest entry of u positive, so that two libraries
that agree on the subspace agree on the factors. A weight is decomposed once: see `cache`.

The randomised SVD is Halko, Martinsson and Tropp's (arXiv 0909.4061, algorithms 4.4 and 5.1, as in
`torch.svd_lowrank`) with ten columns more than are kept. A matrix of at most `SMALL` rows or columns is
cheaper to decompose in full. A full one of a float32 matrix on a CPU is taken from its Gram matrix in float64, which
is faster and more exact, unless that is too near to singular.
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
#: of the largest singular value: below it a Gram matrix in float64 says too little of a vector
SMALLEST = 1e-4
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


def mixed(u: Tensor, n: Tensor, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """U N S V^T as factors A and B of LoRA's shapes.

    Args:
        u: `(out, r)`. n: `(g, r, r)`. s: `(g, r)`. v: `(r g, in/g, *kernel)`.
    """
    a = v * s.reshape(-1, *[1] * (v.dim() - 1))
    with torch.autocast(n.device.type, enabled=False):
        b = (u.reshape(n.shape[0], -1, n.shape[1]) @ n).flatten(0, 1)
    return a, b.reshape(*b.shape, *[1] * (a.dim() - 2))


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
    if w.dtype == torch.float32 and w.device.type == "cpu":
        found = _by_gram(w, picks)
        if found is not None:
            return _signed(*found)
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    return _signed(u[:, :, picks], s[:, picks], v[:, picks])


def _by_gram(w: Tensor, picks: list[int]) -> tuple[Tensor, Tensor, Tensor] | None:
    """Triplets from the eigenvectors of the smaller Gram matrix; `None` where one that is asked for is too small.

    In float64, whose rounding is that of float32 squared: vectors are orthonormal to float32 as long as their
    value is above `SMALLEST` of the largest. It takes less time than an SVD in float32, and is closer to the exact one.
    """
    x = w.double()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    values, vectors = torch.linalg.eigh(x @ x.mT)  # ascending
    near = vectors[:, :, [values.shape[1] - 1 - i for i in picks]]
    far = x.mT @ near
    s = far.norm(dim=1)
    if not bool((s > SMALLEST * values[:, -1:].clamp_min(0).sqrt()).all()):
        return None
    far = far / s.unsqueeze(1)
    u, v = (far, near) if tall else (near, far)
    return u.float(), s.float(), v.mT.float()


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
