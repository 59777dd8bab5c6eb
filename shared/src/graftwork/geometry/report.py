"""Two tasks' subspaces side by side: angle, overlap and their null level, by layer and in the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from graftwork.errors import GraftError
from graftwork.geometry.angles import Null, Subspace, null_level, principal_angles


@dataclass(frozen=True)
class Layer:
    """One layer.

    Args:
        name: of the layer.
        angle: smallest principal angle, radians.
        overlap: mean squared cosine of all of them.
        null: what random subspaces of these sizes show.
        weight: of this layer in the mean: its share of both tasks' gradient energy.
    """

    name: str
    angle: float
    overlap: float
    null: Null
    weight: float

    @property
    def cosine2(self) -> float:
        """Squared cosine of the smallest angle."""
        return math.cos(self.angle) ** 2


@dataclass(frozen=True)
class Report:
    """All layers; the means are weighted by gradient energy."""

    layers: tuple[Layer, ...]

    @property
    def cosine2(self) -> float:
        """Mean squared cosine of the smallest angle."""
        return sum(x.weight * x.cosine2 for x in self.layers)

    @property
    def excess(self) -> float:
        """Mean of cosine2 over its null level; 0 for unrelated tasks."""
        return sum(x.weight * (x.cosine2 - x.null.cosine2) for x in self.layers)

    @property
    def overlap(self) -> float:
        """Mean overlap."""
        return sum(x.weight * x.overlap for x in self.layers)

    @property
    def score(self) -> float:
        """By how many standard deviations of the null level the mean overlap lies above it."""
        above = sum(x.weight * (x.overlap - x.null.overlap) for x in self.layers)
        spread = math.sqrt(sum((x.weight * x.null.overlap_std) ** 2 for x in self.layers))
        return above / spread if spread > 0 else 0.0

    @property
    def closest(self) -> Layer:
        """The layer with the smallest angle."""
        return min(self.layers, key=lambda x: x.angle)

    @property
    def unrelated(self) -> bool:
        """Whether the tasks are as far apart as chance has it (two standard deviations).

        Then an orthogonality penalty has nothing to separate, and the rank may be chosen by what the new
        task needs.
        """
        return self.score <= 2.0


def compare(
    one: Mapping[str, Subspace], other: Mapping[str, Subspace], draws: int = 200, seed: int = 0
) -> Report:
    """Compare what `gradient_subspaces` gave for two tasks.

    Args:
        one, other: subspaces of the same layers, in the same space.
        draws, seed: of the null level.

    Raises:
        GraftError: other layers, or other dimensions.
    """
    if one.keys() != other.keys() or not one:
        differ = sorted(one.keys() ^ other.keys())
        raise GraftError(
            f"compare: the same layers are needed, at least one; they differ in {differ}"
        )
    totals = [sum(s.energy for s in side.values()) for side in (one, other)]
    nulls: dict[tuple[int, int, int], Null] = {}
    layers = []
    for name, a in one.items():
        b = other[name]
        if a.n != b.n:
            raise GraftError(f"compare: {name or 'the model'}: {a.n} dimensions against {b.n}")
        angles = principal_angles(a, b)
        size = (a.n, max(a.k, b.k), min(a.k, b.k))
        if size not in nulls:
            nulls[size] = null_level(*size, draws=draws, seed=seed)
        weight = (a.energy / totals[0] + b.energy / totals[1]) / 2
        shared = float(angles.cos().square().mean())
        layers.append(Layer(name, float(angles[0]), shared, nulls[size], weight))
    return Report(tuple(layers))
