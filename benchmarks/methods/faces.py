"""Drawn faces that look somewhere: an ellipse with two eyes whose irises follow pitch and yaw.

A user is a draw of eye spacing, lid aperture, skin, eye size, a light from one side, and kappa, the angle between
where an eye seems to look and where it does. Light breaks the mirror symmetry of a face; kappa cannot be seen at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = 24
#: radians: gaze is uniform in +-LIMIT
LIMIT = (0.35, 0.6)


@dataclass
class Users:
    """One entry for each user, float32.

    Attributes:
        spacing, aperture, skin, eye: of the drawing, in half widths of the image and in grey values.
        light: slope of the brightness from left to right.
        kappa: radians `(users, 2)`, pitch and yaw, from the drawn gaze to the true one.
    """

    spacing: Tensor
    aperture: Tensor
    skin: Tensor
    eye: Tensor
    light: Tensor
    kappa: Tensor

    def __len__(self) -> int:
        return len(self.skin)


def draw_users(
    count: int, rng: torch.Generator, *, light: float = 0.1, kappa: float = 0.02, shift: float = 0.0
) -> Users:
    """Users whose light is normal with this spread, or +-`light` in size where `shift` is 1."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    normal = torch.randn(count, generator=rng)
    side = torch.where(normal < 0, -1.0, 1.0)
    return Users(
        spacing=uniform(0.36, 0.5) + 0.03 * shift,
        aperture=uniform(0.5, 0.9) - 0.1 * shift,
        skin=uniform(0.55, 0.9) - 0.1 * shift,
        eye=uniform(0.22, 0.28),
        light=light * (side if shift else normal),
        kappa=kappa * torch.randn(count, 2, generator=rng),
    )


def render(users: Users, who: Tensor, gaze: Tensor, rng: torch.Generator) -> Tensor:
    """Images `(n, 1, SIZE, SIZE)` of users `who` `(n,)` whose eyes seem to look at `gaze` `(n, 2)`."""
    line = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")

    def of(values: Tensor) -> Tensor:
        return values[who].reshape(-1, 1, 1)

    def inside(level: Tensor) -> Tensor:  # a soft edge
        return torch.sigmoid(level * 8)

    skin = of(users.skin)
    image = 0.2 + (skin - 0.2) * inside(1 - (x / 0.9) ** 2 - (y / 1.1) ** 2)
    pitch, yaw = gaze[:, 0].reshape(-1, 1, 1), gaze[:, 1].reshape(-1, 1, 1)
    for side in (-1, 1):
        cx, cy, size = side * of(users.spacing), -0.15, of(users.eye)
        white = inside(1 - ((x - cx) / size) ** 2 - ((y - cy) / (size * of(users.aperture))) ** 2)
        # pitch up moves the iris up the image, positive yaw to its left
        ix, iy = cx - size * torch.sin(yaw), cy - size * torch.sin(pitch)
        iris = inside(1 - ((x - ix) ** 2 + (y - iy) ** 2) / (0.5 * size) ** 2)
        image = image * (1 - white) + white * (0.95 - 0.8 * iris)
    nose = torch.exp(-((x / 0.08) ** 2) - ((y - 0.25) / 0.2) ** 2)
    image = (image - 0.15 * nose) * (1 + of(users.light) * x)
    return (image + 0.02 * torch.randn(image.shape, generator=rng)).unsqueeze(1)


def sample(users: Users, each: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """`each` images of every user, in the order of the users, and the true gaze `(n, 2)`: pitch, yaw."""
    who = torch.arange(len(users)).repeat_interleave(each)
    seen = (2 * torch.rand(len(who), 2, generator=rng) - 1) * torch.tensor(LIMIT)
    return render(users, who, seen, rng), seen + users.kappa[who]


def degrees(a: Tensor, b: Tensor) -> Tensor:
    """Angle in degrees between gazes `(n, 2)`, pitch and yaw in radians."""

    def vector(g: Tensor) -> Tensor:
        p, q = g.double().unbind(1)
        return -torch.stack([p.cos() * q.sin(), p.sin(), p.cos() * q.cos()], 1)

    u, v = vector(a), vector(b)
    return torch.rad2deg(torch.atan2(torch.linalg.cross(u, v).norm(dim=1), (u * v).sum(1)))
