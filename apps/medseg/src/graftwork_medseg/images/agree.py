"""How the options of the data and the contract of a network come together: agreed, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from graftwork.errors import GraftError

from ..demo.sim import SPACING
from .contract import Contract, Intensity, Triple, checked_spacing, words


def unstated(*channels: str) -> Contract:
    """What medseg prepares by when nothing states a contract: 2 mm, each volume normalised."""
    return Contract(channels=channels, spacing=SPACING, intensity=Intensity("volume"))


UNSTATED = unstated("image")


@dataclass(frozen=True)
class Options:
    """What the user, or the user's data, asks for; None or empty: whatever the contract says.

    Args:
        spacing: as `Contract.spacing`; "own" keeps each image's own.
        intensity: the rule of every channel.
        channels: names of the data's channels.
        classes: class names of the data.
    """

    spacing: float | Triple | str | None = None
    intensity: Intensity | None = None
    channels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def asked_spacing(self) -> Triple | None:
        """The working spacing that was asked for; None is each image's own.

        Raises:
            GraftError: not "own" and not one or three positive numbers.
        """
        if self.spacing == "own":
            return None
        return checked_spacing(self.spacing, "data.spacing")


def agree(
    known: Contract | None,
    options: Options,
    source: str,
    *,
    free: bool,
    graft: bool,
    patch: Sequence[int] = (),
) -> Contract:
    """The contract to prepare images by.

    Args:
        known: the contract of the graft or, without one, of the base; None: it states none.
        options: what the data and its user ask for.
        source: the file or folder that `known` comes from, for messages.
        free: something new is trained, so that options may differ from `known`: what results is the new
            graft's contract. Otherwise an option that contradicts `known` is refused.
        graft: `known` is a graft's. Its class names must be the data's; a base's need not.
        patch: patch size that is trained at, when `free`.

    Raises:
        GraftError: an option or the data contradict `known`, with both values; or `known` is None and an
            option is missing.
    """
    if known is None:
        missing = [n for n in ("spacing", "intensity") if getattr(options, n) is None]
        if missing:
            raise GraftError(
                f"{source}: states no preprocessing; give data.{' and data.'.join(missing)} as it was "
                'trained ("own" as spacing keeps each image\'s own)'
            )
        known, free = Contract(channels=options.channels or ("image",)), True
    if options.channels and len(options.channels) != len(known.channels):
        raise GraftError(
            f"data: has {len(options.channels)} channel(s), {', '.join(options.channels)}; {source} was "
            f"trained on {len(known.channels)}: {', '.join(known.channels)}"
        )
    if graft and not free and options.classes and known.classes not in ((), options.classes):
        raise GraftError(
            f"data: its classes are {', '.join(options.classes)}; {source} tells apart "
            f"{', '.join(known.classes)}; give it data with the same labels"
        )
    spacing, rules = known.spacing, known.rules
    if options.spacing is not None:
        spacing = options.asked_spacing()
        if not free and not _same(spacing, known.spacing):
            raise GraftError(
                f"data.spacing {words(spacing)} contradicts {source}, which was trained at "
                f"{words(known.spacing)}; leave data.spacing out"
            )
    if options.intensity is not None:
        rules = (options.intensity,) * len(known.channels)
        if rules != known.rules and not free:
            stated = ", ".join(dict.fromkeys(map(str, known.rules)))
            raise GraftError(
                f"data.intensity {options.intensity} contradicts {source}, which was trained with "
                f"{stated}; leave data.intensity out"
            )
    if not free:
        return known
    return replace(
        known,
        classes=options.classes or known.classes,
        channels=options.channels or known.channels,
        spacing=spacing,
        intensity=rules,
        patch=tuple(patch) if patch else known.patch,  # type: ignore[arg-type]
        ranges=None,
    )


def _same(a: Triple | None, b: Triple | None) -> bool:
    """Equal up to the digits that people type."""
    if a is None or b is None:
        return a is b
    return all(math.isclose(x, y, rel_tol=1e-3) for x, y in zip(a, b, strict=True))
