"""Which outputs of a network stand for which labels of a site: by name, where organs are asked for by name.

    organs = Organs.match(base=("background", "Mandible"), site=("background", "Larynx", "Mandible"),
                          asked=["larynx"])
    organs.classes      # ("background", "Mandible", "Larynx"): the network's outputs, new ones last
    organs.remap(mask)  # the site's label values to these; what was not asked for becomes background

A site's label says nothing about organs that were not asked for, and the loss must not pretend that it does: `known`
tells which outputs it decides, see `losses.dice_ce`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graftwork.errors import GraftError

from .nifti import Array

SIDES = ("left", "right")


@dataclass(frozen=True)
class Organs:
    """The outputs of an adapted network, and how a site's labels map onto them.

    Args:
        classes: names of the outputs, background first; the base's keep their places.
        asked: organs that are learnt and scored.
        table: output of each label value of the site.
    """

    classes: tuple[str, ...]
    asked: tuple[str, ...]
    table: tuple[int, ...] = ()

    @classmethod
    def match(
        cls,
        base: Sequence[str],
        site: Sequence[str],
        asked: Sequence[str],
        *,
        where: str = "data",
    ) -> Organs:
        """Match names, whatever their case.

        Args:
            base: outputs of the base, background first.
            site: the site's class names by label value, background first.
            asked: organs to learn, by the site's names.
            where: the site, for messages.

        Raises:
            GraftError: a base without class names; an organ that no label of the site has, that is asked
                twice, or is the base's background.
        """
        if not base:
            raise GraftError(
                "organ: the base states no class names, so outputs cannot be found by name; leave --organ "
                "out, and classes go by number"
            )
        if not asked:
            raise GraftError("organ: name at least one")
        names = {n.casefold(): i for i, n in enumerate(site) if i}
        chosen: list[int] = []
        for organ in asked:
            value = names.get(organ.casefold())
            if value is None:
                raise GraftError(
                    f"organ {organ!r}: {where} has no such label; it has {', '.join(site[1:]) or 'none'}"
                )
            if value in chosen:
                raise GraftError(f"organ {organ!r} is asked for twice")
            chosen.append(value)
        outputs = {n.casefold(): i for i, n in enumerate(base)}
        classes, table = list(base), [0] * len(site)
        for value in chosen:
            output = outputs.get(site[value].casefold())
            if output == 0:
                raise GraftError(f"organ {site[value]!r} is the background of the base")
            if output is None:
                output = len(classes)
                classes.append(site[value])
            table[value] = output
        learnt = tuple(classes[table[value]] for value in chosen)
        return cls(tuple(classes), learnt, tuple(table))

    @property
    def known(self) -> tuple[bool, ...]:
        """For each output, whether the site's labels decide it: background and the asked."""
        decided = {self.classes[0], *self.asked}
        return tuple(name in decided for name in self.classes)

    def remap(self, label: Array) -> Array:
        """Label values of the site (any shape, uint8) to outputs; what was not asked for becomes 0."""
        return np.asarray(self.table, np.uint8)[label]

    def values(self) -> tuple[int, ...]:
        """The site's label values of the asked organs."""
        return tuple(value for value, output in enumerate(self.table) if output)


def sided(classes: Sequence[str]) -> bool:
    """Whether a class name tells left from right, so that a mirrored patch would carry a wrong label."""
    return any(side in name.casefold() for name in classes for side in SIDES)
