"""The seeded engine: a scenario is a pure function of preset, register, seed and index.

Python's own generator is seeded with a text, and only its `random`, `choice` and `randrange` are used: the same
numbers on every platform and version. Distances and positions are rounded before they are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from random import Random

from graftwork.errors import GraftError

from ..spoken import Position
from . import gazetteer
from .identities import EXERCISE_MIDS, EXERCISE_PREFIX
from .kinds import CARGOES, CARRIES_CARGO, FACTS, HELP, NATURES, PERSONS
from .model import Dsc, Near, Other, Place, Scenario, Station, Vessel, Weather
from .names import NAMES
from .presets import preset as named
from .sea import is_sea, land_crossings, land_distance, share_at_sea

PLACE_NM = 120
PORT_NM = 200
TRIES = 200_000
ICE_LATITUDE = 55
# Vessel types as often as in the published table, and their shares in percent.
SHARES = {
    "Other": 31,
    "Cargo Vessel": 16,
    "Fishing Vessel": 9,
    "Pleasure Craft": 9,
    "Sailing Vessel": 9,
    "Tanker": 7,
    "Towing Vessel": 5,
    "Passenger Vessel": 5,
    "Tugboat": 5,
    "Search and Rescue Vessel": 2,
    "Law Enforcement Vessel": 1,
    "Military Vessel": 1,
}
SEAS = ("calm", "slight", "moderate", "rough", "very rough", "high")
UNKNOWN = "Motor Vessel"


class Engine:
    """Draws scenarios.

    Args:
        preset: name of the distribution.
        register: a user's own vessels; without it they are invented, with numbers that nobody has.
        exercise: invented vessels are allowed, and every scenario is marked as exercise.

    Raises GraftError for an unknown preset, or without a register and `exercise`.
    """

    def __init__(
        self, preset: str = "coastal", register: Sequence[Vessel] = (), exercise: bool = False
    ) -> None:
        if not register and not exercise:
            raise GraftError(
                "invented vessels are for exercises: pass --exercise, or --register with vessels of your own"
            )
        self.preset = named(preset)
        self.register = tuple(register)
        self.exercise = exercise

    def scenarios(self, seed: int, count: int, start: int = 0) -> Iterator[Scenario]:
        """Those of the indices from `start` to `start + count`."""
        for index in range(start, start + count):
            yield self.scenario(seed, index)

    def scenario(self, seed: int, index: int) -> Scenario:
        """One scenario."""
        name = f"{self.preset.name}-{seed}-{index:06}"
        draw = Random(f"graftwork maritime {name}")
        kind, category = self.preset.draws[index % len(self.preset.draws)]
        vessel = self._vessel(draw, category)
        lat, lon, distance, spot = self._point(draw, category, vessel.type)
        position = self._position(draw, lat, lon)
        near = {}
        for key, table in (("port", gazetteer.ports), ("harbour", gazetteer.harbours)):
            found = next(table().nearest(lat, lon, PORT_NM), None)
            if found and not _alike(found[1].name, spot.name):
                near[key] = Near(found[1].name, _miles(found[0]))
        start = datetime(2026, 1, 1) + timedelta(minutes=draw.randrange(365 * 24 * 60))
        utc = start.strftime("%Y-%m-%dT%H:%MZ")
        facts = _facts(draw, category, start)
        return Scenario(
            id=name,
            seed=seed,
            exercise=self.exercise,
            kind=kind,
            category=category,
            vessel=vessel,
            position=position,
            place=Place(
                spot.name,
                spot.country,
                spot.kind,
                gazetteer.compass(lat, lon, spot, self.preset.points),
                _miles(distance),
            ),
            port=near.get("port"),
            harbour=near.get("harbour"),
            water=gazetteer.water_at(lat, lon),
            other_vessel=self._other(draw, kind, category, vessel, facts),
            weather=_weather(draw),
            utc=utc,
            dsc=self._dsc(draw, kind, category, vessel, position, start),
            station=self._station(draw, spot.name),
            help=tuple([draw.choice(HELP[category])] if category in HELP else ()),
            facts=facts,
        )

    def _vessel(self, draw: Random, category: str) -> Vessel:
        if self.register:
            vessel = draw.choice(self.register)
            name, kind, mmsi, call = vessel.name, vessel.type, vessel.mmsi, vessel.call_sign
        else:
            name, kind = draw.choice(NAMES), _weighted(draw, SHARES)
            mmsi = f"{draw.choice(EXERCISE_MIDS)}{draw.randrange(10**6):06}"
            letters = "".join(draw.choice("ABCDEFGHIJKLMNOPRSTUVWXYZ") for _ in range(3))
            call = f"{EXERCISE_PREFIX}{letters}{draw.choice(('', str(draw.randrange(2, 10))))}"
        keep_mmsi, keep_call, keep_type = (draw.random() for _ in range(3))
        preset = self.preset
        if kind == "Other" or keep_type >= preset.keep_type:
            kind = UNKNOWN
        if category == "cargo" and kind not in CARGOES:
            kind = "Cargo Vessel"
        low, high = PERSONS.get(kind, PERSONS[UNKNOWN])
        persons = draw.randrange(low, high + 1)
        cargo = draw.choice(CARGOES[kind]) if kind in CARRIES_CARGO else None
        return Vessel(
            name,
            kind,
            mmsi if keep_mmsi < preset.keep_mmsi else None,
            call if keep_call < preset.keep_call_sign else None,
            persons,
            cargo,
        )

    def _point(
        self, draw: Random, category: str, kind: str
    ) -> tuple[float, float, float, gazetteer.Spot]:
        """A point at sea near land and near a named place: latitude, longitude, miles to the place, the place."""
        preset = self.preset
        limits = dict(preset.offshore)
        limit = min(limits.get(category, preset.offshore_nm), limits.get(kind, preset.offshore_nm))
        south, north = math.sin(math.radians(preset.south)), math.sin(math.radians(preset.north))
        for _ in range(TRIES):
            u, v = draw.random(), draw.random()
            lat = preset.south + u * (preset.north - preset.south)
            if preset.by_area:
                lat = math.degrees(math.asin(south + u * (north - south)))
            lat, lon = round(lat, 6), round(v * 360 - 180, 6)
            if category == "ice" and abs(lat) < ICE_LATITUDE:
                continue
            if not is_sea(lat, lon) or land_distance(lat, lon, limit) is None:
                continue
            for distance, spot in gazetteer.places().nearest(lat, lon, PLACE_NM):
                if land_crossings(lat, lon, spot.lat, spot.lon) <= 1:
                    if spot.kind in ("island", "peninsula"):  # to its shore, not to its middle
                        distance *= share_at_sea(lat, lon, spot.lat, spot.lon)
                    return lat, lon, distance, spot
        raise GraftError(
            f"no position at sea in {TRIES} draws; the preset {preset.name} is too narrow"
        )

    def _position(self, draw: Random, lat: float, lon: float) -> Position:
        preset = self.preset
        digit_by_digit = draw.random() < preset.digit_by_digit
        whole = draw.random() < preset.whole_degrees
        minutes, lon_minutes = draw.choice(preset.decimals), draw.choice(preset.decimals)
        connector = draw.choice(preset.connectors)
        if whole:
            return Position(lat, lon, digit_by_digit, None, None, connector)
        said = Position(lat, lon, digit_by_digit, minutes, lon_minutes, connector)
        if is_sea(said.rounded().lat, said.rounded().lon):
            return said
        return Position(lat, lon, digit_by_digit, 2, 2, connector)

    def _other(
        self, draw: Random, kind: str, category: str, vessel: Vessel, facts: dict[str, str | int]
    ) -> Other | None:
        known = draw.random() < 0.5
        other = draw.choice(self.register) if self.register else Vessel(draw.choice(NAMES))
        kind_drawn = _weighted(draw, SHARES) if not self.register else other.type
        if other.name == vessel.name or not (
            kind == "relay" or (category == "collision" and known)
        ):
            return None if kind != "relay" else Other("Relay Station", UNKNOWN)
        if kind == "distress":
            facts.pop("struck", None)
        return Other(other.name, UNKNOWN if kind_drawn == "Other" else kind_drawn)

    def _dsc(
        self,
        draw: Random,
        kind: str,
        category: str,
        vessel: Vessel,
        position: Position,
        start: datetime,
    ) -> Dsc | None:
        before = draw.randrange(1, 5)
        if not self.preset.dsc or kind != "distress" or vessel.mmsi is None:
            return None
        utc = (start - timedelta(minutes=before)).strftime("%Y-%m-%dT%H:%MZ")
        return Dsc(NATURES[category], vessel.mmsi, position.lat, position.lon, utc)

    def _station(self, draw: Random, place: str) -> Station:
        invented = f"00{draw.choice(EXERCISE_MIDS)}{draw.randrange(10**4):04}"
        mmsi = invented if self.exercise else None
        if not self.preset.dsc:
            return Station("Coast Guard", mmsi)
        return Station(f"{place} {draw.choice(('Coast Guard', 'Radio', 'Rescue'))}", mmsi)


def _alike(name: str, other: str) -> bool:
    """Whether one name holds the other."""
    return name.casefold() in other.casefold() or other.casefold() in name.casefold()


def _miles(distance: float) -> int:
    return max(round(distance), 1)


def _weighted(draw: Random, shares: dict[str, int]) -> str:
    mark = draw.randrange(sum(shares.values()))
    for name, share in shares.items():
        mark -= share
        if mark < 0:
            return name
    raise AssertionError("shares are positive")


def _facts(draw: Random, category: str, start: datetime) -> dict[str, str | int]:
    facts: dict[str, str | int] = {}
    for key, choices in FACTS[category].items():
        if key.endswith("_utc"):
            facts[key] = (start - timedelta(minutes=draw.randrange(5, 90))).strftime("%H:%M")
        else:
            facts[key] = choices[draw.randrange(len(choices))]
    return facts


def _weather(draw: Random) -> Weather:
    force = draw.randrange(1, 11)
    wind = draw.choice(("north", "north east", "east", "south east", "south", "south west", "west"))
    sea = SEAS[min(max(force // 2 + draw.randrange(-1, 2), 0), len(SEAS) - 1)]
    return Weather(force, wind, sea, draw.choice((1, 2, 4, 6, 10)))
