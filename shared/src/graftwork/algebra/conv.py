"""Convolutions and transposed convolutions in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from graftwork.algebra.geometry import BlockPlan, Geometry, fit, split

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@dataclass(frozen=True)
class _Spatial(Geometry):
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    out_attribute: ClassVar[str] = "out_channels"

    def _mix(self, h: Tensor, b: Tensor, groups: int, bias: Tensor | None) -> Tensor:
        # a 1x1x1 convolution, whatever the layer's own kernel and direction
        kernel = b.reshape(*b.shape, *[1] * self.spatial)
        return _CONV[self.spatial](h, kernel, bias, groups=groups)

    def _grouped(self, x: Tensor, weight: Tensor, groups: int, y: Tensor) -> Tensor:
        """`x` through canonical `weight` `(groups, rows, cols, *kernel)`, with its own groups."""
        raise NotImplementedError

    def _through(self, x: Tensor, a: Tensor, groups: int, y: Tensor) -> Tensor:
        return self._grouped(x, split(a, groups), groups, y)

    def run_blocks(self, x: Tensor, d: Tensor, plan: BlockPlan, y: Tensor) -> Tensor:
        axis, g = self.axis, self.groups
        rows, cols = self.group_shape
        if plan.count * plan.cols != cols:
            x = fit(x.unflatten(axis, (g, cols)), axis, plan.count * plan.cols).flatten(
                axis - 1, axis
            )
        h = self._grouped(x, d.flatten(0, 1), g * plan.count, y)
        if plan.count * plan.rows != rows:
            h = fit(h.unflatten(axis, (g, -1)), axis, rows).flatten(axis - 1, axis)
        return h


@dataclass(frozen=True)
class Conv(_Spatial):
    """`nn.Conv1d/2d/3d`; W stored `(out, in/g, *kernel)`."""

    padding_mode: str = "zeros"
    #: what `F.pad` gets for the padding modes other than zeros (torch computes it per layer)
    pad: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        return f"conv{self.spatial}d"

    def run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor | None = None
    ) -> Tensor:
        return self._convolve(x, weight, bias, self.groups)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        padding: tuple[int, ...] | str = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self.pad, mode=self.padding_mode), (0,) * self.spatial
        conv = _CONV[self.spatial]
        out: Tensor = conv(x, weight, bias, self.stride, padding, self.dilation, groups)
        return out

    def canonical(self, weight: Tensor) -> Tensor:
        return split(weight, self.groups)

    def layout(self, canonical: Tensor) -> Tensor:
        return canonical.flatten(0, 1)

    def _grouped(self, x: Tensor, weight: Tensor, groups: int, y: Tensor) -> Tensor:
        return self._convolve(x, weight.flatten(0, 1), None, groups)


@dataclass(frozen=True)
class ConvTranspose(_Spatial):
    """`nn.ConvTranspose1d/2d/3d`; W stored `(in, out/g, *kernel)`."""

    @property
    def kind(self) -> str:
        return f"conv_transpose{self.spatial}d"

    def run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor | None = None
    ) -> Tensor:
        assert y is not None, "a transposed convolution needs its output's shape"
        return self._convolve(x, weight, bias, self.groups, y)

    def _convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, y: Tensor
    ) -> Tensor:
        n = self.spatial
        assert not isinstance(self.padding, str)
        # output_size is an argument of the call: what it added is read off the output it gave
        least = [
            (x.shape[d - n] - 1) * self.stride[d]
            - 2 * self.padding[d]
            + self.dilation[d] * (self.kernel[d] - 1)
            + 1
            for d in range(n)
        ]
        extra = [y.shape[d - n] - least[d] for d in range(n)]
        conv = _TRANSPOSED[n]
        out: Tensor = conv(x, weight, bias, self.stride, self.padding, extra, groups, self.dilation)
        return out

    def canonical(self, weight: Tensor) -> Tensor:
        return split(weight, self.groups).transpose(1, 2)

    def layout(self, canonical: Tensor) -> Tensor:
        return canonical.transpose(1, 2).flatten(0, 1)

    def _grouped(self, x: Tensor, weight: Tensor, groups: int, y: Tensor) -> Tensor:
        return self._convolve(x, weight.transpose(1, 2).flatten(0, 1), None, groups, y)
