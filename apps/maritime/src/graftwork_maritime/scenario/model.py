"""A scenario and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any

from graftwork.errors import GraftError

from ..spoken import Position
from .kinds import CATEGORIES


@dataclass(frozen=True)
class Vessel:
    """A vessel in trouble, or the one whose call it is.

    Args:
        name, type: as they are said; a type that is not known is "Motor Vessel".
        mmsi: nine digits as text, or None.
        call_sign: letters and figures, or None.
        persons: persons on board.
        cargo: what is carried, or None.
    """

    name: str
    type: str = "Motor Vessel"
    mmsi: str | None = None
    call_sign: str | None = None
    persons: int = 1
    cargo: str | None = None


@dataclass(frozen=True)
class Place:
    """A named place: the vessel lies `distance_nm` nautical miles to the `bearing` of it."""

    name: str
    country: str | None = None
    kind: str = "port"
    bearing: str | None = None
    distance_nm: int = 1


@dataclass(frozen=True)
class Near:
    """A port or harbour and how far away it is, in nautical miles."""

    name: str
    distance_nm: int


@dataclass(frozen=True)
class Other:
    """The other vessel: struck, or the one that relays."""

    name: str
    type: str | None = None


@dataclass(frozen=True)
class Weather:
    """Wind (Beaufort force, where from), sea and visibility (nautical miles)."""

    force: int
    wind: str
    sea: str
    visibility_nm: int


@dataclass(frozen=True)
class Dsc:
    """The digital alert on channel 70 that comes before the voice call."""

    nature: int
    mmsi: str
    lat: float
    lon: float
    utc: str


@dataclass(frozen=True)
class Station:
    """A coast station."""

    name: str = "Coast Guard"
    mmsi: str | None = None


@dataclass(frozen=True)
class Scenario:
    """One situation; docs/maritime-scenarios.md says what each key means.

    Raises GraftError for an unknown kind or category.
    """

    id: str
    seed: int
    exercise: bool
    kind: str
    category: str
    vessel: Vessel
    position: Position
    place: Place | None = None
    port: Near | None = None
    harbour: Near | None = None
    water: str | None = None
    other_vessel: Other | None = None
    weather: Weather | None = None
    utc: str = "2026-01-01T12:00Z"
    dsc: Dsc | None = None
    station: Station = field(default_factory=Station)
    help: tuple[str, ...] = ()
    facts: Mapping[str, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in CATEGORIES:
            raise GraftError(f"kind is {self.kind!r}; choose one of {', '.join(CATEGORIES)}")
        if self.category not in CATEGORIES[self.kind]:
            known = ", ".join(CATEGORIES[self.kind])
            raise GraftError(f"category is {self.category!r}; {self.kind} has {known}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, in the order of the fields."""
        return {**asdict(self), "help": list(self.help), "facts": dict(self.facts)}

    def to_json(self) -> str:
        """One line; the same text on every platform."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scenario:
        """The inverse of `as_dict`; keys that may be left out have the defaults above.

        Raises GraftError that names a key which is unknown, missing or of the wrong form.
        """
        if not isinstance(values, Mapping):
            raise GraftError("a scenario must be an object of keys and values")
        values = {key: value for key, value in values.items() if key != "notice"}
        position = values.get("position")
        if isinstance(position, Mapping) and "lon_minutes" not in position:
            values["position"] = {**position, "lon_minutes": position.get("minutes", 0)}
        for name, kind in _PARTS.items():
            if values.get(name) is not None:
                values[name] = _build(kind, values[name], f"{name}.")
        values["help"] = tuple(values.get("help") or ())
        values["facts"] = dict(values.get("facts") or {})
        if values.get("station") is None:
            values.pop("station", None)
        built: Scenario = _build(cls, values, "")
        return built


_PARTS = {
    "vessel": Vessel,
    "position": Position,
    "place": Place,
    "port": Near,
    "harbour": Near,
    "other_vessel": Other,
    "weather": Weather,
    "dsc": Dsc,
    "station": Station,
}


def _build(kind: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise GraftError(f"{prefix[:-1] or 'a scenario'} must be an object of keys and values")
    known = {f.name for f in fields(kind)} if is_dataclass(kind) else set()
    unknown = sorted(set(values) - known)
    if unknown:
        raise GraftError(f"{prefix}{unknown[0]} is no key of a scenario; take it out")
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    if missing := next((name for name in needed if name not in values), None):
        raise GraftError(f"{prefix}{missing} is missing; `maritime scenario` writes whole ones")
    try:
        return kind(**values)
    except TypeError as error:
        said = str(error).partition("__init__() ")[2] or f"a value is of the wrong form ({error})"
        raise GraftError(f"{prefix[:-1] or 'a scenario'}: {said}") from None
