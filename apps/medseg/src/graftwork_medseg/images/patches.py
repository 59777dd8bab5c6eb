"""Random patches of volumes, a pure function of the generator that is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from graftwork.lightning.data import sample_generator

if TYPE_CHECKING:
    from .volume import Volume


def sample(
    images: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    size: Sequence[int],
    count: int,
    draw: torch.Generator,
    *,
    inside: bool = False,
    mirror: bool = True,
) -> tuple[Tensor, Tensor]:
    """Cut `count` random patches, half of them mirrored left-right (first axis) unless `mirror` is off.

    `images[i]` is (C, X, Y, Z) and `labels[i]` (X, Y, Z), the same size in each pair; a volume smaller
    than `size` is padded, image with its minimum and label with background. Volumes are drawn without
    replacement while they last. `inside` centres each patch, as far as it fits, on a random voxel of a
    random class that the volume has; otherwise every position is equally likely. Returns
    (count, C, *size) in channels-last memory, twice as fast on a CPU, and (count, *size).
    """
    volumes: list[int] = []
    while len(volumes) < count:
        volumes += torch.randperm(len(images), generator=draw).tolist()
    xs, ys = [], []
    for i in volumes[:count]:
        x, y = images[i], labels[i]
        short = [max(0, want - have) for want, have in zip(size, y.shape, strict=True)]
        if any(short):
            pad = [n for s in reversed(short) for n in (s // 2, s - s // 2)]
            x = torch.nn.functional.pad(x, pad, value=float(x.min()))
            y = torch.nn.functional.pad(y, pad)
        box = []
        centre = _centre(y, draw) if inside else None
        for axis, (have, want) in enumerate(zip(y.shape, size, strict=True)):
            if centre is None:
                low = int(torch.randint(have - want + 1, (), generator=draw))
            else:
                low = min(max(0, centre[axis] - want // 2), have - want)
            box.append(slice(low, low + want))
        x, y = x[(slice(None), *box)], y[tuple(box)]
        if mirror and torch.rand((), generator=draw) < 0.5:
            x, y = x.flip(1), y.flip(0)
        xs.append(x)
        ys.append(y)
    batch = torch.stack(xs).contiguous(memory_format=torch.channels_last_3d)
    return batch, torch.stack(ys)


def _centre(label: Tensor, draw: torch.Generator) -> list[int]:
    """A random voxel of a random class other than background; of the whole volume if there is none."""
    present = label.unique()
    present = present[present > 0]
    if len(present):
        k = present[int(torch.randint(len(present), (), generator=draw))]
        where = (label == k).flatten().nonzero()[:, 0]
        flat = int(where[int(torch.randint(len(where), (), generator=draw))])
    else:
        flat = int(torch.randint(label.numel(), (), generator=draw))
    out = []
    for n in reversed(label.shape):
        out.append(flat % n)
        flat //= n
    return out[::-1]


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """`length` random patches an epoch, patch (epoch, index) a pure function of the seed.

    Args:
        volumes: labelled; patch `index` is cut from number `index` modulo their count.
        roi: size in voxels.
        length: patches of an epoch.
        seed: of all patches.
        around: share of the patches that are centred on a voxel with a class.
        mirror: mirror half of them left-right.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        roi: Sequence[int],
        length: int,
        seed: int,
        around: float = 0.0,
        mirror: bool = True,
    ) -> None:
        self.volumes, self.roi, self.length, self.seed = volumes, tuple(roi), length, seed
        self.around, self.mirror = around, mirror

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        volume = self.volumes[index % len(self.volumes)]
        assert volume.label is not None
        draw = sample_generator(self.seed, epoch, index)
        inside = self.around > 0 and bool(torch.rand((), generator=draw) < self.around)
        x, y = sample(
            [volume.image], [volume.label], self.roi, 1, draw, inside=inside, mirror=self.mirror
        )
        return x[0], y[0]
