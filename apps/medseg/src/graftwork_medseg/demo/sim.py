"""Simulated subjects and scanners on real anatomy: the embedded default of medseg.

The anatomy is real: the ICBM 2009 T1 average brain with its grey and white matter maps, 1 mm, which
ships inside nilearn (no download). Everything else is SIMULATED: a subject is a random smooth
deformation of that one brain plus a random shift of its tissue fractions; a site (scanner) is a
contrast, a bias field, a resolution and a noise level. Results on it say nothing about patients.

Maps, all in [0, 1] and summing to 1 at each voxel: background, GM, WM, CSF, where
CSF = brain mask x (1 - GM - WM): what is inside the brain and neither grey nor white matter.
Labels are the argmax of the deformed maps: 0 background, 1 GM, 2 WM, 3 CSF.

Image formation, with tissue maps p_k, site means mu_k and T1-texture t (the template minus its own
tissue means):

    image = | blur( exp(bias) * (sum_k p_k mu_k + gain * t) ) + n1 + i n2 |        (Rician noise)

Everything is a pure function of (seed, site, subject): the numbers come from a CPU generator keyed by
their SHA-256, so a GPU and a CPU simulate the same subject up to floating-point rounding.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graftwork.errors import GraftError

SEED = 2026
CLASSES = ("background", "GM", "WM", "CSF")
SHAPE = (80, 96, 80)  # voxels of a simulated volume
SPACING = 2.0  # mm, isotropic
_MARGIN = 8  # mm of template kept around the brain


@dataclass(frozen=True)
class Site:
    """A simulated scanner.

    `means`: intensity of (background, GM, WM, CSF); `texture`: gain of the template's own texture;
    `bias`: size of the log bias field; `blur_mm`: FWHM per axis; `noise`: Rician sigma, same unit.
    """

    name: str
    means: tuple[float, float, float, float]
    texture: float
    bias: float
    blur_mm: tuple[float, float, float]
    noise: float


SITES = {
    "a": Site("a", (0.0, 0.65, 0.84, 0.33), 1.0, 0.15, (1.5, 1.5, 1.5), 0.03),
    "b": Site("b", (0.0, 0.62, 0.45, 0.95), -0.6, 0.35, (2.0, 2.0, 3.5), 0.05),
}


@dataclass(frozen=True)
class Subject:
    """One simulated scan: `image` float32 and `label` uint8, both `SHAPE`; `affine` voxel to mm, RAS."""

    name: str
    image: Tensor
    label: Tensor
    affine: np.ndarray


@lru_cache(maxsize=1)
def anatomy() -> tuple[Tensor, np.ndarray]:
    """The template cut to the brain: (4, X, Y, Z) float32 maps T1, GM, WM, CSF, and its 1 mm affine."""
    # 2 s of import that nobody pays who brings own data.
    from nilearn import datasets

    t1_image = datasets.load_mni152_template(resolution=1)
    brain = datasets.load_mni152_brain_mask(resolution=1).get_fdata() > 0
    t1, gm, wm = (
        np.asarray(image.get_fdata(), dtype=np.float32) * brain
        for image in (
            t1_image,
            datasets.load_mni152_gm_template(resolution=1),
            datasets.load_mni152_wm_template(resolution=1),
        )
    )
    csf = np.clip(1 - gm - wm, 0, 1) * brain
    where = np.nonzero(brain)
    low = [max(0, int(axis.min()) - _MARGIN) for axis in where]
    high = [int(axis.max()) + 1 + _MARGIN for axis in where]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine = np.array(t1_image.affine, dtype=np.float64)
    affine[:3, 3] += affine[:3, :3] @ low
    return torch.from_numpy(np.stack([volume[box] for volume in (t1, gm, wm, csf)])), affine


def generator(*key: object) -> torch.Generator:
    """A CPU generator that depends on `key` alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _smooth(size: int, channels: int, draw: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """A smooth standard field, (channels, *shape): white noise on a coarse grid, interpolated."""
    coarse = torch.randn(1, channels, size, size, size, generator=draw)
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0]


def displacement(seed: int, subject: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Where each output voxel looks in the template, as a shift in mm, (3, *shape).

    Scale 3 %, rotation 4 degrees and shift 1.5 mm (standard deviations) of the whole head, plus smooth
    local shifts of 3 mm over 40 mm and 1 mm over 20 mm: neighbours never swap order.
    """
    draw = generator(seed, "anatomy", subject)
    axes = [torch.arange(n) * SPACING - (n - 1) * SPACING / 2 for n in shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    scale, angle, shift = (torch.randn(3, generator=draw) * s for s in (0.03, 0.07, 1.5))
    cross = torch.tensor(
        [[0.0, -angle[2], angle[1]], [angle[2], 0.0, -angle[0]], [-angle[1], angle[0], 0.0]]
    )
    linear = torch.linalg.matrix_exp(cross) @ torch.diag(torch.exp(scale))
    moved = torch.einsum("ij,jxyz->ixyz", linear, place) + shift.reshape(3, 1, 1, 1)
    local = 3.0 * _smooth(5, 3, draw, shape) + 1.0 * _smooth(9, 3, draw, shape)
    return moved - place + local


def _tissue(seed: int, subject: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The subject's T1 texture source (X, Y, Z) and tissue maps (4, X, Y, Z) on the output grid."""
    maps, _ = anatomy()
    maps = maps.to(device)
    size = torch.tensor(maps.shape[1:])
    axes = [torch.arange(n) * SPACING - (n - 1) * SPACING / 2 for n in SHAPE]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement(seed, subject)
    # align_corners=True: -1 and 1 are the first and last voxel centres, 1 mm apart.
    grid = place / ((size - 1) / 2).reshape(3, 1, 1, 1)
    grid = grid.flip(0).permute(1, 2, 3, 0)[None].to(device)
    t1, gm, wm, csf = F.grid_sample(maps[None], grid, mode="bilinear", align_corners=True)[0]
    tissue = torch.stack([1 - gm - wm - csf, gm, wm, csf]).clamp_min(0)
    # Brains differ in how much is fluid: shift the odds of each tissue, then renormalise.
    odds = torch.randn(4, generator=generator(seed, "fractions", subject))
    tissue = tissue * torch.exp(odds * torch.tensor([0.0, 0.2, 0.2, 0.35])).reshape(4, 1, 1, 1).to(
        device
    )
    return t1, tissue / tissue.sum(0, keepdim=True)


def _gaussian(image: Tensor, fwhm_mm: tuple[float, float, float]) -> Tensor:
    """Separable Gaussian blur of an (X, Y, Z) volume, zero outside."""
    out = image[None, None]
    for axis, fwhm in enumerate(fwhm_mm):
        sigma = fwhm / SPACING / math.sqrt(8 * math.log(2))
        radius = max(1, math.ceil(3 * sigma))
        x = torch.arange(-radius, radius + 1, device=image.device) / sigma
        kernel = torch.softmax(-0.5 * x**2, 0)
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = len(kernel), radius
        out = F.conv3d(out, kernel.reshape(shape), padding=padding)
    return out[0, 0]


def simulate(
    site: str | Site, subject: int, *, seed: int = SEED, device: torch.device | str = "cpu"
) -> Subject:
    """Simulate one scan: a pure function of (seed, site, subject); see the module's docstring.

    Two sites scan the same anatomy for the same subject number. Raises GraftError for an unknown site.
    """
    if isinstance(site, str):
        if site not in SITES:
            raise GraftError(f"unknown simulated site {site!r}: choose one of {', '.join(SITES)}")
        site = SITES[site]
    device = torch.device(device)
    t1, tissue = _tissue(seed, subject, device)
    draw = generator(seed, "scan", site.name, subject)
    column = (4, 1, 1, 1)
    own = torch.tensor(SITES["a"].means).reshape(column).to(device)
    jitter = 1 + 0.04 * torch.randn(4, generator=draw)
    means = (torch.tensor(site.means) * jitter).reshape(column).to(device)
    texture = t1 - (tissue * own).sum(0)
    clean = (tissue * means).sum(0) + site.texture * texture
    bias = site.bias * _smooth(4, 1, draw, SHAPE)[0].to(device)
    blurred = _gaussian(torch.exp(bias) * clean, site.blur_mm)
    real, imaginary = (site.noise * torch.randn(2, *SHAPE, generator=draw)).to(device)
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = [-(n - 1) * SPACING / 2 for n in SHAPE]
    return Subject(
        name=f"{site.name}-{subject:04d}",
        image=torch.hypot(blurred + real, imaginary),
        label=tissue.argmax(0).to(torch.uint8),
        affine=affine,
    )


def split(pool: int, **sizes: int) -> dict[str, list[int]]:
    """Cut subjects 0..pool-1 into named groups by the SHA-256 of their number: fixed before training.

    Raises GraftError when the groups need more subjects than the pool holds.
    """
    if sum(sizes.values()) > pool:
        raise GraftError(f"a split of {sizes} needs more than the {pool} subjects of the pool")
    order = sorted(range(pool), key=lambda i: hashlib.sha256(f"subject {i}".encode()).digest())
    groups, start = {}, 0
    for name, size in sizes.items():
        groups[name] = sorted(order[start : start + size])
        start += size
    return groups


def normalise(image: Tensor) -> Tensor:
    """Zero mean and unit variance over the whole volume; a constant volume becomes zeros."""
    image = image.float()
    return (image - image.mean()) / image.std().clamp_min(1e-8)
