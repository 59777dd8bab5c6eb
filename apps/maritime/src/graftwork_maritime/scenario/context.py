"""The published context of a dialogue (arXiv 2603.04423), which its filters read.

Every value is the text that must be found in the dialogue, or None where the context leaves it out.
"""

from __future__ import annotations

from ..spoken import cardinal, digits, spell
from .kinds import CARRIES_CARGO
from .model import Scenario


def paper_context(scenario: Scenario) -> dict[str, str | bool | None]:
    """The context's keys with spelled words; distances in the way of figures that `digit_by_digit` says."""
    vessel, place, other = scenario.vessel, scenario.place, scenario.other_vessel
    one_by_one = scenario.position.digit_by_digit

    def number(value: int) -> str:
        return digits(value) if one_by_one else cardinal(value)

    context: dict[str, str | bool | None] = {
        "vessel_name": vessel.name,
        "vessel_MMSI": spell(vessel.mmsi) if vessel.mmsi else None,
        "vessel_call_sign": spell(vessel.call_sign) if vessel.call_sign else None,
        "vessel_type": vessel.type,
        "vessel_coordinate_dms": scenario.position.words(),
        "compass_direction": place.bearing if place else None,
        "closest_place_name": place.name if place else None,
        "distance_to_nearest_place": number(place.distance_nm) if place else None,
        "closest_place_country": place.country if place else None,
    }
    for key, near in (("port", scenario.port), ("harbor", scenario.harbour)):
        context[f"distance_to_nearest_{key}"] = number(near.distance_nm) if near else None
        context[f"nearest_{key}"] = near.name if near else None
    context["digit_by_digit"] = one_by_one or None
    context["can_have_cargo"] = True if vessel.type in CARRIES_CARGO else None
    context["closest_water_body"] = scenario.water
    if scenario.category == "collision":
        context["collided_vessel_name"] = other.name if other else None
        context["collided_vessel_type"] = other.type if other else None
    return context
