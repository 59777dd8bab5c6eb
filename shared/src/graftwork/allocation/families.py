"""Families: which method at which sizes a unit may carry. A further one joins by one call.

register_family(Family("blocks", lambda n: DiaBlo(blocks=n), levels=(4, 8), label="n"))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from graftwork.algebra.geometry import Geometry
from graftwork.errors import GraftError
from graftwork.methods.adaptformer import AdaptFormer
from graftwork.methods.alfa import Alfa
from graftwork.methods.base import Method
from graftwork.methods.lora import LoRA
from graftwork.methods.norm_affine import NormAffine


@dataclass(frozen=True)
class Family:
    """One way to adapt a host, in several sizes.

    Args:
        name: as it stands in a unit's name.
        method: the method at a level.
        levels: sizes, smallest first.
        label: before the level in a unit's name, such as "r" in "lora-r4"; "" leaves the level out.
        single: a unit has one host; of several it takes the last, whose output leaves the block.
        bounded: the level is an inner width, which must not exceed the host's input or output.
        on_request: only where it is named, so that a search that names no family stays what it was.
    """

    name: str
    method: Callable[[int], Method]
    levels: tuple[int, ...] = (1,)
    label: str = ""
    single: bool = False
    bounded: bool = True
    on_request: bool = False

    def __post_init__(self) -> None:
        if not self.name or any(c in self.name for c in ".:/\\= ") or len(self.name) > 30:
            raise GraftError(f"Family.name: {self.name!r} is no plain word of up to 30 letters")
        if not self.levels or list(self.levels) != sorted({*self.levels}):
            raise GraftError(f"Family.levels: {self.levels!r} must rise, without repetition")
        if len(self.levels) > 1 and not self.label:
            raise GraftError(f"Family.label: {self.name!r} has several levels, so name them")

    @property
    def owns_modules(self) -> bool:
        """A unit copies its hosts whole."""
        return self.method(self.levels[0]).changes == "module"

    def word(self, level: int) -> str:
        """The last part of a unit's name."""
        return f"{self.name}-{self.label}{level}" if self.label else self.name

    def fits(self, level: int, geo: Geometry | None) -> bool:
        """Whether the host is at least as wide as the level."""
        return geo is None or not self.bounded or level <= width(geo)


def width(geo: Geometry) -> int:
    """min(d_in, d_out) of a layer's linear map; a convolution's d_in is a whole patch of its input."""
    return min(geo.out, geo.in_ // geo.groups * math.prod(geo.kernel))


_FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> Family:
    """Let manifests and `units` find a family by its name.

    Raises:
        GraftError: another family has that name.
    """
    if _FAMILIES.setdefault(family.name, family) is not family:
        raise GraftError(f"register_family: there is a family {family.name!r} already")
    return family


def families(wanted: Iterable[str | Family] | str | Family | None = None) -> list[Family]:
    """Families by name; `None` gives all that are registered and not `on_request`.

    Raises:
        GraftError: a name that is not registered, or nothing wanted.
    """
    if wanted is None:
        return [f for f in _FAMILIES.values() if not f.on_request]
    items = [wanted] if isinstance(wanted, str | Family) else list(wanted)
    for item in items:
        if not isinstance(item, Family) and item not in _FAMILIES:
            raise GraftError(f"families: no family {item!r}; there are {sorted(_FAMILIES)}")
    if not items:
        raise GraftError(f"families: name at least one of {sorted(_FAMILIES)}")
    return [item if isinstance(item, Family) else _FAMILIES[item] for item in items]


register_family(Family("lora", LoRA, levels=(4, 8, 16), label="r"))
register_family(Family("affine", lambda _: NormAffine()))
# scale 1 as in the paper's units, where AdaptFormer itself has 0.1
register_family(
    Family("adaptformer", lambda b: AdaptFormer(b, 1.0), (4, 8, 16, 32), "b", single=True)
)
# the diagonal's cost rises with the level, g r + 1 for g groups; that of the attention would not
register_family(
    Family(
        "alfa", lambda k: Alfa(k, form="diagonal"), (4, 8, 16), "k", bounded=False, on_request=True
    )
)
