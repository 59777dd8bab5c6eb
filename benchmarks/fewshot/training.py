"""One training loop for every arm: the same patches, steps, seed, loss and schedule.

Patches lie where `Patches` of medseg would cut them: half of them centred on a voxel of an asked organ, mirrored
left-right unless a class name tells left from right. Volumes stay on the device, voxels of each organ are listed
once. On a GPU the forward pass runs in bfloat16 under autocast; audits and tests run in float32.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftwork.allocation import Search
from graftwork.allocation.pace import UNIT
from graftwork.lightning.data import sample_generator
from graftwork_medseg.images.organs import Organs, sided
from graftwork_medseg.images.volume import Volume
from graftwork_medseg.losses import dice_ce

BATCH = 2
AROUND = 0.5  # share of the patches that are centred on an organ, as medseg's for organs by name
RAMP = 0.15  # share of the training in which rates rise
SYNC_EVERY = 10  # steps between two waits for the device, where the clock decides


class Patches:
    """Patch number i of an episode's training cases, a pure function of (seed, i).

    Args:
        volumes: labelled with outputs of `organs`.
        organs: names of the outputs decide whether patches may be mirrored.
        size: of a patch, voxels.
        seed: of all patches.
        device: where they are cut.
    """

    def __init__(
        self, volumes: Sequence[Volume], organs: Organs, size: Sequence[int], seed: int, device: str
    ) -> None:
        self.size, self.seed, self.mirror = tuple(size), seed, not sided(organs.classes)
        self.images, self.labels, self.inside = [], [], []
        for volume in volumes:
            assert volume.label is not None
            x, y = volume.image, volume.label
            short = [max(0, want - have) for want, have in zip(size, y.shape, strict=True)]
            if any(short):
                pad = [n for s in reversed(short) for n in (s // 2, s - s // 2)]
                x, y = F.pad(x, pad, value=float(x.min())), F.pad(y, pad)
            found = [(y == k).nonzero() for k in y.unique().tolist() if k]
            self.inside.append(found)
            self.images.append(x.to(device))
            self.labels.append(y.to(device))

    def batch(self, step: int, count: int = BATCH) -> tuple[Tensor, Tensor]:
        """(count, 1, *size) and (count, *size) of step `step`; cases take turns."""
        xs, ys = [], []
        for index in range(step * count, (step + 1) * count):
            draw = sample_generator(self.seed, 0, index)
            i = index % len(self.images)
            shape, inside = self.labels[i].shape, self.inside[i]
            low = [
                int(torch.randint(have - want + 1, (), generator=draw))
                for have, want in zip(shape, self.size, strict=True)
            ]
            if inside and float(torch.rand((), generator=draw)) < AROUND:
                voxels = inside[int(torch.randint(len(inside), (), generator=draw))]
                at = voxels[int(torch.randint(len(voxels), (), generator=draw))].tolist()
                low = [
                    min(max(0, a - want // 2), have - want)
                    for a, want, have in zip(at, self.size, shape, strict=True)
                ]
            box = tuple(slice(a, a + n) for a, n in zip(low, self.size, strict=True))
            x, y = self.images[i][(slice(None), *box)], self.labels[i][box]
            if self.mirror and float(torch.rand((), generator=draw)) < 0.5:
                x, y = x.flip(1), y.flip(0)
            xs.append(x)
            ys.append(y)
        layout = torch.channels_last_3d
        return torch.stack(xs).contiguous(memory_format=layout), torch.stack(ys)


def height(done: float) -> float:
    """The rate's share of its peak once a share `done` of the training is over: up in a line, down in a cosine."""
    if done < RAMP:
        return 0.04 + 0.96 * done / RAMP
    return 0.5 * (1 + math.cos(math.pi * (done - RAMP) / (1 - RAMP)))


@dataclass
class Trace:
    """What a training took: steps, wall seconds (the device waited for), and the loss now and then."""

    steps: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


def optimizer_of(
    groups: Sequence[tuple[Sequence[nn.Parameter], float]], device: str, extra: Sequence[dict] = ()
) -> torch.optim.Optimizer:
    """AdamW without decay over (parameters, peak rate) and the groups of a search."""
    plain = [{"params": list(p), "lr": lr, "top": lr} for p, lr in groups if p]
    return torch.optim.AdamW([*plain, *extra], weight_decay=0.0, fused=device != "cpu")


def fit(
    network: nn.Module,
    patches: Patches,
    optimizer: torch.optim.Optimizer,
    device: str,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    known: Sequence[bool] | None = None,
    search: Search | None = None,
    half: bool | None = None,
) -> Trace:
    """Train for `steps`, or until `seconds` of wall time have passed.

    Args:
        known: which outputs the site's labels decide, see `dice_ce`; None: all.
        search: switches units before and after each step; `steps` is then its own length.
        half: bfloat16 in the forward pass; None: on a GPU.
    """
    half = device != "cpu" if half is None else half
    kind = device.split(":")[0]
    decided = None if known is None else torch.tensor(known, device=device).expand(BATCH, -1)
    trace, begun = Trace(), now(device)
    losses: list[Tensor] = []
    network.train()
    done = 0.0
    while done < 1.0:
        for group in optimizer.param_groups:
            if UNIT not in group:
                group["lr"] = group["top"] * height(done)
        if search is not None:
            search.begin(optimizer)
            network.train()
        x, y = patches.batch(trace.steps)
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            scores = network(x)
        loss = dice_ce(scores, y, decided)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if search is not None:
            search.end(optimizer)
        trace.steps += 1
        if steps is not None:
            done = trace.steps / steps
        elif trace.steps % SYNC_EVERY == 0 or trace.steps == 1:
            assert seconds is not None
            done = (now(device) - begun) / seconds
        if trace.steps % 20 == 1:
            losses.append(loss.detach())
    trace.losses = [round(float(v), 5) for v in losses]
    trace.seconds = now(device) - begun
    network.eval()
    return trace


def now(device: str) -> float:
    """Seconds of the clock once the device has done its work."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()
