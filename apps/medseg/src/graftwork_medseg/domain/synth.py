"""SYNTHETIC brain MR of any contrast around a hippocampus, drawn from label maps on the device.

The anatomy is real (label maps of SynthSeg's training set), every intensity is drawn (Billot et al.,
Medical Image Analysis 86, 2023, section 3): one Gaussian per label with random mean and width, then a
random resolution along one axis, blur, a smooth bias field, a random gamma and noise,

    image = resample( G_sigma * exp(b) (mu_L + s_L n) )^gamma + noise,

after a random rotation, stretch and smooth deformation of the label map. The image is cut to a box around
the hippocampus with a margin of some mm, as the Decathlon's hippocampus volumes are, normalised to zero mean
and unit variance over that box, and padded with zeros to `SIZE`, as a sliding window pads it. No measured
image is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from nibabel.orientations import apply_orientation, io_orientation
from torch import Tensor

from graftwork.errors import GraftError

from ..demo.sim import generator
from ..fewshot.shots import by_hash
from ..images.nifti import Array, open_image, read_voxels, spacing_of
from .augment import Augment, grid_of, look_up
from .content import content_hash

HIPPOCAMPI = (17, 53)  # FreeSurfer's left and right
CLASSES = ("background", "hippocampus")
CUBE = 96  # mm of label map kept around each hippocampus
SIZE = (
    48,
    64,
    48,
)  # voxels of 1 mm of a training image; the measured ones have 31-43 x 40-59 x 24-47
MARGIN = (4, 9)  # mm between hippocampus and box, each side
TEST_SUBJECTS = 3
TURN = Augment(mirror=(0,), turned=1.0, degrees=30.0, stretch=0.15)


@dataclass(frozen=True)
class Maps:
    """Label maps around hippocampi, RAS, 1 mm: `labels` (N, CUBE, CUBE, CUBE) uint8 indices into `values`.

    `values` holds FreeSurfer's numbers, `targets` the indices that are hippocampus, `names` the subject and
    side of each map, `content` the hash of each subject's file.
    """

    labels: Tensor
    values: tuple[int, ...]
    targets: tuple[int, ...]
    names: tuple[str, ...]
    content: dict[str, str]


def subjects(folder: str | Path) -> dict[str, list[Path]]:
    """The label map files in train and test, by a hash of their names.

    Raises GraftError when the folder has no `labels/*.nii.gz` or too few to keep three for the test.
    """
    files = {p.name.removesuffix(".nii.gz"): p for p in Path(folder).glob("labels/*.nii.gz")}
    if len(files) <= TEST_SUBJECTS:
        raise GraftError(
            f"{folder}: labels/ holds {len(files)} label maps (.nii.gz), more than {TEST_SUBJECTS} are "
            "needed; rebuild the folder with data_cards/prepare.py synthseg"
        )
    order = by_hash(files, "synthseg base")
    return {
        "test": [files[n] for n in sorted(order[:TEST_SUBJECTS])],
        "train": [files[n] for n in sorted(order[TEST_SUBJECTS:])],
    }


def read_maps(files: Sequence[Path], device: torch.device | str = "cpu") -> Maps:
    """Cut a cube around each hippocampus of each subject; beyond the map there is label 0.

    Raises GraftError for an unreadable file, a voxel size other than 1 mm, and a map without hippocampus.
    """
    cubes, names, content = [], [], {}
    for file in files:
        header = open_image(file)
        voxels = read_voxels(header, file)
        if not np.allclose(spacing_of(header.affine), 1.0, atol=0.01):
            raise GraftError(f"{file}: voxels of 1 mm are needed, not {spacing_of(header.affine)}")
        content[file.name] = content_hash(voxels, header.affine)
        turned = apply_orientation(voxels.astype(np.int16), io_orientation(header.affine))
        for value in HIPPOCAMPI:
            where = np.argwhere(turned == value)
            if not len(where):
                raise GraftError(f"{file}: label {value} (hippocampus) does not occur")
            low = np.round(where.mean(0)).astype(int) - CUBE // 2
            cubes.append(_cube(turned, low))
            names.append(f"{file.name.removesuffix('.nii.gz')} {value}")
    values = sorted({int(v) for cube in cubes for v in np.unique(cube)})
    compact = np.searchsorted(values, np.stack(cubes)).astype(np.uint8)
    return Maps(
        torch.from_numpy(compact).to(device),
        tuple(values),
        tuple(values.index(v) for v in HIPPOCAMPI if v in values),
        tuple(names),
        content,
    )


def _cube(volume: Array, low: Array) -> Array:
    """The cube that starts at voxel `low`, zero outside the volume."""
    out = np.zeros((CUBE,) * 3, volume.dtype)
    start = np.maximum(low, 0)
    stop = np.minimum(low + CUBE, volume.shape)
    inner = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))
    out[inner] = volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    return out


def _field(
    cells: int, channels: int, draw: torch.Generator, size: Sequence[int], device: torch.device
) -> Tensor:
    """A smooth standard field (channels, *size): white noise on a coarse grid, interpolated."""
    coarse = torch.randn(1, channels, cells, cells, cells, generator=draw).to(device)
    return F.interpolate(coarse, size=tuple(size), mode="trilinear", align_corners=True)[0]


def _blur(image: Tensor, sigma: Sequence[float]) -> Tensor:
    """Separable Gaussian blur of (X, Y, Z), standard deviations in voxels; the border is repeated."""
    out = image[None, None]
    for axis, s in enumerate(sigma):
        radius = max(1, round(3 * s))
        x = torch.arange(-radius, radius + 1, device=image.device) / max(s, 1e-3)
        shape, pad = [1, 1, 1, 1, 1], [0] * 6
        shape[2 + axis] = len(x)
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = radius
        kernel = torch.softmax(-0.5 * x**2, 0).reshape(shape)
        out = F.conv3d(F.pad(out, pad, mode="replicate"), kernel)
    return out[0, 0]


def anatomy(maps: Maps, index: int, draw: torch.Generator) -> Tensor:
    """A deformed label map of `SIZE` around hippocampus `index`, int64 indices into `maps.values`."""
    device = maps.labels.device
    shift = 3 * torch.randn(3, generator=draw)
    where = grid_of((CUBE / 2 + shift).tolist(), SIZE, TURN.matrix(draw), device)
    bend = 2.0 * _field(4, 3, draw, SIZE, device) + 0.7 * _field(9, 3, draw, SIZE, device)
    return look_up(maps.labels[index][None].float(), where + bend, "nearest")[0].long()


def box_of(target: Tensor, draw: torch.Generator) -> tuple[slice, ...]:
    """A box around the mask, with a random margin on each side, inside the volume."""
    margins = torch.randint(MARGIN[0], MARGIN[1] + 1, (3, 2), generator=draw).tolist()
    # One transfer for the three axes: each waits for the device.
    lines = torch.cat([target.any(1).any(1), target.any(0).any(1), target.any(0).any(0)]).cpu()
    box = []
    for line, (before, after) in zip(lines.split(list(target.shape)), margins, strict=True):
        where = line.nonzero()[:, 0].tolist()
        if not where:
            return tuple(slice(0, n) for n in target.shape)
        box.append(slice(max(0, where[0] - before), min(len(line), where[-1] + 1 + after)))
    return tuple(box)


def paint(label: Tensor, values: int, draw: torch.Generator, seed: int) -> Tensor:
    """An image (X, Y, Z) of random contrast for label indices below `values`; any unit."""
    device = label.device
    noise = torch.Generator(device).manual_seed(seed)
    mean = torch.rand(values, generator=draw).to(device)
    width = (0.02 + 0.08 * torch.rand(values, generator=draw)).to(device)
    white = torch.randn(label.shape, generator=noise, device=device)
    image = mean[label] + width[label] * white
    image = image * torch.exp(0.3 * _field(4, 1, draw, label.shape, device)[0])
    image = _blur(image, (0.3 + 0.6 * torch.rand(3, generator=draw)).tolist())
    if torch.rand((), generator=draw) < 0.5:  # thick slices along one axis, interpolated back
        axis = int(torch.randint(3, (), generator=draw))
        thickness = 1 + 2 * float(torch.rand((), generator=draw))
        coarse = list(label.shape)
        coarse[axis] = max(2, round(coarse[axis] / thickness))
        sigma = [0.0, 0.0, 0.0]
        sigma[axis] = (thickness - 1) / 2
        small = F.interpolate(_blur(image, sigma)[None, None], size=coarse, mode="trilinear")
        image = F.interpolate(small, size=tuple(label.shape), mode="trilinear")[0, 0]
    low, high = image.min(), image.max()
    image = ((image - low) / (high - low).clamp_min(1e-6)) ** torch.exp(
        0.25 * torch.randn((), generator=draw)
    ).to(device)
    sigma_noise = 0.06 * float(torch.rand((), generator=draw))
    return image + sigma_noise * torch.randn(label.shape, generator=noise, device=device)


def example(maps: Maps, index: int, *key: object) -> tuple[Tensor, Tensor, tuple[slice, ...]]:
    """A synthetic image (1, *SIZE), its labels (*SIZE) 0 or 1, and the box that it fills.

    A pure function of the map and `key`, up to the device's own random numbers.
    """
    draw = generator("synth", *key)
    label = anatomy(maps, index, draw)
    target = torch.zeros_like(label, dtype=torch.bool)
    for k in maps.targets:
        target |= label == k
    box = box_of(target, draw)
    seed = int(torch.randint(2**62, (), generator=draw))
    inside = paint(label, len(maps.values), draw, seed)[box]
    image = torch.zeros(SIZE, device=label.device)
    image[box] = (inside - inside.mean()) / inside.std().clamp_min(1e-6)
    truth = torch.zeros(SIZE, dtype=torch.int64, device=label.device)
    truth[box] = target[box].long()
    return image[None], truth, box
