"""The methods' equations once more, by hand: dense tensors in the layers' stored layouts.

Nothing here uses Graftwork's algebra. A weight is changed entry by entry, group by group, in the layout torch
stores, and the layer's own class computes the output. Each reference is differentiable, so that
autograd through the dense layer is the oracle of the gradients too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Tensors = dict[str, Tensor]
Forward = Callable[..., Tensor]


@dataclass
class ByHand:
    """What a method makes of a layer.

    Attributes:
        forward: the grafted layer's output for an input.
        energy: for each output, the sum of the squares of the terms that the method adds up. Where they
            cancel, every arithmetic that rounds them loses digits; see `method_checks.cancels`.
        tensors: the layer's changed tensors by name; `None` where the method changes no tensor.
        margin: the least distance between a share that a gate compares and what it is compared with. Where
            rounding alone decides, a whole vector or expert comes or goes; see `method_checks.close_call`.
    """

    forward: Forward
    energy: Forward
    tensors: Tensors | None = None
    margin: Callable[[Tensor], Tensor] | None = None


def top_margin(odds: Tensor, kept: int) -> Tensor:
    """How far the `kept`-th largest of the odds is from the next one; inf where all are kept."""
    if kept >= odds.shape[-1]:
        return torch.tensor(torch.inf)
    largest = odds.sort(-1, descending=True).values
    return (largest[..., kept - 1] - largest[..., kept]).min()


REFERENCES: dict[str, Callable[[Any, nn.Module, Tensors], ByHand]] = {}


def by_hand(method_id: str) -> Callable[[Any], Any]:
    """Register the reference of a method."""

    def register(function: Any) -> Any:
        REFERENCES[method_id] = function
        return function

    return register


def dense(layer: nn.Module, tensors: Tensors) -> ByHand:
    """The layer with some of its tensors replaced."""
    if "bias" in tensors and layer._parameters.get("bias") is None:
        layer = copy.deepcopy(layer)
        layer.bias = nn.Parameter(torch.zeros_like(tensors["bias"]))

    def forward(x: Tensor, **call: Any) -> Tensor:
        return functional_call(layer, tensors, (x,), call)

    def energy(x: Tensor, **call: Any) -> Tensor:
        base = layer(x, **call)
        return base.pow(2) + (forward(x, **call) - base).pow(2)

    return ByHand(forward, energy, tensors)


# -- layouts ------------------------------------------------------------------------------------------


def is_transposed_conv(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.conv._ConvTransposeNd)


def stores_input_first(layer: nn.Module) -> bool:
    """transformers' Conv1D `(in, out)` and Embedding `(tokens, features)`."""
    return type(layer).__name__ in ("Conv1D", "Embedding")


def groups_of(layer: nn.Module) -> int:
    return getattr(layer, "groups", 1)


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Output and input channels of one group."""
    w = layer.weight
    if is_transposed_conv(layer):
        return w.shape[1], w.shape[0] // groups_of(layer)
    if stores_input_first(layer):
        return w.shape[1], w.shape[0]
    return w.shape[0] // groups_of(layer), w.shape[1]


def place(layer: nn.Module, group: int, out: Any, in_: Any) -> tuple[Any, ...]:
    """Index of outputs `out` and inputs `in_` of a group (slices or numbers) in the stored weight."""
    o, i = sizes(layer)
    if is_transposed_conv(layer):
        return _shift(in_, group * i, i), out
    if stores_input_first(layer):
        return in_, out
    return _shift(out, group * o, o), in_


def _shift(index: Any, by: int, size: int) -> Any:
    if isinstance(index, slice):
        start, stop, _ = index.indices(size)
        return slice(start + by, stop + by)
    return index + by


def in_layout(layer: nn.Module, out_by_in: Tensor) -> Tensor:
    """A `(out, in, *kernel)` piece in the axis order of the stored weight."""
    flip = is_transposed_conv(layer) or stores_input_first(layer)
    return out_by_in.transpose(0, 1) if flip else out_by_in


def output_channels(layer: nn.Module) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(channel, index of its weights) for every output channel of all groups."""
    o, _ = sizes(layer)
    for group in range(groups_of(layer)):
        for q in range(o):
            yield group * o + q, place(layer, group, q, slice(None))


def input_channels(layer: nn.Module) -> Iterator[tuple[int, tuple[Any, ...]]]:
    _, i = sizes(layer)
    for group in range(groups_of(layer)):
        for c in range(i):
            yield group * i + c, place(layer, group, slice(None), c)


# -- the equations ------------------------------------------------------------------------------------


def factors(layer: nn.Module, a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(group, its rows of A, its rows of B as a matrix); A is shared where the groups do not divide r."""
    o, _ = sizes(layer)
    groups, rank = groups_of(layer), a.shape[0]
    for j in range(groups):
        mine = b[j * o : (j + 1) * o].reshape(o, -1)
        width = mine.shape[1]
        assert width == (rank // groups if rank % groups == 0 else rank)
        yield j, a if width == rank else a[j * width : (j + 1) * width], mine


def low_rank(layer: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """B A in the stored layout."""
    delta = torch.zeros_like(layer.weight)
    for j, rows, mix in factors(layer, a, b):
        everything = place(layer, j, slice(None), slice(None))
        delta[everything] = in_layout(layer, torch.tensordot(mix, rows, 1))
    return delta


def branch(
    layer: nn.Module, a: Tensor, b: Tensor, act: Callable[[Tensor], Tensor], x: Tensor, call: Any
) -> Tensor:
    """`b act(a x)`, each group on its own with an ungrouped layer of the same class in the place of `a`.

    `act` maps hidden channels `(c, ...)` on axis `-1 - spatial`.
    """
    if stores_input_first(layer) and isinstance(layer, nn.Embedding):
        return act(a.T[x.long()]) @ b.T
    if not isinstance(layer, nn.modules.conv._ConvNd):
        return act(x @ a.T) @ b.T
    _, i = sizes(layer)
    n = layer.weight.dim() - 2
    axis = x.dim() - 1 - n
    hidden, mixes = [], []
    for j, rows, mix in factors(layer, a, b):
        weight = {"weight": in_layout(layer, rows)}
        down = _ungrouped(layer, i, rows.shape[0])
        hidden.append(functional_call(down, weight, (x.narrow(axis, j * i, i),), call))
        mixes.append(mix)
    after = act(torch.cat(hidden, axis)).chunk(len(mixes), axis)
    parts = [torch.tensordot(m, h, ([1], [axis])) for m, h in zip(mixes, after, strict=True)]
    return torch.cat([torch.movedim(part, 0, axis) for part in parts], axis)


def _ungrouped(layer: Any, in_: int, out: int) -> nn.Module:
    extra: dict[str, Any] = {}
    if is_transposed_conv(layer):
        extra["output_padding"] = layer.output_padding
    else:
        extra["padding_mode"] = layer.padding_mode
    made = type(layer)(
        in_,
        out,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        bias=False,
        **extra,
    )
    return made.double()


def broadcast(layer: nn.Module, vector: Tensor) -> Tensor:
    """A vector of output channels against the layer's output."""
    spatial = layer.weight.dim() - 2 if isinstance(layer, nn.modules.conv._ConvNd) else 0
    return vector.reshape(-1, *[1] * spatial)


def lora_scale(method: Any) -> float:
    alpha = method.rank if method.alpha is None else method.alpha
    if method.clients is not None:
        return alpha * math.sqrt(method.clients) / math.sqrt(method.rank)
    return alpha / math.sqrt(method.rank) if method.rslora else alpha / method.rank


@by_hand("lora")
def lora(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    s = lora_scale(method)
    made = dense(layer, {"weight": layer.weight + s * low_rank(layer, p["A"], p["B"])})

    def energy(x: Tensor, **call: Any) -> Tensor:
        terms = branch(layer, p["A"], p["B"] ** 2, torch.square, x, call)
        return layer(x, **call).pow(2) + s**2 * terms

    made.energy = energy
    return made


@by_hand("pissa")
@by_hand("milora")
def residual(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    s = lora_scale(method)
    a, b, a0, b0 = (p[k] for k in ("A", "B", "A0", "B0"))
    change = low_rank(layer, a, b) - low_rank(layer, a0, b0)
    made = dense(layer, {"weight": layer.weight + s * change})

    def energy(x: Tensor, **call: Any) -> Tensor:
        # (B - B0) A + B0 (A - A0)
        pairs = ((a, b - b0), (a - a0, b0))
        terms = [branch(layer, down, up**2, torch.square, x, call) for down, up in pairs]
        return layer(x, **call).pow(2) + s**2 * (terms[0] + terms[1])

    made.energy = energy
    return made


@by_hand("goat")
def goat(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    count, each = method.experts, method.rank // method.experts
    _, n = sizes(layer)
    s = math.sqrt(3 * method.eta * n / each) if method.alpha is None else method.alpha / each
    zero = method.init == "zero"
    a0, b0 = (torch.zeros_like(p[k]) if zero else p[f"{k}0"] for k in ("A", "B"))

    def odds_of(x: Tensor) -> Tensor:
        return torch.softmax(x @ p["router"].T, -1)

    def gates(x: Tensor) -> Tensor:
        if count == 1:
            return torch.ones(*x.shape[:-1], 1, dtype=x.dtype)
        odds = odds_of(x)
        least = odds.sort(-1, descending=True).values[..., method.top_k - 1 : method.top_k]
        kept = torch.where(odds >= least, odds, 0)
        return kept / kept.sum(-1, keepdim=True)

    def experts(x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """(w, w of its own start, A, B, A0, B0) of each expert."""
        gate = gates(x)
        for i in range(count):
            rows, w = slice(i * each, (i + 1) * each), gate[..., i : i + 1]
            past = w if method.exact_start or zero else torch.full_like(w, 1 / count)
            yield w, past, p["A"][rows], p["B"][:, rows], a0[rows], b0[:, rows]

    def forward(x: Tensor, **call: Any) -> Tensor:
        y = layer(x)
        for w, past, down, up, down0, up0 in experts(x):
            y = y + s * (w * (x @ (up @ down).T) - past * (x @ (up0 @ down0).T))
        return y

    def energy(x: Tensor, **call: Any) -> Tensor:
        # w (B - B0) A + w B0 (A - A0) + (w - past) B0 A0
        total = layer(x).pow(2)
        for w, past, down, up, down0, up0 in experts(x):
            for share, a, b in (
                (w, down, up - up0),
                (w, down - down0, up0),
                (w - past, down0, up0),
            ):
                total = total + (s * share) ** 2 * ((x @ a.T) ** 2 @ (b**2).T)
        return total

    if count == 1:
        return ByHand(forward, energy)
    return ByHand(forward, energy, margin=lambda x: top_margin(odds_of(x), method.top_k))


@by_hand("dora")
def dora(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    s = lora_scale(method)
    moved = layer.weight + s * low_rank(layer, p["A"], p["B"])
    new = moved.clone()
    ratio = torch.ones_like(p["magnitude"])
    for channel, index in output_channels(layer):
        norm = moved[index].detach().pow(2).sum().sqrt()
        if norm > 0:
            new[index] = p["magnitude"][channel] / norm * moved[index]
            ratio[channel] = p["magnitude"][channel].detach() / norm
    made = dense(layer, {"weight": new})
    scale = broadcast(layer, ratio)
    old = getattr(layer, "bias", None)
    bias = broadcast(layer, torch.zeros_like(ratio) if old is None else old)

    def energy(x: Tensor, **call: Any) -> Tensor:
        base = (scale * layer(x, **call)).pow(2) + ((scale - 1) * bias) ** 2  # y + (g - 1)(y - b)
        terms = branch(layer, p["A"], p["B"] ** 2, torch.square, x, call)
        return base + scale**2 * s**2 * terms

    made.energy = energy
    return made


@by_hand("diablo")
def diablo(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    o, i = sizes(layer)
    d = p["D"]
    rows, cols = d.shape[2], d.shape[3]
    n = min(method.blocks, o, i)
    assert (rows, cols) == (math.ceil(o / n), math.ceil(i / n))
    weight = layer.weight.clone()
    for j in range(groups_of(layer)):
        for k in range(d.shape[1]):
            out = slice(k * rows, min(o, (k + 1) * rows))
            in_ = slice(k * cols, min(i, (k + 1) * cols))
            piece = d[j, k, : out.stop - out.start, : in_.stop - in_.start]
            index = place(layer, j, out, in_)
            weight[index] = weight[index] + in_layout(layer, piece)
    return dense(layer, {"weight": weight})


@by_hand("ia3")
def ia3(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    weight = layer.weight.clone()
    channels = output_channels if method.scale == "output" else input_channels
    for c, index in channels(layer):
        weight[index] = p["scale"][c] * layer.weight[index]
    new = {"weight": weight}
    if method.scale == "output" and getattr(layer, "bias", None) is not None:
        new["bias"] = p["scale"] * layer.bias
    return dense(layer, new)  # its energy is that of y + (l - 1) y, which cancels where l is small


@by_hand("bitfit")
def bitfit(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    bias = getattr(layer, "bias", None)
    return dense(layer, {"bias": p["bias"] if bias is None else bias + p["bias"]})


@by_hand("norm_affine")
def norm_affine(method: Any, layer: nn.Module, p: Tensors) -> ByHand:
    return dense(layer, {name.removeprefix("module."): t for name, t in p.items()})
