"""Which calls of a grafted layer the fast forms serve, and with what.

A method gets them by saying what its factors or its blocks are (`Method.factors`, `Method.diagonal`); everything else
stays as it is.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.fast.blocks import Blocks, block_linear
from graftwork.fast.linear import Branch, lowrank_linear, one_linear
from graftwork.fast.serving import Serving
from graftwork.fast.siblings import Family, apart, plain, watch
from graftwork.fast.stored import Added, added
from graftwork.fast.twins import Pool, Twin, alone, tape

if TYPE_CHECKING:
    from graftwork.states import MethodState

KINDS = ("linear", "transposed_linear")
#: calls after which a layer that nobody shared an input with is no longer watched
LONELY = 3
Base = Callable[..., Any]
Form = Branch | Blocks | Added


class Fast:
    """What a state at a linear layer keeps for its fast form: its layer, and who else reads the same input.

    Args:
        pool: the graft's, which makes the copies of its factors; `None`: one of its own.
    """

    def __init__(self, pool: Pool | None = None) -> None:
        self.pool = Pool() if pool is None else pool
        self.family = Family()
        self.layer: weakref.ref[nn.Module] | None = None
        self._kept: Kept | None = None
        self._watched = 0
        self.serves: Serving | None = None  # while the model serves

    def __deepcopy__(self, memo: Any) -> Fast:
        return Fast(copy.deepcopy(self.pool, memo))

    def __reduce__(self) -> Any:
        return Fast, (self.pool,)

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
        own = self.form(state, layer, x)
        if own is None:
            return None
        if type(own) is Added:
            return added(x, base(x), own)
        if (self._watched >= LONELY and len(family.members) == 1) or family.alone or apart(x):
            return one_linear(x, own) if type(own) is Branch else _outputs(x, (own,))[0]
        self._watched += 1
        self.family = family = watch(x, state, family)
        others = self._siblings(state, x, type(own)) if family.led_by(state) else None
        if not others:
            return _outputs(x, (own,))[0]
        first, *rest = _outputs(x, [own, *(c for _, c in others)])
        family.keep(x, {id(s): y for (s, _), y in zip(others, rest, strict=True)})
        return first

    def form(self, state: MethodState, layer: nn.Module, x: Tensor) -> Form | None:
        """The layer and its change as a fast form takes them, ready for one call; `None` where none can."""
        kept = self._kept
        if kept is None or not kept.serves(state, layer, x):
            self._kept = None
            if self.layer is None or self.layer() is not layer:
                self.layer = weakref.ref(layer)
            kept = _read(state, layer, self.layer, x)
            if kept is None:
                return None
            if kept.lasting:
                self._kept = kept
                if not kept.form.twin.bare:
                    self.pool.add(kept.form.twin)
        form = kept.form
        if form.twin.bare:
            return form
        recorded = x.is_cuda and torch.cuda.is_current_stream_capturing()
        if kept.lasting and torch.is_grad_enabled() and (tape.on or not recorded):
            self.pool.use(form.twin)
            return form
        form = copy.copy(form)
        form.twin = alone(form.twin, recorded or torch.is_inference_mode_enabled())
        return form

    def _siblings(
        self, state: MethodState, x: Tensor, kind: type[Form]
    ) -> list[tuple[MethodState, Form]]:
        found = []
        for ref in self.family.members:
            other = ref()
            if other is None or other is state:
                continue
            layer = other.fast.layer and other.fast.layer()
            if layer is None or not _acts_alone(other, layer):
                continue
            c = other.fast.form(other, layer, x)
            if type(c) is kind:
                found.append((other, c))
        return found


class Kept:
    """A form and all that it was made from, to be asked at each call whether that is still so."""

    def __init__(
        self, state: MethodState, layer: nn.Module, form: Form, names: Sequence[str]
    ) -> None:
        self.form, sources = form, form.twin.sources
        #: the trained tensors are the state's own, not made for one call
        self.lasting = len(names) == len(sources)
        self._trained = [(n, t, t.dtype) for n, t in zip(names, sources, strict=False)]
        self.method, self.training = state.method, state.training
        weight = layer._parameters[state.weight_name]
        assert weight is not None
        self.weight, self.bias = weight, layer._parameters.get(state.bias_name)
        self.names = state.weight_name, state.bias_name
        #: `None`: the weight is in a form of its own, and nothing here reads it
        self.place = weight.data_ptr() if state.scheme is None else None
        self.dtype, self.kind, self.device = form.twin.dtype, weight.dtype, weight.device

    def serves(self, state: MethodState, layer: nn.Module, x: Tensor) -> bool:
        """Whether the form serves this call as it stands."""
        weight, bias, there = self.weight, self.bias, layer._parameters
        name, bias_name = self.names
        if (
            x.dtype is not self.dtype
            or there.get(name) is not weight
            or there.get(bias_name) is not bias
            # moved, or given other memory
            or (self.place is not None and weight.data_ptr() != self.place)
            or weight.requires_grad
            or (bias is not None and bias.requires_grad)
            or self.training is not state.training
            or self.method is not state.method
            or x.device != self.device
            or weight.dtype is not self.kind
        ):
            return False
        own = state._parameters
        for name, source, dtype in self._trained:
            if own.get(name) is not source or source.dtype is not dtype:
                return False
        return self.form.twin.copies[0].device == self.device


def _outputs(x: Tensor, forms: Sequence[Any]) -> tuple[Tensor, ...]:
    return lowrank_linear(x, forms) if type(forms[0]) is Branch else block_linear(x, forms)


def _acts_alone(state: MethodState, layer: nn.Module) -> bool:
    """Whether this state is all that acts on its layer right now, so that its call would come here too."""
    site: Any = layer._modules.get("_graft")
    return site is not None and not site.open and site.sole() is state


def _read(state: MethodState, layer: nn.Module, ref: Callable[[], Any], x: Tensor) -> Kept | None:
    """What serves a layer whose change is low-rank factors, or diagonal blocks that tile its matrix."""
    weight = layer._parameters.get(state.weight_name)
    bias = layer._parameters.get(state.bias_name)
    if weight is not None and state.scheme is not None:
        return _read_stored(state, layer, weight, x)
    if weight is None or not _fits(state, weight, bias, x):
        return None
    p = _tensors(state)
    matrix = weight if state.geo.kind == "linear" else weight.t()
    matrix = matrix.detach()
    factors = state.method.factors(state.geo, p, state.training)
    frozen: list[Any] = []
    if factors is not None:
        sources = [factors.a, factors.b]
        if factors.magnitude is not None:
            sources.append(factors.magnitude)
            frozen = [(layer._parameters, state.weight_name, weight)]
    else:
        d = state.method.diagonal(state.geo, p, state.training)
        if d is None:
            return None
        n, rows, cols = d.shape[1:]
        if (n * rows, n * cols) != (state.geo.out, state.geo.in_):
            return None
        sources = [d]
    own, names = state._parameters, _names(state, sources)
    places = [*frozen, *((own, n, s) for n, s in zip(names, sources, strict=False))]
    if factors is None:
        twin = Twin(sources, x.dtype, places=places)
        return Kept(state, layer, Blocks(ref, matrix, bias, twin), names)
    scaled = matrix if frozen else None
    twin = Twin(sources, x.dtype, scaled, factors.scale, places)
    own_forward = getattr(type(layer), "_base_class", type(layer)).forward is nn.Linear.forward
    plain = own_forward and scaled is None and matrix.is_contiguous() and bool(names)
    return Kept(state, layer, Branch(ref, matrix, bias, twin, factors.scale, plain), names)


def _read_stored(state: MethodState, layer: nn.Module, weight: Tensor, x: Tensor) -> Kept | None:
    """What serves a quantised layer whose change is low-rank factors: its own forward, and a branch beside it."""
    fits = x.is_floating_point() and x.device == weight.device and x.shape[-1] == state.geo.in_
    p = _tensors(state)
    factors = state.method.factors(state.geo, p, state.training) if fits else None
    if factors is None or factors.magnitude is not None:
        return None
    sources = [factors.a, factors.b]
    own, names = state._parameters, _names(state, sources)
    places = [(own, n, s) for n, s in zip(names, sources, strict=False)]
    twin = Twin(sources, x.dtype, None, factors.scale, places)
    return Kept(state, layer, Added(twin, factors.scale), names)


def _names(state: MethodState, sources: Sequence[Tensor]) -> list[str]:
    """Under which names the state holds the trained tensors; none where they do not last."""
    if any(s.is_inference() for s in sources):
        return []
    return [n for s in sources for n, t in state._parameters.items() if t is s]


def _tensors(state: MethodState) -> Any:
    own = state._parameters  # a parametrised tensor is not among them
    return own if len(own) == len(state.names) else state.params()


def _fits(state: MethodState, weight: Tensor, bias: Tensor | None, x: Tensor) -> bool:
    """Whether the layer's tensors are frozen and fit x."""
    return (
        _frozen(weight, x)
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
