"""Random patches cut, turned and stretched in one interpolation, on the device that holds the volumes.

Which patch and how it is turned are drawn on the CPU and depend on the generator alone; noise is drawn on
the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """How patches vary.

    `mirror`: axes mirrored in half of the patches (never one across which paired organs have names of
    their own). `turned`: share of the patches that are rotated by up to `degrees` about a random axis
    and stretched by up to `stretch` along each axis. `gain`, `offset`: standard deviations of a factor
    about 1 and of a shift; `noise`: largest standard deviation of added white noise. All in units of the
    normalised image.
    """

    mirror: tuple[int, ...] = ()
    turned: float = 0.5
    degrees: float = 10.0
    stretch: float = 0.1
    gain: float = 0.1
    offset: float = 0.05
    noise: float = 0.05

    def matrix(self, draw: torch.Generator) -> Tensor:
        """A random (3, 3) map from patch to volume offsets, in voxels; the identity if not turned."""
        turned, angle, axis, scale = (
            torch.rand((), generator=draw) < self.turned,
            (2 * torch.rand((), generator=draw) - 1) * math.radians(self.degrees),
            torch.randn(3, generator=draw),
            1 + self.stretch * (2 * torch.rand(3, generator=draw) - 1),
        )
        mirrored = torch.rand(3, generator=draw) < 0.5
        out = rotation(axis, float(angle)) @ torch.diag(scale) if turned else torch.eye(3)
        signs = torch.ones(3)
        for k in self.mirror:
            signs[k] = -1.0 if mirrored[k] else 1.0
        return out @ torch.diag(signs)

    def shade(self, x: Tensor, draw: torch.Generator, seed: int) -> Tensor:
        """Change gain, offset and noise of each patch of (N, C, ...); noise comes from `seed`."""
        column = (len(x), *[1] * (x.ndim - 1))
        gain = 1 + self.gain * torch.randn(column, generator=draw)
        offset = self.offset * torch.randn(column, generator=draw)
        sigma = self.noise * torch.rand(column, generator=draw)
        white = torch.randn(
            x.shape, generator=torch.Generator(x.device).manual_seed(seed), device=x.device
        )
        return x * gain.to(x) + offset.to(x) + white.to(x) * sigma.to(x)


def rotation(axis: Tensor, angle: float) -> Tensor:
    """The (3, 3) rotation by `angle` radians about a direction (3,) of any length but 0."""
    a, b, c = (axis / axis.norm()).tolist()
    cross = torch.tensor([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]])
    return torch.linalg.matrix_exp(angle * cross)


def grid_of(
    centre: Sequence[float], size: Sequence[int], matrix: Tensor, device: torch.device | str
) -> Tensor:
    """Where each voxel of a patch looks in its volume: voxel coordinates (3, *size), float32.

    The patch's middle lies at `centre`; offset o from it looks at centre + matrix o.
    """
    axes = [torch.arange(n, device=device) - (n - 1) / 2 for n in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    middle = torch.as_tensor(centre, dtype=torch.float32, device=device).reshape(3, 1, 1, 1)
    return torch.einsum("ij,jxyz->ixyz", matrix.to(device), offsets) + middle


def look_up(volume: Tensor, where: Tensor, mode: str) -> Tensor:
    """Values of (C, X, Y, Z) at voxel coordinates (3, x, y, z); 0 outside; `mode` bilinear or nearest."""
    last = torch.tensor([max(1, n - 1) for n in volume.shape[1:]], device=where.device)
    # align_corners=True: -1 and 1 are the centres of the first and the last voxel.
    grid = 2 * where / last.reshape(3, 1, 1, 1) - 1
    grid = grid.flip(0).permute(1, 2, 3, 0)[None]
    return F.grid_sample(volume[None], grid, mode=mode, padding_mode="zeros", align_corners=True)[0]


def cut(
    image: Tensor, label: Tensor, centre: Sequence[float], size: Sequence[int], matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """One patch of an image (C, X, Y, Z) and its labels (X, Y, Z): (C, *size) float32, (*size) int64.

    What lies outside the volume is 0: background, and the lowest value of a windowed image.
    """
    where = grid_of(centre, size, matrix, image.device)
    x = look_up(image.float(), where, "bilinear")
    y = look_up(label[None].float(), where, "nearest")
    return x, y[0].long()


def middle_of_patch(
    point: Sequence[float], shape: Sequence[int], size: Sequence[int]
) -> list[float]:
    """The middle of a patch near `point` that lies inside the volume where the volume is large enough.

    A volume that is smaller than the patch is centred in it. The patch starts at a whole voxel.
    """
    out = []
    for at, have, want in zip(point, shape, size, strict=True):
        low = (
            min(max(0, round(at) - want // 2), have - want)
            if have > want
            else -((want - have) // 2)
        )
        out.append(low + (want - 1) / 2)
    return out
