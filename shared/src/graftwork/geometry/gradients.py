"""What a task's gradients span, layer by layer.

G = dL/dW is taken on the layer's own frozen weight, at which a graft's branch leaves it: G is the gradient of
W0 + B A whatever B and A are, and is not to be had from their own gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graftwork.algebra.geometry import Geometry
from graftwork.algebra.recognise import recognise
from graftwork.errors import GraftError
from graftwork.geometry.angles import Subspace, span
from graftwork.sites import Pattern, check_patterns, matches, no_match, own_modules


@dataclass
class _Seen:
    """Sums over the batches of one layer."""

    second: Tensor
    first: Tensor


def gradient_subspaces(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    sites: Iterable[Pattern] | Pattern = "*",
    *,
    side: Literal["input", "output"] = "input",
    k: int | None = None,
    share: float = 0.9,
    cap: int = 16,
    centre: bool = False,
) -> dict[str, Subspace]:
    """The leading subspace of a task's weight gradients, for each layer.

    The model runs in eval mode; its modes, its `requires_grad` flags and its gradients are as before
    afterwards. Memory: one weight gradient and one `(n, n)` sum in float64 a layer; float32 sums would
    report dimensions that are rounding.

    Args:
        model: grafted or not, at the weights of interest.
        batches: of the task; 8 k or more make k steady.
        loss: of the model on a batch, a scalar.
        sites: which layers, as `graft` takes them. Embeddings are left out: their n is the vocabulary.
        side: "input" takes G^T G (right singular vectors, n = in), "output" G G^T (n = out).
        k, share, cap: how many dimensions; see `span`.
        centre: take the mean gradient out first, so that one shared direction does not hide the rest.

    Returns:
        Layer name to subspace, in the model's order.

    Raises:
        GraftError: a pattern without a layer, no batches, a layer without gradient, k above what is spanned.
    """
    layers = _layers(model, sites)
    seen: dict[str, _Seen] = {}
    count = 0
    with _differentiable(model, [layer for layer, _ in layers.values()]):
        for batch in batches:
            with torch.enable_grad():
                value = loss(model, batch)
                weights = [layer.get_parameter("weight") for layer, _ in layers.values()]
                found = torch.autograd.grad(value, weights, allow_unused=True)
            for (name, (_, geo)), g in zip(layers.items(), found, strict=True):
                if g is None:
                    raise GraftError(
                        f"gradient_subspaces: {name or 'the model'}: no gradient reached it"
                    )
                _add(seen, name, geo.rows(g.detach()).double(), side)
            count += 1
    if count == 0:
        raise GraftError("gradient_subspaces: there are no batches; a loader can be used only once")
    out = {}
    for name, sums in seen.items():
        second = sums.second
        if centre:
            mean = sums.first
            second = second - mean.mT @ mean / count
        try:
            out[name] = span(second, k, share, cap)
        except GraftError as error:
            raise GraftError(f"{name or 'the model'}: {error}") from None
    return out


def _add(seen: dict[str, _Seen], name: str, g: Tensor, side: str) -> None:
    g = g if side == "input" else g.mT
    if name not in seen:
        seen[name] = _Seen(g.new_zeros(g.shape[1], g.shape[1]), torch.zeros_like(g))
    seen[name].second.addmm_(g.mT, g)
    seen[name].first.add_(g)


def _layers(
    model: nn.Module, sites: Iterable[Pattern] | Pattern
) -> dict[str, tuple[nn.Module, Geometry]]:
    known = {}
    for name, module in own_modules(model):
        geo = recognise(module)
        if isinstance(geo, Geometry) and geo.kind not in ("norm", "embedding"):
            known[name] = (module, geo)
    out: dict[str, tuple[nn.Module, Geometry]] = {}
    for pattern in check_patterns(sites, "sites"):
        hits = {n: v for n, v in known.items() if matches(pattern, n, v[0])}
        if not hits:
            raise no_match(pattern, known, "sites")
        out.update(hits)
    return {name: out[name] for name in known if name in out}


@contextmanager
def _differentiable(model: nn.Module, layers: list[nn.Module]) -> Iterator[None]:
    """Eval mode, and these layers' weights differentiable; everything as before at the end."""
    modes = [(module, module.training) for module in model.modules()]
    weights = [layer.get_parameter("weight") for layer in layers]
    flags = [w.requires_grad for w in weights]
    try:
        model.eval()
        for w in weights:
            w.requires_grad_(True)
        yield
    finally:
        for w, flag in zip(weights, flags, strict=True):
            w.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
