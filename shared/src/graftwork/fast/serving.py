"""Few rows at a time from an unmerged graft, as in decoding: what does not change is made once.

    y_i = x W_i^T + (x [A_1; ..]^T) Z^T,    Z = [s_1 B_1 0 ..; 0 s_2 B_2 ..],    i = 1 .. n (q, k and v; one alone)

With one token the time of a layer is the time to issue its operations and to read W, so their number counts: casts,
stacked factors and gains are kept, two products serve all layers that read the same input, and on a GPU the frozen
product adds to their result. s B is rounded once to the layer's dtype, where training rounds B and scales in float32.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.fast.linear import Branch
from graftwork.fast.siblings import apart, undisturbed

if TYPE_CHECKING:
    from graftwork.states import MethodState

#: rows up to which this form serves; more of them are bound by arithmetic
ROWS = 16
#: (state, its branch) of each layer that is served together
Members = Sequence[tuple["MethodState", Branch]]


class Ready:
    """What is kept of layers that read the same input: stacked factors in the layers' dtype.

    Args:
        members: states and branches; the first one's call computes for all.
        dtype: of the input.
    """

    def __init__(self, members: Members, dtype: torch.dtype) -> None:
        self.states = [state for state, _ in members]
        self.branches = [c for _, c in members]
        self.places = [
            (state, state.training, c.layer._parameters, c.layer._parameters.get(state.weight_name))
            for state, c in members
        ]
        watched = [t for state in self.states for t in _values(state)]
        watched += [weight for *_, weight in self.places if weight is not None]
        self.watched = [(t, t._version) for t in watched]
        self.dtype = dtype
        self.a = torch.cat([c.a.detach() for c in self.branches]).to(dtype).t()
        up = [(c.scale * c.b.detach()).to(dtype).t() for c in self.branches]
        self.up = up[0].contiguous() if len(up) == 1 else torch.block_diag(*up)
        self.widths = [c.weight.shape[0] for c in self.branches]
        self.gains = [None if c.gain is None else c.gain.detach() for c in self.branches]

    def holds(self, x: Tensor) -> bool:
        """Whether nothing was written or replaced since, and x is of the kept kind."""
        if x.dtype is not self.dtype or x.device != self.a.device:
            return False
        for t, version in self.watched:
            if t._version != version:
                return False
        for state, training, parameters, weight in self.places:
            if state.training is not training or parameters[state.weight_name] is not weight:
                return False
        return True

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Every member's output for x (..., in), in order; they may share memory, side by side."""
        shape = x.shape[:-1]
        rows = x.reshape(-1, x.shape[-1])
        z = rows.mm(self.a).mm(self.up)
        parts = (z,) if len(self.widths) == 1 else z.split_with_sizes(self.widths, 1)
        out = []
        for c, part, gain in zip(self.branches, parts, self.gains, strict=True):
            if x.is_cuda and c.bias is None:
                y = part.addmm_(rows, c.weight.t())
            else:  # elsewhere another order would round otherwise than the base does
                y = c.layer._base_class.forward(c.layer, rows).add_(part)
            if gain is not None:
                y = torch.mul(y, gain, out=torch.empty_like(y))
            out.append(y.view(*shape, -1))
        return out


class Serving:
    """What one state keeps while its model serves.

    Args:
        branch: (state, layer, x) -> the layer and its branch, or `None` where the fast form cannot take it.
    """

    def __init__(self, branch: Callable[[Any, nn.Module, Tensor], Branch | None]) -> None:
        self.branch = branch
        self.ready: Ready | None = None

    def answer(
        self, state: MethodState, layer: nn.Module, x: Tensor, others: Callable[[], Members] | None
    ) -> Tensor | None:
        """The layer's output, or `None`; from here on the site's calls come to `few` and `take` directly.

        Args:
            others: gives the members that are computed along, where this call is the first of its family's.
        """
        kept = self.ready
        together = kept is not None and len(kept.states) > 1
        if kept is None or not kept.holds(x) or (together and others is None):
            own = self.branch(state, layer, x)
            if own is None:
                return None
            members = [(state, own), *(others() if others is not None else ())]
            if any(c.gain is not None and c.bias is not None for _, c in members):
                return None
            kept = self.ready = Ready(members, x.dtype)
        for member, c in zip(kept.states, kept.branches, strict=True):
            first = member is state
            call = functools.partial(self.few, state) if first else _taker(member)
            c.layer._modules["_graft"].few = call
        return self.few(state, x)

    def few(self, state: MethodState, x: Tensor) -> Tensor | None:
        """The output for a few rows; those of the family's others wait for their calls."""
        kept = self.ready
        if kept is None or torch.is_grad_enabled():
            self.ready = None  # a fused optimizer writes without a trace, after such a call
            return None
        if (
            type(x) is not Tensor
            or x.numel() > ROWS * x.shape[-1]
            or not undisturbed(x)
            or not kept.holds(x)
        ):
            return None
        if len(kept.states) == 1:
            return kept.outputs(x)[0]
        family = state.fast.family  # type: ignore[union-attr]
        if apart(x) or not family.led_by(state):
            return None
        first, *rest = kept.outputs(x)
        family.keep(x, {id(s): y for s, y in zip(kept.states[1:], rest, strict=True)})
        return first


def _taker(state: Any) -> Callable[[Tensor], Tensor | None]:
    return functools.partial(state.fast.family.take, state)


@contextlib.contextmanager
def serving(model: nn.Module) -> Iterator[nn.Module]:
    """Serve an unmerged graft with few tokens at a time: inside the block no factor changes.

    What the grafts' linear layers need for a few rows (stacked factors in the layer's dtype, a gain) is made at the
    first call without gradients and kept; prompts, training and all else run as outside. `activate` switches between
    grafts as usual. Factors that are written all the same are noticed where torch counts the write (`load_tensors`)
    and after a call with gradients; writes through `.data` are not, so end the block first.

        with torch.no_grad(), gw.serving(model):
            model.generate(**inputs)

    Raises:
        GraftError: inside another such block of the same model.
    """
    from graftwork.fast.sites import Fast

    found = [f for m in model.modules() if isinstance(f := getattr(m, "fast", None), Fast)]
    if any(fast.serves is not None for fast in found):
        raise GraftError("serving: the model is inside another such block; leave that one first")
    for fast in found:
        fast.begin()
    try:
        yield model
    finally:
        for fast in found:
            fast.serves = None
        for module in model.modules():
            site = module._modules.get("_graft")
            if site is not None:
                site.few = None  # type: ignore[assignment]


def _values(state: MethodState) -> list[Tensor]:
    return [t for t in (*state._parameters.values(), *state._buffers.values()) if t is not None]
