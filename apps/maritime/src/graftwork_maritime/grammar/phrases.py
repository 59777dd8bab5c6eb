"""The composer's wordings, from the package's own tables."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from ..scenario.model import Near, Scenario
from ..spoken import cardinal, clock, digits, spell

_ONE = re.compile(r"\bone (nautical )?(mile|minute|hour|knot|degree)s\b")


@cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((files(__package__) / "data" / f"{name}.toml").read_text(encoding="utf8"))


def categories() -> dict[str, Any]:
    """{category: {"nature": [...], fact: {"say": [...], "ask": [...]}}}."""
    return _table("categories")


def procedure() -> dict[str, Any]:
    """{part: wordings}."""
    return _table("procedure")


def rescue(scenario: Scenario, draw: Random) -> tuple[str, int]:
    """A unit that fits the category, and the minutes that it takes from the nearest known place."""
    units = procedure()["units"].get(scenario.category) or procedure()["units"]["other"]
    unit = draw.choice(sorted(units))
    start = scenario.port or scenario.harbour or scenario.place or Near("", 30)
    return unit, round(60 * start.distance_nm / units[unit]) + draw.randrange(10, 31)


class Voice:
    """Says parts of one scenario; draws each wording once before it says one again."""

    def __init__(self, scenario: Scenario, draw: Random, station: str) -> None:
        self.scenario, self.draw = scenario, draw
        vessel, other = scenario.vessel, scenario.other_vessel
        self.words = {
            "name": vessel.name,
            "caller": other.name if scenario.kind == "relay" and other else vessel.name,
            "type": vessel.type,
            "station": station,
            "position": scenario.position.words(),
            "ids": self._ids(),
            "other": other.name if other else "",
            "help": scenario.help[0] if scenario.help else "",
            "clock": clock(scenario.utc[11:16]),
        }
        self._used: set[str] = set()

    def _ids(self) -> str:
        vessel = self.scenario.vessel
        ids = [f"MMSI {spell(vessel.mmsi)}"] if vessel.mmsi else []
        if vessel.call_sign:
            ids.append(f"call sign {spell(vessel.call_sign)}")
        self.draw.shuffle(ids)
        return "".join(f", {part}" for part in ids)

    def number(self, value: int) -> str:
        """A number in the scenario's way of figures."""
        return digits(value) if self.scenario.position.digit_by_digit else cardinal(value)

    def fact(self, key: str, value: str | int) -> str:
        """A fact as it is said."""
        if key.endswith("_utc"):
            return clock(str(value))
        return self.number(value) if isinstance(value, int) else value

    def choose(self, wordings: list[str]) -> str:
        """One of several, an unused one as long as there are any."""
        fresh = [w for w in wordings if w not in self._used] or wordings
        chosen = self.draw.choice(fresh)
        if len(chosen) > 8:
            self._used.add(chosen)
        return chosen

    def say(self, part: str, **more: str) -> str:
        """One wording of a part of the procedure."""
        return self.fill(self.choose(procedure()[part]), **more)

    def fill(self, wording: str, **more: str) -> str:
        """A wording with its slots filled; a sentence begins with a capital."""
        text = wording.format(**{**self.words, **more})
        if "one" in (more.get("n"), more.get("x"), more.get("m")):
            text = _ONE.sub(r"one \1\2", text)
        return text[:1].upper() + text[1:]

    def chance(self, share: float) -> bool:
        """True with that probability."""
        return self.draw.random() < share
