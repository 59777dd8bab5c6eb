"""Few rows at a time from an unmerged graft, as in decoding: what does not change is made once.

    y_i = x W_i^T + (x [A_1; ..]^T) Z^T,    Z = [s_1 B_1 0 ..; 0 s_2 B_2 ..],    i = 1 .. n (q, k and v; one alone)

With one token the time of a layer is the time to issue its operations and to read W, so their number counts: casts and
stacked factors are kept, and two products serve all layers that read the same input. On a GPU the first of them is the
frozen layers' too (`folded`), so that q, k and v take two operations where the base takes three. s B is rounded once to
the layer's dtype, where training rounds B and scales in float32.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.fast.folded import Folds
from graftwork.fast.siblings import apart, plain

if TYPE_CHECKING:
    from graftwork.states import MethodState

#: rows up to which this form serves; more of them are bound by arithmetic
ROWS = 16


class Member(NamedTuple):
    """One layer with its state and its factors: A (r, in), s B (out, r)."""

    state: MethodState
    layer: Any
    a: Tensor
    b: Tensor

    @property
    def weight(self) -> Tensor:
        """W as it is stored."""
        weight: Tensor = self.layer._parameters[self.state.weight_name]
        return weight


class Ready:
    """What is kept of layers that read the same input: stacked factors in the layers' dtype.

    Args:
        members: the layers; the first one's call computes for all.
        dtype: of the input.
        folds: of the block.
    """

    def __init__(self, members: Sequence[Member], dtype: torch.dtype, folds: Folds) -> None:
        self.members = members
        weights = [m.weight for m in members]
        self.places = [
            (m.state, m.state.training, m.layer._parameters, m.state.weight_name, w)
            for m, w in zip(members, weights, strict=True)
        ]
        self.watched = [
            t for m, w in zip(members, weights, strict=True) for t in (*_values(m.state), w)
        ]
        self.versions = [t._version for t in self.watched]
        self.dtype, self.device = dtype, weights[0].device
        self.widths = [m.b.shape[0] for m in members]
        a = torch.cat([m.a for m in members]).to(dtype)
        up = [m.b.to(dtype).t() for m in members]
        self.up = up[0].contiguous() if len(up) == 1 else torch.block_diag(*up)
        plain = all(m.state.geo.kind == "linear" for m in members)
        self.fold = folds.fold(weights, a.shape[0]) if plain else None
        if self.fold is None:
            self.a = a.t()
            return
        self.fold.put(a, self)
        room = self.fold.room
        self.matrix_t, self.sides = self.fold.matrix_t, [self.fold.total, room]
        self.up = torch.nn.functional.pad(self.up, (0, 0, 0, room - a.shape[0]))
        biases = [m.layer._parameters.get(m.state.bias_name) for m in members]
        self.bias = None
        if any(b is not None for b in biases):
            none = [a.new_zeros(n) for n in (*self.widths, room)]
            self.bias = torch.cat(
                [n if b is None else b for n, b in zip(none, (*biases, None), strict=True)]
            )
            self.watched += [b for b in biases if b is not None]
            self.versions = [t._version for t in self.watched]

    def holds(self, x: Tensor) -> bool:
        """Whether nothing was written or replaced since, and x is of the kept kind."""
        if x.dtype is not self.dtype or x.device != self.device:
            return False
        if self.fold is not None and self.fold.owner is not self:
            return False
        if [t._version for t in self.watched] != self.versions:
            return False
        for state, training, parameters, name, weight in self.places:
            if state.training is not training or parameters[name] is not weight:
                return False
        return True

    def outputs(self, x: Tensor) -> Sequence[Tensor]:
        """Every member's output for x (..., in), in order; they may lie side by side in one tensor."""
        shape = x.shape[:-1]
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        if self.fold is not None:
            side = rows.mm(self.matrix_t) if self.bias is None else self._with_bias(rows)
            y, p = side.split_with_sizes(self.sides, 1)
            y.addmm_(p, self.up)
            if x.dim() != 2:
                y = y.view(*shape, -1)
            return (y,) if len(self.widths) == 1 else y.split_with_sizes(self.widths, -1)
        z = rows.mm(self.a).mm(self.up)
        parts = (z,) if len(self.widths) == 1 else z.split_with_sizes(self.widths, 1)
        out = []
        for m, part in zip(self.members, parts, strict=True):
            y = m.layer._base_class.forward(m.layer, rows).add_(part)
            out.append(y.view(*shape, -1))
        return out

    def _with_bias(self, rows: Tensor) -> Tensor:
        assert self.bias is not None
        return torch.addmm(self.bias, rows, self.matrix_t)


class Serving:
    """What one state keeps while its model serves.

    Args:
        folds: of the block.
    """

    def __init__(self, folds: Folds) -> None:
        self.ready: Ready | None = None
        self.folds = folds

    def answer(self, state: MethodState, layer: nn.Module, x: Tensor) -> Tensor | None:
        """The layer's output, or `None`; later calls of the sites come to `few` and `take` directly."""
        fast: Any = state.fast
        family = fast.family
        if torch.is_grad_enabled():
            self.ready = None  # a fused optimizer writes without a trace, after such a call
            return None
        if x.numel() > ROWS * x.shape[-1] or not (family.members or family.alone):
            return None  # who reads the same input is found out by the form for many rows
        led = not apart(x) and family.led_by(state)
        kept = self.ready
        if kept is None or not kept.holds(x) or (len(kept.members) > 1 and not led):
            own = _member(state, layer, x)
            if own is None:
                return None
            others = _others(state, x) if led else []
            kept = self.ready = Ready([own, *others], x.dtype, self.folds)
        for m in kept.members:
            call = functools.partial(m.state.fast.family.take, m.state)  # type: ignore[union-attr]
            m.layer._modules["_graft"].few = call
        site: Any = layer._modules["_graft"]
        site.few = functools.partial(self.few, state)
        return self.few(state, x)

    def few(self, state: MethodState, x: Tensor) -> Tensor | None:
        """The output for a few rows; those of the family's others wait for their calls."""
        kept = self.ready
        if kept is None or torch.is_grad_enabled():
            self.ready = None
            return None
        if not plain(x) or x.numel() > ROWS * x.shape[-1] or not kept.holds(x):
            return None
        if len(kept.members) == 1:
            return kept.outputs(x)[0]
        family = state.fast.family  # type: ignore[union-attr]
        if apart(x) or not family.led_by(state):
            return None
        first, *rest = kept.outputs(x)
        family.keep(x, {id(m.state): y for m, y in zip(kept.members[1:], rest, strict=True)})
        return first


def _member(state: MethodState, layer: Any, x: Tensor) -> Member | None:
    """A layer whose change is B A and nothing more, frozen and of x's kind, or `None`."""
    weight = layer._parameters.get(state.weight_name)
    bias = layer._parameters.get(state.bias_name)
    if any(t is not None and (t.dtype is not x.dtype or t.requires_grad) for t in (weight, bias)):
        return None
    if weight is None or x.shape[-1] != state.geo.in_:
        return None
    factors = state.method.factors(state.geo, state.params(), state.training)
    if factors is None or any(more is not None for more in factors[3:]):
        return None
    return Member(state, layer, factors.a.detach(), factors.scale * factors.b.detach())


def _others(state: MethodState, x: Tensor) -> list[Member]:
    """The other layers that read the same input, where nothing else acts on them."""
    found = []
    for ref in state.fast.family.members:  # type: ignore[union-attr]
        other = ref()
        layer = None if other is None or other is state else other.fast.layer and other.fast.layer()
        site = None if layer is None else layer._modules.get("_graft")
        if site is not None and not site.open and site.sole() is other:
            member = _member(other, layer, x)
            if member is not None:
                found.append(member)
    return found


def _values(state: MethodState) -> list[Tensor]:
    return [t for t in (*state._parameters.values(), *state._buffers.values()) if t is not None]


@contextlib.contextmanager
def serving(model: nn.Module) -> Iterator[nn.Module]:
    """Serve an unmerged graft with few tokens at a time: inside the block no factor changes.

    What the grafts' linear layers need for a few rows (stacked factors in the layer's dtype) is made at the first call
    without gradients and kept, where the change is low-rank and nothing more (not DoRA's); prompts, training and all
    else run as outside. On a GPU the frozen weights of layers that read the same input move into one memory, each
    parameter a view of it, and back at the end: nothing else may rely on where they lie meanwhile.

    `activate` switches between grafts as usual. Factors that are written all the same are noticed where torch counts
    the write (`load_tensors`) and after a call with gradients; writes through `.data` are not, so end the block first.

        with torch.no_grad(), gw.serving(model):
            model.generate(**inputs)

    Raises:
        GraftError: inside another such block of the same model.
    """
    from graftwork.fast.sites import Fast

    found = [f for m in model.modules() if isinstance(f := getattr(m, "fast", None), Fast)]
    if any(fast.serves is not None for fast in found):
        raise GraftError("serving: the model is inside another such block; leave that one first")
    folds = Folds()
    for fast in found:
        fast.serves = Serving(folds)
    try:
        yield model
    finally:
        for fast in found:
            fast.serves = None
        for module in model.modules():
            site = module._modules.get("_graft")
            if site is not None:
                site.few = None  # type: ignore[assignment]
        folds.undo()
