"""The utility that a search audits by: mean soft Dice of the asked organs on fixed crops of the held-out case.

    score = AuditScore(volume, organs, roi=(48, 48, 48))
    Search(network, units, score, budget=0.01)

Soft Dice of a crop and an organ is (2 sum p y + 1) / (sum p + sum y + 1), p the softmax probability (SEA-PEFT,
arXiv 2603.05822, as its public code computes it). Accumulated in float32, without autocast: the effect of
one unit may be 1e-4, less than bfloat16's rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graftwork.errors import GraftError

from ..images.organs import Organs
from ..images.patches import sample
from ..images.volume import Volume

CROPS = 6  # as the public code of SEA-PEFT


class AuditScore:
    """Scores a network on crops that are cut once.

    Args:
        volume: the held-out labelled case.
        organs: whose Dice counts.
        roi: size of a crop in voxels of the working grid.
        crops: how many.
        seed: of their places; each is centred on a voxel of an organ.
        batch: crops of one forward pass.

    Raises:
        GraftError: the case is unlabelled, or no crop holds a voxel of each organ.
    """

    def __init__(
        self,
        volume: Volume,
        organs: Organs,
        roi: Sequence[int],
        *,
        crops: int = CROPS,
        seed: int = 0,
        batch: int = 2,
    ) -> None:
        if volume.label is None:
            raise GraftError(f"case {volume.name}: has no label to audit by")
        digest = hashlib.sha256(f"audit {volume.name} {seed}".encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        x, y = sample([volume.image], [volume.label], roi, crops, draw, inside=True, mirror=False)
        outputs = [organs.classes.index(name) for name in organs.asked]
        for output, name in zip(outputs, organs.asked, strict=True):
            if not (y == output).any():
                raise GraftError(
                    f"case {volume.name}: no crop of {tuple(roi)} voxels holds {name!r}, so nothing could be "
                    "audited; label it there, or choose other shots with --fold"
                )
        self.x, self.y, self.outputs, self.batch = x, y, outputs, batch

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> float:
        """Mean soft Dice over crops and organs; the network's device and mode are left as they are."""
        device = next(network.parameters()).device
        if self.x.device != device:
            self.x, self.y = self.x.to(device), self.y.to(device)
        found: list[Tensor] = []
        with torch.autocast(device.type, enabled=False):
            for x, y in zip(self.x.split(self.batch), self.y.split(self.batch), strict=True):
                scores = network(x)
                scores = scores[0] if isinstance(scores, list | tuple) else scores
                p = scores.float().softmax(1)
                for k in self.outputs:
                    mine, truth = p[:, k].flatten(1), (y == k).flatten(1).float()
                    both = mine.sum(1) + truth.sum(1)
                    found.append((2 * (mine * truth).sum(1) + 1) / (both + 1))
        return float(torch.cat(found).double().mean())
