"""Distributions that scenarios are drawn from, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graftwork.errors import GraftError

from .kinds import CATEGORIES, DISTRESS, PAPER


@dataclass(frozen=True)
class Preset:
    """A distribution of scenarios.

    Args:
        name: what it is called.
        draws: (kind, category) pairs in turn, so that every hundred indices hold equal shares.
        keep_mmsi, keep_call_sign, keep_type: probabilities that the identity's parts are known.
        south, north: limits of the latitude.
        by_area: positions uniform on the sphere; else uniform in latitude and longitude.
        offshore_nm: farthest from land.
        offshore: other limits by category or vessel type.
        points: compass directions, 8 or 4.
        whole_degrees: probability that no minutes are said.
        decimals: of the minutes, one drawn for each axis.
        digit_by_digit: probability that figures are said one by one.
        connectors: words for the decimal sign.
        dsc: distress alerts come before the voice call, and the coast station has a name.
    """

    name: str
    draws: tuple[tuple[str, str], ...]
    keep_mmsi: float = 1.0
    keep_call_sign: float = 0.9
    keep_type: float = 1.0
    south: float = -60.0
    north: float = 75.0
    by_area: bool = True
    offshore_nm: float = 60.0
    offshore: tuple[tuple[str, float], ...] = (("grounding", 1.0), ("Port Tender", 5.0))
    points: int = 8
    whole_degrees: float = 0.0
    decimals: tuple[int, ...] = (0, 2)
    digit_by_digit: float = 1.0
    connectors: tuple[str, ...] = ("decimal",)
    dsc: bool = True


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            # Every category as often as any other of its kind; distress twice as often as the rest.
            "coastal",
            tuple(
                (kind, category)
                for kind in ("distress", *CATEGORIES)
                for category in CATEGORIES[kind]
            ),
        ),
        Preset("distress", tuple(("distress", category) for category in DISTRESS)),
        # The published context generator (arXiv 2603.04423); docs/maritime-scenarios.md lists what differs.
        Preset(
            "paper",
            tuple(("distress", category) for category in PAPER),
            keep_mmsi=0.4,
            keep_call_sign=0.5,
            keep_type=0.6,
            north=90.0,
            by_area=False,
            points=4,
            whole_degrees=0.5,
            digit_by_digit=0.5,
            connectors=("decimal", "point"),
            dsc=False,
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises GraftError that lists the known ones."""
    if name not in PRESETS:
        raise GraftError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
