"""One case in memory: read, checked, prepared, and ready for the network and for scoring."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..demo import sim
from .agree import UNSTATED
from .contract import Contract, Observed
from .folder import CaseFiles, read_case
from .nifti import Array, Header, Placement, place_label, spacing_of
from .organs import Organs
from .prepare import prepare


class Volume:
    """One case, ready for the network and for scoring.

    `image` (C, x, y, z) and `label` (x, y, z) lie on the working grid; `truth` (X, Y, Z) holds the labels
    on the file's own grid with voxel size `spacing`, where cases are scored. `label` and `truth` are None
    for an unlabelled case; `like` is the file's header, None for a simulated case; `observed` is what a
    contract's ranges are compared with.
    """

    def __init__(
        self,
        name: str,
        image: Tensor,
        label: Tensor | None,
        truth: Array | None,
        placement: Placement,
        like: Header | None = None,
        observed: Observed | None = None,
    ) -> None:
        self.name, self.image, self.label, self.truth = name, image, label, truth
        self.placement, self.like, self.observed = placement, like, observed

    @property
    def spacing(self) -> Array:
        """Voxel size of the file's grid in mm."""
        return spacing_of(self.placement.affine)


def simulated(
    site: str, subject: int, seed: int = sim.SEED, contract: Contract = UNSTATED
) -> Volume:
    """A simulated scan as a case; by the default contract its working grid is its own grid."""
    scan = sim.simulate(site, subject, seed=seed)
    return _case(
        scan.name, [scan.image.numpy()], scan.label.numpy(), scan.affine, len(sim.CLASSES), contract
    )


def load(
    case: CaseFiles, classes: int, contract: Contract, organs: Organs | None = None, **how: Any
) -> Volume:
    """Read, check and prepare one case of files; see `read_case` for `how`, and `prepare` for what it raises.

    `classes` is how many the files may hold; with `organs` the labels are those of `Organs.remap`.
    """
    channels, truth, header = read_case(case, classes, spacing=contract.spacing, **how)
    if organs is not None:
        truth = None if truth is None else organs.remap(truth)
        classes = len(organs.classes)
    return _case(case.name, channels, truth, header.affine, classes, contract, header)


def _case(
    name: str,
    channels: list[Array],
    truth: Array | None,
    affine: Array,
    classes: int,
    contract: Contract,
    like: Header | None = None,
) -> Volume:
    image, placement, observed = prepare(channels, affine, contract, name)
    label = None
    if truth is not None:
        label = torch.from_numpy(place_label(truth, placement, image.shape[1:], classes))
    return Volume(name, image, label, truth, placement, like, observed)
