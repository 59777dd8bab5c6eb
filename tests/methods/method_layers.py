"""Generated layers: one strategy per layer kind over the arguments that torch allows.

A `LayerCase` is a layer's constructor arguments, the shape of an input and the call's own arguments;
`build` and `inputs` turn it into a float64 layer and tensors, the same ones every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

#: outputs over which "max|y|" and a layer's own rounding error are taken; one output tells neither
POOL = 256
SEEDS = st.integers(0, 2**31 - 1)


@dataclass(frozen=True)
class LayerCase:
    """A layer and a call of it.

    Attributes:
        kind: layer kind as in the methods' cards.
        make: builds the layer from `args`.
        shape: of the input under test.
        sample: of one sample of it, so that `(n, *sample)` is a legal batch.
        call: further arguments of the call.
        tokens: inputs are token ids below this number instead of features.
        empty_rows: set the weights of the first output channel to zero.
        seed: of all values.
    """

    kind: str
    make: Callable[..., nn.Module]
    args: dict[str, Any]
    shape: tuple[int, ...]
    sample: tuple[int, ...]
    call: dict[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    token_dtype: torch.dtype = torch.int64
    empty_rows: bool = False
    seed: int = 0

    @property
    def site(self) -> str:
        """The pattern that selects the layer inside what `build` returns."""
        return "inner" if self.kind == "block" else "*"

    def build(self) -> nn.Module:
        """The layer in float64, in eval mode, with values of about unit gain."""
        made = self.make(**self.args).double().eval()
        rng = torch.Generator().manual_seed(self.seed)
        norm = self.kind == "norm"
        with torch.no_grad():
            for name, p in made.named_parameters():
                # embeddings are looked up, not summed over
                fan = 1 if p.dim() < 2 or self.tokens else p.numel() / max(p.shape[0], p.shape[1])
                p.copy_(torch.randn(p.shape, generator=rng, dtype=p.dtype) / math.sqrt(fan))
                if norm and name == "weight":
                    p.add_(1)
                if self.empty_rows and p.dim() >= 2:
                    _first_row(self, p).zero_()
            for name, b in made.named_buffers():
                if b.is_floating_point():
                    b.copy_(torch.randn(b.shape, generator=rng, dtype=b.dtype))
                    if name == "running_var":
                        b.abs_().add_(0.5)
        return made

    def inputs(self, shape: tuple[int, ...] | None = None, salt: int = 1) -> Tensor:
        """A float64 input (or token ids)."""
        rng = torch.Generator().manual_seed(self.seed + salt)
        shape = self.shape if shape is None else shape
        if self.tokens:
            return torch.randint(self.tokens, shape, generator=rng, dtype=self.token_dtype)
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    def pooled(self, layer: nn.Module) -> Tensor:
        """A batch of samples with at least `POOL` outputs."""
        with torch.no_grad():
            one = layer(self.inputs((1, *self.sample)), **self.call).numel()
        return self.inputs((math.ceil(POOL / max(1, one)), *self.sample), salt=2)


def _first_row(case: LayerCase, weight: Tensor) -> Tensor:
    if case.kind.startswith("conv_transpose"):
        return weight[: weight.shape[0] // case.args["groups"], 0]
    return weight[:, 0] if case.kind in ("transposed_linear", "embedding") else weight[0]


LEADING = st.sampled_from([(), (1,), (3,), (2, 3), (2, 1, 3), (0,)])
RARELY = st.integers(0, 9).map(lambda n: n == 9)


@st.composite
def linear(draw: st.DrawFn) -> LayerCase:
    size = st.integers(1, 9)
    args = {"in_features": draw(size), "out_features": draw(size), "bias": draw(st.booleans())}
    sample = (args["in_features"],)
    return LayerCase(
        "linear",
        nn.Linear,
        args,
        draw(LEADING) + sample,
        sample,
        empty_rows=draw(RARELY),
        seed=draw(SEEDS),
    )


@st.composite
def transposed_linear(draw: st.DrawFn) -> LayerCase:
    args = {"nf": draw(st.integers(1, 9)), "nx": draw(st.integers(1, 9))}
    sample = (args["nx"],)
    lead = draw(LEADING.filter(lambda s: 0 not in s))  # its view(-1, nx) needs an element
    return LayerCase(
        "transposed_linear",
        Conv1D,
        args,
        lead + sample,
        sample,
        empty_rows=draw(RARELY),
        seed=draw(SEEDS),
    )


@st.composite
def embedding(draw: st.DrawFn) -> LayerCase:
    tokens, features = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    args = {
        "num_embeddings": tokens,
        "embedding_dim": features,
        "padding_idx": draw(st.none() | st.integers(-tokens, tokens - 1)),
        "scale_grad_by_freq": draw(st.booleans()),
        "max_norm": draw(st.sampled_from([None] * 9 + [1.0])),
        "sparse": draw(RARELY),
    }
    return LayerCase(
        "embedding",
        nn.Embedding,
        args,
        draw(LEADING),
        (),
        tokens=tokens,
        token_dtype=draw(st.sampled_from([torch.int64, torch.int32])),
        empty_rows=draw(RARELY),
        seed=draw(SEEDS),
    )


def _per_axis(draw: st.DrawFn, n: int, values: st.SearchStrategy[int]) -> tuple[int, ...]:
    return tuple(draw(values) for _ in range(n))


def _channels(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 1, 2, 3, 4]))
    ins, outs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return {
        "in_channels": groups * ins,
        "out_channels": groups * outs,
        "groups": groups,
        "bias": draw(st.booleans()),
    }


def _number_or_tuple(draw: st.DrawFn, values: tuple[int, ...]) -> int | tuple[int, ...]:
    same = len(set(values)) == 1
    return values[0] if same and draw(st.booleans()) else values


def conv(n: int) -> st.SearchStrategy[LayerCase]:
    """`nn.Conv1d/2d/3d` with every argument they take."""

    @st.composite
    def make(draw: st.DrawFn) -> LayerCase:
        args = _channels(draw)
        kernel = _per_axis(draw, n, st.integers(1, 5 if n == 1 else 3))
        dilation = _per_axis(draw, n, st.integers(1, 3 if n < 3 else 2))
        span = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding: Any = draw(st.sampled_from(["numbers", "numbers", "same", "valid"]))
        mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
        stride = (1,) * n if padding == "same" else _per_axis(draw, n, st.integers(1, 3))
        if padding == "same":
            pads = [(s // 2, s - s // 2) for s in span]
        elif padding == "valid":
            pads = [(0, 0)] * n
        else:
            padding = _per_axis(draw, n, st.integers(0, 3 if n < 3 else 2))
            pads = [(p, p) for p in padding]
            padding = _number_or_tuple(draw, padding)
        least = [max(1, s + 1 - sum(p)) for s, p in zip(span, pads, strict=True)]
        if mode in ("reflect", "circular"):  # torch's own limits on the pad
            extra = mode == "reflect"
            least = [max(m, max(p) + extra) for m, p in zip(least, pads, strict=True)]
        size = tuple(m + draw(st.integers(0, 2)) for m in least)
        args |= {
            "kernel_size": _number_or_tuple(draw, kernel),
            "stride": _number_or_tuple(draw, stride),
            "padding": padding,
            "dilation": _number_or_tuple(draw, dilation),
            "padding_mode": mode,
        }
        sample = (args["in_channels"], *size)
        batch = draw(st.sampled_from([(), (1,), (2,)]))
        layer = [nn.Conv1d, nn.Conv2d, nn.Conv3d][n - 1]
        return LayerCase(
            f"conv{n}d",
            layer,
            args,
            batch + sample,
            sample,
            empty_rows=draw(RARELY),
            seed=draw(SEEDS),
        )

    return make()


def conv_transpose(n: int) -> st.SearchStrategy[LayerCase]:
    """`nn.ConvTranspose1d/2d/3d` with every argument they take, `output_size` included."""

    @st.composite
    def make(draw: st.DrawFn) -> LayerCase:
        args = _channels(draw)
        kernel = _per_axis(draw, n, st.integers(1, 5 if n == 1 else 3))
        stride = _per_axis(draw, n, st.integers(1, 3))
        dilation = _per_axis(draw, n, st.integers(1, 3 if n < 3 else 2))
        padding = _per_axis(draw, n, st.integers(0, 2))
        most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        output_padding = tuple(draw(st.integers(0, m)) for m in most)
        size, least = [], []
        for s, d, k, p in zip(stride, dilation, kernel, padding, strict=True):
            # the smallest input whose output is not empty without any output padding
            need = 1 + max(0, math.ceil((2 * p - d * (k - 1)) / s))
            size.append(need + draw(st.integers(0, 2)))
            least.append((size[-1] - 1) * s - 2 * p + d * (k - 1) + 1)
        call: dict[str, Any] = {}
        if draw(st.booleans()):
            wanted = [m + draw(st.integers(0, s - 1)) for m, s in zip(least, stride, strict=True)]
            call = {"output_size": wanted}
        args |= {
            "kernel_size": _number_or_tuple(draw, kernel),
            "stride": _number_or_tuple(draw, stride),
            "padding": _number_or_tuple(draw, padding),
            "output_padding": _number_or_tuple(draw, output_padding),
            "dilation": _number_or_tuple(draw, dilation),
        }
        sample = (args["in_channels"], *size)
        batch = draw(st.sampled_from([(), (1,), (2,)]))
        layer = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d][n - 1]
        return LayerCase(
            f"conv_transpose{n}d",
            layer,
            args,
            batch + sample,
            sample,
            call=call,
            empty_rows=draw(RARELY),
            seed=draw(SEEDS),
        )

    return make()


@st.composite
def norm(draw: st.DrawFn) -> LayerCase:
    """Batch, layer, group, instance and RMS norms.

    Each statistic is over at least four values: over fewer, equal inputs make the norm itself lose digits.
    """
    family = draw(st.sampled_from(["batch", "layer", "group", "instance", "rms"]))
    n = draw(st.integers(1, 3))
    channels = draw(st.integers(1, 6))
    space = tuple(draw(st.integers(4 if n == 1 else 2, 5)) for _ in range(n))
    batch = draw(st.sampled_from([(1,), (2,)]))
    args: dict[str, Any] = {"eps": draw(st.sampled_from([1e-5, 1e-3]))}
    sample: tuple[int, ...] = (channels, *space)
    if family == "batch":
        make: Any = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][n - 1]
        args |= {"num_features": channels, "momentum": draw(st.sampled_from([0.1, None]))}
        if n == 1 and draw(st.booleans()):
            sample = (channels,)
    elif family == "instance":
        make = [nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d][n - 1]
        args |= {"num_features": channels, "affine": True}
        args["track_running_stats"] = draw(st.booleans())
        batch = draw(st.sampled_from([(), (2,)]))
    elif family == "group":
        make = nn.GroupNorm
        groups = draw(st.sampled_from([g for g in range(1, 7) if channels % g == 0]))
        args |= {"num_groups": groups, "num_channels": channels}
    else:
        make = nn.LayerNorm if family == "layer" else nn.RMSNorm
        sample = draw(st.sampled_from([(4,), (7,), (2, 3)]))
        args["normalized_shape"] = sample
        if family == "layer":
            args["bias"] = draw(st.booleans())
        batch = draw(st.sampled_from([(), (2,), (2, 3)]))
    return LayerCase("norm", make, args, batch + sample, sample, seed=draw(SEEDS))


class Residual(nn.Module):
    """A feed-forward block inside a model, as AdaptFormer finds it."""

    def __init__(self, width: int, hidden: int, out: int, act: str) -> None:
        super().__init__()
        first, last = nn.Linear(width, hidden), nn.Linear(hidden, out)
        self.inner = nn.Sequential(first, {"gelu": nn.GELU(), "silu": nn.SiLU()}[act], last)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@st.composite
def block(draw: st.DrawFn) -> LayerCase:
    size = st.integers(1, 6)
    args = {"width": draw(size), "hidden": draw(size), "out": draw(size)}
    args["act"] = draw(st.sampled_from(["gelu", "silu"]))
    sample = (args["width"],)
    return LayerCase("block", Residual, args, draw(LEADING) + sample, sample, seed=draw(SEEDS))


LAYERS: dict[str, st.SearchStrategy[LayerCase]] = {
    "linear": linear(),
    "transposed_linear": transposed_linear(),
    "embedding": embedding(),
    "conv1d": conv(1),
    "conv2d": conv(2),
    "conv3d": conv(3),
    "conv_transpose1d": conv_transpose(1),
    "conv_transpose2d": conv_transpose(2),
    "conv_transpose3d": conv_transpose(3),
    "norm": norm(),
    "block": block(),
}
