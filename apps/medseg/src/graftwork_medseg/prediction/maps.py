"""From streamed class scores to what a case needs on its file's own grid: mask, confidence, entropy, all.

Probabilities are interpolated (trilinear, one class at a time) from the working grid to the image's, a
few planes as soon as the scores around them are final, so that neither grid ever holds all classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graftwork.errors import GraftError

from ..images.nifti import Array, Placement, available_bytes
from .window import Network, Windows, mirrored

CHUNK = 8  # planes of the image's grid that are interpolated at a time
MARGIN = 1.25  # of the estimate, for the kernels' own workspace


@dataclass(frozen=True)
class Wanted:
    """What is kept beside the mask. `flips` averages the probabilities over eight mirror images."""

    confidence: bool = False
    entropy: bool = False
    probabilities: bool = False
    flips: bool = False


@dataclass
class Maps:
    """One case on its file's grid (X, Y, Z).

    `mask` uint8; `confidence`, the largest class probability, float32; `entropy`, -sum p ln p / ln C,
    float32 from 0 (certain) to 1 (all classes alike); `probabilities` (C, X, Y, Z) uint8 in steps of 1/255.
    """

    mask: Array
    confidence: Array | None = None
    entropy: Array | None = None
    probabilities: Array | None = None


@dataclass
class Canvas:
    """Collects scores in order of planes on the working grid and paints the file's grid, its axes turned."""

    shape: tuple[int, ...]
    working: tuple[int, ...]
    wanted: Wanted
    classes: int = 0
    painted: int = 0  # planes of the file's grid along the working axes that are done
    held: Tensor | None = None  # planes that still wait for their neighbours
    held_from: int = 0
    out: dict[str, Tensor] = field(default_factory=dict)

    def add(self, start: int, scores: Tensor) -> None:
        """Take scores (C, k, y, z) of working planes `start` on: logits, or probabilities with flips."""
        if not self.out:
            self._open(scores.shape[0])
        for a in range(0, scores.shape[1], CHUNK):
            part = scores[:, a : a + CHUNK]
            if self.shape == self.working:
                self._paint(self._probabilities(part))
            else:
                self._interpolate(start + a, part)

    def _interpolate(self, start: int, scores: Tensor) -> None:
        # Interpolation mixes probabilities, not logits: a mean of logits may favour a third class.
        planes = self._probabilities(scores).cpu()
        self.held = torch.cat([self.held, planes], 1) if self.held is not None else planes.clone()
        for low, high, share in self._ready(start + scores.shape[1]):
            base = self.held_from
            self._paint(torch.lerp(self.held[:, low - base], self.held[:, high - base], share))
        keep = int(self._sources([min(self.painted, self.shape[0] - 1)])[0])
        keep = max(self.held_from, min(keep, start + scores.shape[1]))
        self.held, self.held_from = self.held[:, keep - self.held_from :].clone(), keep

    def _open(self, classes: int) -> None:
        if classes > 256:
            raise GraftError(f"{classes} classes do not fit into a uint8 mask: 256 are the most")
        self.classes = classes
        kinds = {"mask": torch.uint8, "confidence": torch.float32, "entropy": torch.float32}
        for name, dtype in kinds.items():
            if name == "mask" or getattr(self.wanted, name):
                self.out[name] = torch.zeros(self.shape, dtype=dtype)
        if self.wanted.probabilities:
            self.out["probabilities"] = torch.zeros((classes, *self.shape), dtype=torch.uint8)

    def _probabilities(self, scores: Tensor) -> Tensor:
        # Where the mask alone is wanted, on one grid, the largest score is the largest probability.
        if self.wanted.flips or (self.shape == self.working and len(self.out) == 1):
            return scores
        return torch.softmax(scores.float(), 0)

    def _sources(self, planes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """For planes of the file's grid: the two working planes around each, and the second's share."""
        n, fine = self.working[0], self.shape[0]
        at = ((torch.tensor(planes, dtype=torch.float64) + 0.5) * n / fine - 0.5).clamp_(min=0)
        low = at.floor().long().clamp_(max=n - 1)
        return low, (low + 1).clamp_(max=n - 1), (at - low).float()[:, None, None]

    def _ready(self, known: int) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Chunks of planes that the first `known` working planes decide."""
        _, last, _ = self._sources(range(self.painted, self.shape[0]))
        count = int((last < known).sum())
        end = self.painted + count
        while self.painted < end:
            yield self._sources(range(self.painted, min(end, self.painted + CHUNK)))

    def _paint(self, coarse: Tensor) -> None:
        """Write planes (C, m, y, z), interpolating within the planes where the grids differ."""
        m, place = coarse.shape[1], slice(self.painted, self.painted + coarse.shape[1])
        best, mask = torch.full((m, *self.shape[1:]), -math.inf), None
        entropy = torch.zeros_like(best) if self.wanted.entropy else None
        alone = self.shape == self.working and len(self.out) == 1
        if alone and coarse.device.type != "cpu":
            mask = coarse.argmax(0).to(torch.uint8)
        else:
            # Class by class: on a CPU an argmax across the first axis takes several times as long.
            mask = torch.zeros(best.shape, dtype=torch.uint8)
            for k, plane in enumerate(coarse.cpu()):
                one = plane
                if one.shape[1:] != self.shape[1:]:
                    one = F.interpolate(one[None], size=self.shape[1:], mode="bilinear")[0]
                mask.masked_fill_(one > best, k)
                torch.maximum(best, one, out=best)
                if entropy is not None:
                    entropy += torch.special.entr(one.clamp(min=0))
                if self.wanted.probabilities:
                    self.out["probabilities"][k, place] = (255 * one).round_().to(torch.uint8)
        self.out["mask"][place] = mask.cpu()
        if self.wanted.confidence:
            self.out["confidence"][place] = best
        if entropy is not None:
            self.out["entropy"][place] = (entropy / math.log(max(self.classes, 2))).clamp_(0, 1)
        self.painted += m

    def maps(self, placement: Placement) -> Maps:
        """The finished arrays, turned back to the file's axis order."""
        assert self.painted == self.shape[0], "planes are missing"
        turned: dict[str, Any] = {}
        for name, tensor in self.out.items():
            array = tensor.numpy()
            turned[name] = (
                np.stack([placement.to_file_order(one) for one in array])
                if name == "probabilities"
                else placement.to_file_order(array)
            )
        return Maps(**turned)


@torch.inference_mode()
def predict(
    network: Network,
    image: Tensor,
    placement: Placement,
    windows: Windows,
    wanted: Wanted | None = None,
    device: torch.device | str = "cpu",
) -> Maps:
    """Segment `image` (channels, x, y, z) of the working grid; the maps lie on the file's grid."""
    wanted = wanted or Wanted()
    canvas = Canvas(tuple(placement.turned_shape), tuple(image.shape[1:]), wanted)
    run = mirrored(network) if wanted.flips else network
    for start, scores in windows.stream(run, image, device):
        canvas.add(start, scores)
    return canvas.maps(placement)


def needed_bytes(
    shape: Sequence[int],
    file_shape: Sequence[int],
    windows: Windows,
    classes: int,
    wanted: Wanted,
    forward: int,
) -> tuple[int, int]:
    """Memory that `predict` takes beside the image: (on the network's device, on the host), in bytes.

    `forward` is one forward pass of a batch of windows (`window.forward_bytes`).
    """
    box = 4 * windows.batch * classes * math.prod(windows.roi)
    device = windows.ring_bytes(shape, classes) + forward + (3 if wanted.flips else 1) * box
    fine, plane = math.prod(file_shape), math.prod(file_shape[1:])
    kept = 1 + 4 * wanted.confidence + 4 * wanted.entropy + classes * wanted.probabilities
    host = 2 * kept * fine + 4 * CHUNK * plane * 6  # once as painted, once in the file's order
    if tuple(shape) != tuple(file_shape):
        # The probabilities of a chunk, and the planes that wait for their neighbours.
        host += 4 * 4 * classes * (CHUNK + 2) * math.prod(shape[1:])
    return int(MARGIN * device), int(MARGIN * host)


def refuse_too_large(
    name: str,
    image: Tensor,
    placement: Placement,
    windows: Windows,
    wanted: Wanted,
    classes: int,
    forward: int,
    device: torch.device,
) -> None:
    """Raise GraftError with the estimate when predicting a case would not fit into the free memory.

    `forward` as for `needed_bytes`.
    """
    on_device, on_host = needed_bytes(
        image.shape[1:], placement.turned_shape, windows, classes, wanted, forward
    )
    if device.type == "cuda":
        # What the allocator has reserved but does not use is free for us too.
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        asked = [
            ("the GPU's", on_device, torch.cuda.mem_get_info(device)[0] + idle),
            ("main", on_host, available_bytes()),
        ]
    else:
        asked = [("main", on_device + on_host, available_bytes())]
    for where, need, free in asked:
        if need > 0.9 * free:
            raise GraftError(
                f"case {name}: predicting {tuple(placement.turned_shape)} voxels of {classes} classes needs "
                f"about {need / 2**30:.1f} GiB of {where} memory, {free / 2**30:.1f} GiB are free: use a "
                "smaller model.roi, a larger data.spacing, or crop the image"
            )
