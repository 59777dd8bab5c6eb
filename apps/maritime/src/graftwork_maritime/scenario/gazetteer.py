"""Named places: ports of the package searoute, capes, islands and sea areas of our own tables."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from graftwork.errors import GraftError

from ..spoken.alphabet import LETTER_OF
from ..spoken.numbers import NUMBER_WORDS
from .sea import data_file, distance_nm, is_sea

INLAND_NM = 15  # searoute lists river ports too
_PROCEDURE = {"north", "south", "east", "west", "over", "out", "channel"}
_DIRECTIONS = (
    "north",
    "north east",
    "east",
    "south east",
    "south",
    "south west",
    "west",
    "north west",
)


@dataclass(frozen=True)
class Spot:
    """A named point. `kind` is port, harbour, cape, island or peninsula."""

    name: str
    country: str
    kind: str
    lat: float
    lon: float

    @property
    def on_coast(self) -> bool:
        """Whether the sea is near."""
        return self.kind not in ("port", "harbour") or _sea_within(self.lat, self.lon, INLAND_NM)


class Gazetteer:
    """Spots in the order of their distance from a point."""

    def __init__(self, spots: list[Spot]) -> None:
        self.spots = spots
        self._lats = np.array([spot.lat for spot in spots])
        self._lons = np.array([spot.lon for spot in spots])

    def nearest(self, lat: float, lon: float, limit_nm: float) -> Iterator[tuple[float, Spot]]:
        """(distance in nautical miles, spot), nearest first, within the limit and on a coast."""
        distances = distance_nm(lat, lon, self._lats, self._lons)
        for place in np.argsort(distances, kind="stable"):
            if distances[place] > limit_nm:
                return
            if self.spots[place].on_coast:
                yield float(distances[place]), self.spots[place]


@cache
def ports() -> Gazetteer:
    """Ports with a terminal."""
    return Gazetteer([spot for spot in _searoute() if spot.kind == "port"])


@cache
def harbours() -> Gazetteer:
    """Ports without a terminal, which stand for harbours."""
    return Gazetteer([spot for spot in _searoute() if spot.kind == "harbour"])


@cache
def places() -> Gazetteer:
    """Capes, islands, peninsulas, port towns and harbour towns."""
    return Gazetteer([*_own(), *_searoute()])


def find(name: str) -> list[Spot]:
    """Every place of that name."""
    return [spot for spot in places().spots if spot.name.casefold() == name.casefold()]


def water_at(lat: float, lon: float) -> str | None:
    """The sea area whose rough box holds a point, the smallest of several."""
    inside = [
        ((north - south) * (east - west), name)
        for name, south, north, west, east in _seas()
        if south <= lat <= north and west <= lon <= east
    ]
    return min(inside)[1] if inside else None


def compass(lat: float, lon: float, spot: Spot, points: int = 8) -> str:
    """Where a point lies, seen from a spot, in 8 directions; with 4, by the signs of the two differences alone."""
    north, east = lat - spot.lat, (lon - spot.lon + 180) % 360 - 180
    if points == 4:
        return f"{'north' if north >= 0 else 'south'} {'east' if east >= 0 else 'west'}"
    angle = np.degrees(np.arctan2(east * np.cos(np.radians((lat + spot.lat) / 2)), north))
    return _DIRECTIONS[round(float(angle) / 45) % 8]


@cache
def _sea_within(lat: float, lon: float, limit_nm: float) -> bool:
    steps = np.linspace(-limit_nm / 60, limit_nm / 60, 13)
    stretch = 1 / max(float(np.cos(np.radians(lat))), 0.05)
    return any(is_sea(lat + a, (lon + b * stretch + 180) % 360 - 180) for a in steps for b in steps)


@cache
def _searoute() -> list[Spot]:
    file = data_file("searoute", "data/ports.geojson")
    try:
        features = json.loads(file.read_text(encoding="utf8"))["features"]
    except (OSError, ValueError, KeyError):
        raise GraftError(f"{file} is no list of ports; install searoute 1.6") from None
    spots = []
    for feature in features:
        facts, (lon, lat) = feature["properties"], feature["geometry"]["coordinates"]
        name = " ".join(re.findall(r"[A-Za-z']+", re.split(r"[,(/]", facts["name"] or "")[0]))
        country = " ".join(
            part if part in ("and", "of", "the") else part.capitalize()
            for part in (facts["cty"] or "").split("_")
        )
        if len(name) > 2 and country and name != country and not _misheard(name):
            kind = "port" if facts.get("t") == 1 else "harbour"
            spots.append(Spot(name, country, kind, lat, lon))
    return spots


def _misheard(name: str) -> bool:
    """Whether a name holds a word of the procedure: a figure, a letter, a direction or a signal."""
    words = set(name.lower().replace("'", " ").split())
    return bool(words & (NUMBER_WORDS | LETTER_OF.keys() | _PROCEDURE))


@cache
def _own() -> list[Spot]:
    rows = csv.DictReader(_table("places.csv"))
    spots = [
        Spot(r["name"], r["country"], r["kind"], float(r["lat"]), float(r["lon"])) for r in rows
    ]
    return [spot for spot in spots if not _misheard(spot.name)]


@cache
def _seas() -> list[tuple[str, float, float, float, float]]:
    rows = csv.DictReader(_table("seas.csv"))
    sides = ("south", "north", "west", "east")
    return [(r["name"], *(float(r[side]) for side in sides)) for r in rows]  # type: ignore[misc]


def _table(name: str) -> list[str]:
    return (files(__package__) / "data" / name).read_text(encoding="utf8").splitlines()
