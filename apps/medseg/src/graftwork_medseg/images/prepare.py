"""From an image on its file's grid to a network's input, by the contract; and what the image was like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from graftwork.errors import GraftError

from ..demo.sim import normalise
from .contract import QUANTILES, Contract, Intensity, Observed, Triple
from .nifti import Placement, place

Array = NDArray[Any]
_SAMPLE = 1_000_000  # voxels that a quantile is taken of, about


def prepare(
    channels: Sequence[Array], affine: Array, contract: Contract, source: object = "image"
) -> tuple[Tensor, Placement, Observed]:
    """Prepare one image as `contract` says.

    Args:
        channels: float32 voxels (X, Y, Z) in file order, one array per channel.
        affine: of the file, voxel to mm.
        contract: what the network was trained on.
        source: how messages name the image.

    Returns:
        The network's input (C, x, y, z) float32, how it lies in the image, and the image in the terms of
        the contract's ranges.

    Raises:
        GraftError: another number of channels than the contract has.
    """
    if len(channels) != len(contract.channels):
        raise GraftError(
            f"{source}: has {len(channels)} channel(s), the network takes {len(contract.channels)}: "
            f"{', '.join(contract.channels)}; give one file per channel in a folder with a dataset.json"
        )
    mask = nonzero(channels) if any(r.rule == "zscore" for r in contract.rules) else None
    out, percentiles = [], []
    for voxels, rule in zip(channels, contract.rules, strict=True):
        ready = before_resampling(voxels, rule, mask)
        placed, placement = place(ready, affine, contract.spacing, contract.orientation)
        x = after_resampling(torch.from_numpy(np.ascontiguousarray(placed, dtype=np.float32)), rule)
        percentiles.append(quantiles(voxels if rule.absolute else x.numpy()))
        out.append(x)
    extent = [n * s for n, s in zip(placement.turned_shape, placement.own, strict=True)]
    observed = Observed(placement.own, (extent[0], extent[1], extent[2]), tuple(percentiles))
    return torch.stack(out), placement, observed


def quantiles(values: Array) -> Triple:
    """`QUANTILES` of about a million evenly strided values, or of all if there are fewer."""
    flat = values.reshape(-1)
    step = max(1, flat.size // _SAMPLE) | 1  # odd: even strides would see only one side of a volume
    low, middle, high = np.percentile(flat[::step], QUANTILES)
    return float(low), float(middle), float(high)


def nonzero(channels: Sequence[Array]) -> Array:
    """Where any channel is not 0, holes filled, bool (X, Y, Z); nnU-Net's mask of what was imaged."""
    mask = np.zeros(channels[0].shape, dtype=bool)
    for voxels in channels:
        mask |= voxels != 0
    return np.asarray(binary_fill_holes(mask))


def before_resampling(voxels: Array, rule: Intensity, mask: Array | None) -> Array:
    """The part of `rule` that nnU-Net v2 applies on the file's grid; other rules change nothing.

    `mask` is `nonzero` of all channels. Statistics of "zscore" are over the mask's bounding box, to which
    nnU-Net crops first, or over the mask itself when the rule says so.
    """
    if rule.rule == "ct":
        assert rule.mean is not None and rule.std is not None
        clipped = np.clip(voxels, rule.low, rule.high)
        return np.asarray((clipped - np.float32(rule.mean)) / np.float32(max(rule.std, 1e-8)))
    if rule.rule != "zscore":
        return voxels
    assert mask is not None
    if not mask.any():
        mask = np.ones_like(mask)
    if rule.mask:
        inside = voxels[mask]
        scaled = (voxels - inside.mean()) / max(inside.std(), 1e-8)
        return np.where(mask, scaled, voxels)
    box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(mask))
    inside = voxels[box]
    return np.asarray((voxels - inside.mean()) / max(inside.std(), 1e-8))


def after_resampling(x: Tensor, rule: Intensity) -> Tensor:
    """The part of `rule` that works on the working grid, float32 (x, y, z)."""
    if rule.rule == "volume":
        return normalise(x)
    if rule.rule == "window":
        assert rule.low is not None and rule.high is not None
        return ((x - rule.low) / (rule.high - rule.low)).clamp(0, 1)
    if rule.rule == "nonzero":
        inside = x[x != 0]
        if not len(inside):
            return x
        sd = float(inside.std(correction=0))
        return torch.where(x != 0, (x - inside.mean()) / (sd or 1.0), x)
    return x
