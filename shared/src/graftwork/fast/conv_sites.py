"""Which calls of a grafted convolution the fast form serves, and with what.

A method gets it by saying what its factors are (`Method.factors`). Under autocast the tensors are cast as the frozen
layer's would be, once; a wider weight is not, where the changed weight is made from it. What is not served (an
`output_size`, a transform of `torch.func`, a trained weight, an empty batch) takes the plain form, which computes the
same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.algebra.conv import Conv, ConvTranspose
from graftwork.fast.conv import BRANCH, Frame, Job, lowrank_conv
from graftwork.fast.conv_forms import choose, machine
from graftwork.fast.conv_weight import SPREAD_FROM, representable, thresholds

if TYPE_CHECKING:
    from graftwork.methods.base import Factors
    from graftwork.states import MethodState


#: input shapes whose form is remembered
MOST_SHAPES = 64


class Walk(NamedTuple):
    """A layer's walk over its input, and the padding that comes before it (`None`: none, else `F.pad`'s)."""

    frame: Frame
    pad: list[int] | None
    mode: str


class FastConv:
    """What a state at a convolution keeps for its fast form: what it found out at a shape. A copy starts anew."""

    def __init__(self) -> None:
        self._jobs: dict[Any, Job] = {}
        self._spread: dict[Any, Tensor | None] = {}
        self._asked: tuple[Any, bool] | None = None

    def __deepcopy__(self, memo: Any) -> FastConv:
        return FastConv()

    def __reduce__(self) -> Any:
        return FastConv, ()

    def call(self, state: MethodState, layer: nn.Module, base: Any, x: Tensor) -> Tensor | None:
        """The layer's output, or `None` where the plain form must do it."""
        geo = state.geo
        assert isinstance(geo, Conv | ConvTranspose)
        weight, bias = state.base(layer)
        dtype = _runs_in(x, weight)
        if dtype is None or not _frozen(weight, bias, x) or not _plain(x):
            return None
        batched = x.dim() == geo.spatial + 2
        if x.numel() == 0 or not (batched or x.dim() == geo.spatial + 1):
            return None
        if x.shape[-1 - geo.spatial] != geo.in_:
            return None  # the layer itself says what is wrong
        factors = state.method.factors(geo, state.params(), state.training)
        if factors is None:
            return None
        walk = walk_of(geo, layer)
        x = x if batched else x.unsqueeze(0)
        if walk.pad is not None:
            x = F.pad(x, walk.pad, mode=walk.mode)
        if x.dtype != dtype or weight.dtype != dtype:  # autocast, which some paddings widen for
            x, bias = x.to(dtype), None if bias is None else bias.to(dtype)
        job, spread = self._at(geo, walk.frame, factors, x)
        if weight.dtype != dtype:
            if job.form == BRANCH or not self._fine(weight, dtype):
                weight = weight.to(dtype)
            else:
                spread = None  # the weight's own lower bits do what it does
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                y = lowrank_conv(x, weight, bias, factors.a, factors.b, spread, job)
        else:
            y = lowrank_conv(x, weight, bias, factors.a, factors.b, spread, job)
        return y if batched else y.squeeze(0)

    def _fine(self, weight: Tensor, dtype: torch.dtype) -> bool:
        """Whether a weight has bits that `dtype` drops; asked anew when it was written to."""
        if torch.compiler.is_compiling():  # a graph that is being traced cannot ask
            return self._asked is not None and self._asked[1]
        version = -1 if weight.is_inference() else weight._version
        key = (weight.data_ptr(), version, dtype)
        if self._asked is None or self._asked[0] != key:
            self._asked = key, not representable(weight, dtype)
        return self._asked[1]

    def _at(
        self, geo: Conv | ConvTranspose, frame: Frame, factors: Factors, x: Tensor
    ) -> tuple[Job, Tensor | None]:
        if torch.compiler.is_compiling():  # a compiled graph keeps its own
            spread = thresholds(geo, x.dtype, x.device)
            return _job(geo, frame, factors, x, spread), spread
        place = (x.dtype, x.device)
        if place not in self._spread:
            self._spread[place] = thresholds(geo, *place)
        key = (x.shape, *place, factors.scale)
        if key not in self._jobs:
            if len(self._jobs) >= MOST_SHAPES:
                self._jobs.clear()
            self._jobs[key] = _job(geo, frame, factors, x, self._spread[place])
        return self._jobs[key], self._spread[place]


def _job(
    geo: Conv | ConvTranspose, frame: Frame, factors: Factors, x: Tensor, spread: Tensor | None
) -> Job:
    # The rounding of a short row's few elements does not even out, so the weight stays as it is there.
    short = spread is not None and spread.numel() < SPREAD_FROM
    form = BRANCH if short else form_of(geo, factors.a.shape[0], x, frame)
    return Job(geo, frame, factors.scale, form)


def form_of(geo: Conv | ConvTranspose, rank: int, x: Tensor, frame: Frame) -> str:
    """The form that the cost model chooses for a batch `(n, in, *size)`, padded by now."""
    inputs = outputs = x.shape[0]
    for d in range(geo.spatial):
        n = x.shape[2 + d]
        span = frame.dilation[d] * (geo.kernel[d] - 1)
        inputs *= n
        outputs *= (
            (n - 1) * frame.stride[d] - 2 * frame.padding[d] + span + frame.output_padding[d] + 1
            if frame.transposed
            else (n + 2 * frame.padding[d] - span - 1) // frame.stride[d] + 1
        )
    return choose(geo, rank, inputs, outputs, x.dtype.itemsize, machine(x))


def walk_of(geo: Conv | ConvTranspose, layer: nn.Module) -> Walk:
    """How `layer` walks over its input, with zeros on both sides alike in the frame and all else in the pad."""
    n = geo.spatial
    stride, dilation, none = list(geo.stride), list(geo.dilation), [0] * n
    if isinstance(geo, ConvTranspose):
        assert not isinstance(geo.padding, str) and isinstance(layer.output_padding, tuple)
        more = list(layer.output_padding)
        frame = Frame(stride, list(geo.padding), dilation, True, more, geo.groups)
        return Walk(frame, None, "constant")
    pad, mode, padding = None, "constant", none
    if geo.padding_mode != "zeros":
        pad, mode = list(geo.pad), geo.padding_mode
    elif geo.padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, geo.kernel, strict=True)]
        padding = [t // 2 for t in total]
        if any(t % 2 for t in total):  # what is left over goes behind, as torch puts it
            pad = [side for t in reversed(total) for side in (0, t % 2)]
    elif not isinstance(geo.padding, str):
        padding = list(geo.padding)
    return Walk(Frame(stride, padding, dilation, False, none, geo.groups), pad, mode)


def _runs_in(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The dtype that the frozen layer computes in, or `None` where it would refuse or is left to itself."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x.dtype if x.dtype == weight.dtype and x.is_floating_point() else None
    if torch.float64 in (x.dtype, weight.dtype) or not x.is_floating_point():
        return None  # autocast leaves these alone
    return torch.get_autocast_dtype(kind)


def _frozen(weight: Tensor, bias: Tensor | None, x: Tensor) -> bool:
    return all(
        type(t) in (Tensor, nn.Parameter) and not t.requires_grad and t.device == x.device
        for t in (weight, bias)
        if t is not None
    )


def _plain(x: Tensor) -> bool:
    """Whether hand-written gradients may serve this call: no transform, trace or tensor subclass is at work."""
    if torch.compiler.is_compiling():  # tracing goes through the hand-written gradients
        return True
    return (
        type(x) in (Tensor, nn.Parameter)
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and not torch._C._get_tracing_state()
    )
