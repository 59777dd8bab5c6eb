"""Per-sample gradients of a low-rank change that are never stored.

A layer's output moves by `f(x; t)` with the graft's tensors t. With d_i the loss's gradient at that output for
sample i,

    <g_i, v> = <d_i, J f(x_i; t) v>,       g_i = J f(x_i; t)^T d_i,       sum_{i in S} g_i = J f(x_S; t)^T d_S

so a sample's inner product with a fixed v is one pass of the branch along v, and the sum over chosen samples one
backward of the branch over them alone. For f = s B A x these are

    a_i = s sum_t [ d_it^T V_B (A x_it) + (B^T d_it)^T V_A x_it ],   dB = s sum_S d (A x)^T,   dA = s sum_S (B^T d) x^T

at O(tokens r (in + out)). Convolutions, embeddings, residual starts and a gain per channel (DoRA) go the same way.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graftwork.algebra.geometry import Geometry
from graftwork.algebra.linear import Embedding, Linear
from graftwork.methods.base import Factors
from graftwork.states import MethodState

Tensors = dict[str, Tensor]


def trained(state: MethodState) -> Tensors:
    """The state's trained tensors by name."""
    return {n: p for n, p in state.named_parameters() if p.requires_grad}


def declared(state: MethodState) -> Factors | None:
    """The change in training as low-rank factors, of an input behind dropout where the method has one; or `None`."""
    return _factors(state, state.params())


def inner_products(
    state: MethodState, layer: nn.Module, x: Tensor, d: Tensor, v: Mapping[str, Tensor], size: int
) -> Tensor:
    """<g_i, v> for each sample, `(size,)`, in float32 or wider.

    Args:
        state: what the graft keeps at `layer`; its method declares factors.
        x: the layer's input, behind the branch's dropout; its first axis holds the samples, equally many rows each, in
            their order.
        d: gradient at the layer's output.
        v: a value for each trained tensor.
        size: samples.
    """
    own = {n: p.detach() for n, p in trained(state).items()}
    with torch.no_grad(), torch.autocast(d.device.type, enabled=False):
        x, d = _wide(state, x, d)
        f, along = _parts(state, layer, own), _along(state, layer, own, v)
        extra: Tensor | None = None
        if len(f) == 3:
            gain, slope = (state.geo.channels(t, d) for t in (f[2], along[2]))
            extra, d = slope * d * _before_gain(state, layer, x, f, d), gain * d
        total = _along_factors(state.geo, x, d, f, along).reshape(size, -1).sum(1)
        return total if extra is None else total + extra.reshape(size, -1).sum(1)


def _along_factors(
    geo: Geometry, x: Tensor, d: Tensor, f: list[Tensor], along: list[Tensor]
) -> Tensor:
    """Terms whose sum over a sample's rows is <d, lowrank(x, a', b) + lowrank(x, a, b')>."""
    if isinstance(geo, Linear | Embedding):  # nothing wider than the rank
        return (d @ along[1]) * geo.down(x, f[0], d) + (d @ f[1]) * geo.down(x, along[0], d)
    return d * (geo.lowrank(x, along[0], f[1], d) + geo.lowrank(x, f[0], along[1], d))


def summed(
    state: MethodState, layer: nn.Module, x: Tensor, d: Tensor, chosen: Tensor, size: int
) -> Tensors:
    """The sum of g_i over the chosen samples, for each trained tensor.

    Args:
        state, layer, x, d, size: as for `inner_products`.
        chosen: indices of samples.
    """
    each = x.shape[0] // size
    rows = (chosen[:, None].to(x.device) * each + torch.arange(each, device=x.device)).flatten()
    own = {n: p.detach().requires_grad_() for n, p in trained(state).items()}
    with torch.enable_grad(), torch.autocast(d.device.type, enabled=False):
        x, d = _wide(state, x[rows], d[rows])
        f = _parts(state, layer, own)
        if len(f) == 3:
            y = state.geo.channels(f[2], d) * _before_gain(state, layer, x, f, d)
        else:
            y = state.geo.lowrank(x, f[0], f[1], d)
        grads = torch.autograd.grad(y, list(own.values()), d, materialize_grads=True)
    return dict(zip(own, grads, strict=True))


def _wide(state: MethodState, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """x and d in the precision that the graft is kept in; d without what the layer's own gradient leaves out."""
    wide = next(iter(trained(state).values())).dtype
    if isinstance(state.geo, Embedding) and state.geo.padding_idx is not None:
        d = d * (x != state.geo.padding_idx).unsqueeze(-1)
    return (x.to(wide) if x.is_floating_point() else x), d.to(wide)


def _factors(state: MethodState, p: Tensors) -> Factors | None:
    f = state.method.factors(state.geo, p, True)
    if f is not None:
        return f
    said = state.method.dropped_factors(state.geo, p)
    return None if said is None else said[0]


def _parts(state: MethodState, layer: nn.Module, own: Tensors) -> list[Tensor]:
    """s a, b and, where the method has one, the gain, as functions of the trained tensors."""
    f = _factors(state, {**state.params(), **own})
    assert f is not None
    parts = [f.scale * f.a, f.b]
    if f.magnitude is None:
        return parts
    assert isinstance(state.geo, Linear)
    norm = state.geo.changed_norms(state.base(layer)[0].detach(), f.a, f.b, f.scale)
    empty = norm == 0
    return [*parts, f.magnitude / norm.masked_fill(empty, torch.inf) + empty]


def _before_gain(
    state: MethodState, layer: nn.Module, x: Tensor, f: list[Tensor], like: Tensor
) -> Tensor:
    """What a gain multiplies: the frozen layer without its bias, and the branch."""
    weight = state.base(layer)[0].detach().to(x.dtype)
    return state.geo.run(x, weight, None, like) + state.geo.lowrank(x, f[0], f[1], like)


def _along(
    state: MethodState, layer: nn.Module, own: Tensors, v: Mapping[str, Tensor]
) -> list[Tensor]:
    """The derivative of `_parts` along v: J v as the gradient, by u, of <J^T u, v>; of the factors' size."""
    f = _factors(state, {**state.params(), **own})
    names = {id(t): n for n, t in own.items()}
    if f is not None and f.magnitude is None and id(f.a) in names and id(f.b) in names:
        # the factors are the trained tensors themselves, so the derivative is v
        a, b = (v[names[id(t)]].to(t.dtype) for t in (f.a, f.b))
        return [f.scale * a, b]
    with torch.enable_grad():
        own = {n: t.detach().requires_grad_() for n, t in own.items()}
        parts = [t.clone() for t in _parts(state, layer, own)]
        u = [torch.zeros_like(t).requires_grad_() for t in parts]
        back = torch.autograd.grad(
            parts, list(own.values()), u, create_graph=True, materialize_grads=True
        )
        total = sum((g * v[n].to(g.dtype)).sum() for n, g in zip(own, back, strict=True))
        assert isinstance(total, Tensor)
        return list(torch.autograd.grad(total, u, materialize_grads=True))
