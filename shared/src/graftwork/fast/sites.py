"""Which calls of a grafted layer the fast forms serve, and with what.

A method gets them by saying what its factors or its blocks are (`Method.factors`, `Method.diagonal`); everything else
stays as it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.fast.blocks import block_linear
from graftwork.fast.linear import Branch, lowrank_linear
from graftwork.fast.serving import Serving
from graftwork.fast.siblings import Family, apart, plain, watch

if TYPE_CHECKING:
    from graftwork.states import MethodState

KINDS = ("linear", "transposed_linear")
Base = Callable[..., Any]


class Fast:
    """What a state at a linear layer keeps for its fast form: its layer, and who else reads the same input."""

    def __init__(self) -> None:
        self.family = Family()
        self.layer: weakref.ref[nn.Module] | None = None
        self.serves: Serving | None = None  # while the model serves

    def __deepcopy__(self, memo: Any) -> Fast:
        return Fast()

    def __reduce__(self) -> Any:
        return Fast, ()

    def call(self, state: MethodState, layer: nn.Module, base: Base, x: Tensor) -> Tensor | None:
        """The layer's output, or `None` where the plain form must do it."""
        if torch.compiler.is_compiling():  # the plain form traces, and the compiler fuses it
            return None
        family = self.family
        if family.waiting:
            ready = family.take(state, x)
            if ready is not None:  # whoever computed it has looked at all that follows
                return ready
        if not plain(x):
            return None
        if self.serves is not None:
            few = self.serves.answer(state, layer, x)
            if few is not None:
                return few
        own = branch(state, layer, x)
        if own is None:
            return _blocks(state, layer, x)
        if family.alone or apart(x):
            return lowrank_linear(x, (own,))[0]
        if self.layer is None or self.layer() is not layer:
            self.layer = weakref.ref(layer)
        self.family = family = watch(x, state, family)
        others = self._siblings(state, x) if family.led_by(state) else None
        if not others:
            return lowrank_linear(x, (own,))[0]
        first, *rest = lowrank_linear(x, [own, *(c for _, c in others)])
        family.keep(x, {id(s): y for (s, _), y in zip(others, rest, strict=True)})
        return first

    def _siblings(self, state: MethodState, x: Tensor) -> list[tuple[MethodState, Branch]]:
        found = []
        for ref in self.family.members:
            other = ref()
            if other is None or other is state:
                continue
            layer = other.fast.layer and other.fast.layer()
            if layer is None or not _acts_alone(other, layer):
                continue
            c = branch(other, layer, x)
            if c is not None:
                found.append((other, c))
        return found


def _acts_alone(state: MethodState, layer: nn.Module) -> bool:
    """Whether this state is all that acts on its layer right now, so that its call would come here too."""
    site: Any = layer._modules.get("_graft")
    return site is not None and not site.open and site.sole() is state


def branch(state: MethodState, layer: nn.Module, x: Tensor) -> Branch | None:
    """The layer and its branch as the fast form takes them, or `None` where it cannot."""
    factors = state.method.factors(state.geo, _tensors(state), state.training)
    if factors is None or not _served(state, layer, x):
        return None
    weight = layer._parameters[state.weight_name]
    bias = layer._parameters.get(state.bias_name)
    assert weight is not None
    matrix = weight if state.geo.kind == "linear" else weight.t()
    gain = None if factors.gain is None else factors.gain(weight)
    return Branch(layer, matrix, bias, factors.a, factors.b, factors.scale, gain)


def _blocks(state: MethodState, layer: nn.Module, x: Tensor) -> Tensor | None:
    """The output of a layer whose change is diagonal blocks that tile its matrix, or `None`."""
    d = state.method.diagonal(state.geo, _tensors(state), state.training)
    if d is None or not _served(state, layer, x):
        return None
    d = d.squeeze(0)
    n, rows, cols = d.shape
    if (n * rows, n * cols) != (state.geo.out, state.geo.in_):
        return None
    weight = layer._parameters[state.weight_name]
    assert weight is not None
    return block_linear(x, layer, weight if state.geo.kind == "linear" else weight.t(), d)


def _tensors(state: MethodState) -> Any:
    own = state._parameters  # a parametrised tensor is not among them
    return own if len(own) == len(state.names) else state.params()


def _served(state: MethodState, layer: nn.Module, x: Tensor) -> bool:
    """Whether the layer's tensors are frozen and fit x."""
    weight = layer._parameters.get(state.weight_name)
    bias = layer._parameters.get(state.bias_name)
    return (
        weight is not None
        and _frozen(weight, x)
        and (bias is None or _frozen(bias, x))
        and x.shape[-1:] == (state.geo.in_,)
    )


def _frozen(t: Tensor, x: Tensor) -> bool:
    return (
        (type(t) is nn.Parameter or type(t) is Tensor)
        and not t.requires_grad
        and t.dtype is x.dtype
        and t.device == x.device
    )
