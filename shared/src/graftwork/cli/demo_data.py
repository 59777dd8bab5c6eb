"""Drawn shapes seen by two cameras: the demo's synthetic data."""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = ("disc", "square", "cross", "triangle", "ring")
SIDE = 16


def shapes(count: int, camera: str, seed: int) -> tuple[Tensor, Tensor]:
    """Images `(count, 1, 16, 16)` in about [-1, 1] and labels `(count,)`, each shape equally often.

    The "old" camera sees bright shapes on dark ground. The "new" one has less than half the
    contrast, lights the scene from one side and blurs along its scan lines.
    """
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % len(SHAPES)
    centre = SIDE / 2 - 0.5 + 4 * (torch.rand(count, 2, 1, 1, generator=g) - 0.5)
    radius = 3 + 2.5 * torch.rand(count, 1, 1, generator=g)
    axis = torch.arange(SIDE, dtype=torch.float32)
    y = (axis.view(1, -1, 1) - centre[:, 0]) / radius
    x = (axis.view(1, 1, -1) - centre[:, 1]) / radius
    r = (x * x + y * y).sqrt()
    drawn = torch.stack(
        [
            r < 1,
            torch.maximum(x.abs(), y.abs()) < 0.85,
            (torch.minimum(x.abs(), y.abs()) < 0.3) & (torch.maximum(x.abs(), y.abs()) < 1.1),
            (y < 0.8) & (y > 2 * x.abs() - 1),
            (r < 1.1) & (r > 0.6),
        ],
        1,
    )
    image = drawn[torch.arange(count), label].float()
    noise = torch.randn(count, SIDE, SIDE, generator=g)
    if camera == "old":
        image = 2 * image - 1 + 0.25 * noise
    else:
        light = torch.linspace(-1.2, 1.2, SIDE).view(1, 1, -1)
        image = (image + image.roll(1, 2)) / 2
        image = 0.9 * image + light + 0.2 * noise
    return image.unsqueeze(1), label
