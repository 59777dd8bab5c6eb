"""Scenarios that somebody hands in: they are to be possible, not only well-formed."""

from __future__ import annotations

from typing import Any

from graftwork.errors import GraftError

from .model import Scenario
from .sea import is_sea


def given(values: Any) -> Scenario:
    """The scenario of a JSON object.

    Raises:
        GraftError: it is no scenario, or its position is on land; lakes count as land.
    """
    scenario = Scenario.from_dict(values)
    lat, lon = scenario.position.lat, scenario.position.lon
    if not is_sea(lat, lon):
        raise GraftError(
            f"position {lat:g}, {lon:g} is on land; give one at sea, with south and west below zero"
        )
    return scenario
