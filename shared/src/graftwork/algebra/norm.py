"""Normalisation layers, as far as a graft on their bias needs to know them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graftwork.algebra.geometry import Geometry


@dataclass(frozen=True)
class Norm(Geometry):
    """A norm with an affine part.

    Args:
        shape: the bias's shape.
        channel_first: channels are axis 1 of the batch (batch, group and instance norm), not the
        last. spatial_dims: spatial dimensions where the class fixes them; `None` reads them off the
        output.
    """

    shape: tuple[int, ...] = ()
    channel_first: bool = False
    spatial_dims: int | None = None

    @property
    def kind(self) -> str:
        return "norm"

    def channels(self, vector: Tensor, y: Tensor) -> Tensor:
        if not self.channel_first:
            return vector.reshape(self.shape)
        n = y.dim() - 2 if self.spatial_dims is None else self.spatial_dims
        return vector.reshape(-1, *[1] * n)
