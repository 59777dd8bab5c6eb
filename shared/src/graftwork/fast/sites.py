"""Which calls of a grafted layer the fast forms serve, and with what.

A method gets them by saying what its factors are (`Method.factors`); everything else stays as it is.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from graftwork.fast.linear import Branch, lowrank_linear
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

    def __deepcopy__(self, memo: Any) -> Fast:
        return Fast()

    def __reduce__(self) -> Any:
        return Fast, ()

    def call(self, state: MethodState, layer: nn.Module, base: Base, x: Tensor) -> Tensor | None:
        """The layer's output, or `None` where the plain form must do it."""
        ready = self.family.take(state, x)
        if ready is not None:  # whoever computed it has looked at all that follows
            return ready
        if not plain(x):
            return None
        own = branch(state, layer, base, x)
        if own is None:
            return None
        if self.family.alone or apart(x):
            return lowrank_linear(x, [own])[0]
        self.layer = weakref.ref(layer)
        self.family = watch(x, state, self.family)
        others = self._siblings(state, x) if self.family.led_by(state) else []
        first, *rest = lowrank_linear(x, [own, *(c for _, c in others)])
        if others:
            self.family.keep(x, {id(s): y for (s, _), y in zip(others, rest, strict=True)})
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
            c = branch(other, layer, functools.partial(layer._base_class.forward, layer), x)
            if c is not None:
                found.append((other, c))
        return found


def _acts_alone(state: MethodState, layer: nn.Module) -> bool:
    """Whether this state is all that acts on its layer right now, so that its call would come here too."""
    site: Any = layer._modules.get("_graft")
    if site is None or len(site.active) != 1 or site.open:
        return False
    name, weight = site.active[0]
    return weight == 1.0 and site.state(name) is state


def branch(state: MethodState, layer: nn.Module, base: Base, x: Tensor) -> Branch | None:
    """The layer and its branch as the fast form takes them, or `None` where it cannot."""
    weight, bias = state.base(layer)
    for t in (weight, bias):
        if t is not None and (
            type(t) not in (Tensor, nn.Parameter)
            or t.requires_grad
            or t.dtype != x.dtype
            or t.device != x.device
        ):
            return None
    factors = state.method.factors(state.geo, state.params(), state.training)
    if factors is None or x.shape[-1:] != (state.geo.in_,):
        return None
    matrix = weight if state.geo.kind == "linear" else weight.t()
    return Branch(base, matrix, bias, factors.a, factors.b, factors.scale)
