"""Scenarios that somebody hands in: they are to be possible, not only well-formed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError

from .identities import check_ship
from .model import Scenario
from .register import decode
from .sea import is_sea


def given(values: Any) -> Scenario:
    """The scenario of a JSON object.

    Raises:
        GraftError: it is no scenario, its vessel's numbers are no ship's, or its position is on land; lakes count as
            land.
    """
    scenario = Scenario.from_dict(values)
    vessel, position = scenario.vessel, scenario.position
    try:
        check_ship(vessel.mmsi, vessel.call_sign, scenario.exercise)
        at_sea = is_sea(position.lat, position.lon)
    except TypeError as error:
        raise GraftError(
            f"a value is of the wrong form ({error}); `maritime scenario` writes some"
        ) from None
    if not at_sea:
        raise GraftError(
            f"position {position.lat:g}, {position.lon:g} is on land; give one at sea, with south and west below zero"
        )
    return scenario


def read_scenarios(file: str | Path) -> list[Scenario]:
    """The scenarios of a JSONL file, one a line, or those of its dialogues.

    Raises GraftError with the line and the remedy.
    """
    path = Path(file)
    try:
        text = decode(path.read_bytes(), str(path))
    except OSError as error:
        raise GraftError(f"{path}: {error.strerror}; check --scenarios") from None
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            found.append(given(raw.get("scenario", raw) if isinstance(raw, dict) else raw))
        except GraftError as error:
            raise GraftError(f"{path} line {number}: {error}") from None
        except (ValueError, RecursionError):
            raise GraftError(
                f"{path} line {number}: not JSON; write one whole object a line"
            ) from None
    if not found:
        raise GraftError(
            f"{path} holds no scenario; write some with `maritime scenario --out {path}`"
        )
    return found
