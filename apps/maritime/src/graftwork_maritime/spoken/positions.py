"""Positions, bearings and times in words, and back.

A position is said in degrees and minutes: "five zero degrees four three decimal two five minutes North, zero zero
one degrees one five minutes West". Reading the words gives `Position.rounded()` back exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from graftwork.errors import GraftError

from .numbers import DECIMAL, NUMBER_WORDS, cardinal, digits, read_number

MINUTES = (None, 0, 2)
_NUMBER = (
    rf"(?:(?:{'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))}|{'|'.join(DECIMAL)})[\s-]+)+"
)
_AXIS = re.compile(
    rf"(?P<degrees>{_NUMBER})degrees?[\s,]+(?:(?P<minutes>{_NUMBER})minutes?[\s,]+)?"
    r"(?P<side>north|south|east|west)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Position:
    """A position, and how precisely and in which words it is said.

    Args:
        lat: latitude in decimal degrees, north positive, -90 to 90.
        lon: longitude in decimal degrees, east positive, -180 to 180.
        digit_by_digit: degrees and whole minutes digit by digit; else as cardinals, which is off the standard.
        minutes: decimals of the latitude's minutes, 0 or 2; None says whole degrees alone.
        lon_minutes: the same of the longitude, which says minutes when the latitude does.
        connector: "decimal" or "point".
    """

    lat: float
    lon: float
    digit_by_digit: bool = True
    minutes: int | None = 0
    lon_minutes: int | None = 0
    connector: str = "decimal"

    def __post_init__(self) -> None:
        for name, value, limit in (("lat", self.lat, 90), ("lon", self.lon, 180)):
            if not -limit <= value <= limit:
                raise GraftError(f"position.{name} is {value}; it must be from {-limit} to {limit}")
        if self.minutes not in MINUTES or self.lon_minutes not in MINUTES:
            raise GraftError("position.minutes must be 0, 2 or null")
        if (self.minutes is None) != (self.lon_minutes is None):
            raise GraftError("position.minutes and position.lon_minutes are null together")
        if self.connector not in DECIMAL:
            raise GraftError(f"position.connector is {self.connector!r}; choose decimal or point")

    def rounded(self) -> Position:
        """The same position with the degrees that its words say."""
        (south, lat), (west, lon) = (
            _rounded(self.lat, self.minutes),
            _rounded(self.lon, self.lon_minutes),
        )
        return replace(self, lat=round(south * lat / 6000, 6), lon=round(west * lon / 6000, 6))

    def words(self) -> str:
        """The position as it is said, latitude first, longitude with three digits."""
        lat = self._axis(self.lat, self.minutes, 2, "South" if self.lat < 0 else "North")
        return f"{lat}, {self._axis(self.lon, self.lon_minutes, 3, 'West' if self.lon < 0 else 'East')}"

    def _axis(self, value: float, decimals: int | None, width: int, side: str) -> str:
        degrees, hundredths = divmod(_rounded(value, decimals)[1], 6000)
        said = [self._whole(degrees, width), "degrees"]
        if decimals is not None:
            minutes, fraction = divmod(hundredths, 100)
            if decimals:
                said += [digits(f"{minutes:02}"), self.connector, digits(f"{fraction:02}")]
            else:
                said.append(self._whole(minutes, 2))
            said.append("minutes")
        return " ".join([*said, side])

    def _whole(self, number: int, width: int) -> str:
        return digits(f"{number:0{width}}") if self.digit_by_digit else cardinal(number)


def _rounded(value: float, decimals: int | None) -> tuple[int, int]:
    """Sign, and hundredths of a minute rounded to what is said: 6000, 100 or 1."""
    step = {None: 6000, 0: 100, 2: 1}[decimals]
    return (-1 if value < 0 else 1), round(abs(value) * 6000 / step) * step


def read_position(text: str) -> tuple[float, float]:
    """Latitude and longitude in decimal degrees, to six decimals, of a position in words.

    Raises GraftError when an axis is missing, a side is wrong, or degrees or minutes are out of range.
    """
    found = list(_AXIS.finditer(text))
    if len(found) != 2:
        raise GraftError(
            f"{text!r} holds {len(found)} axes of a position; say degrees, minutes and North or South, East or West"
        )
    values = []
    for axis, sides, limit in zip(found, ("north south", "east west"), (90, 180), strict=True):
        side = axis["side"].lower()
        if side not in sides:
            raise GraftError(f"{axis[0]!r}: say the latitude first, then the longitude")
        values.append(
            angle(read_number(axis["degrees"]), read_number(axis["minutes"] or "zero"), limit)
        )
        values[-1] *= -1 if side in ("south", "west") else 1
    return values[0], values[1]


def angle(degrees: str, minutes: str, limit: int) -> float:
    """Decimal degrees to six decimals. Raises GraftError for minutes of 60 and more, or degrees over `limit`."""
    hundredths = round(float(minutes) * 100)
    if hundredths >= 6000:
        raise GraftError(f"{minutes} minutes: minutes stay under 60")
    value = round((float(degrees) * 6000 + hundredths) / 6000, 6)
    if value > limit:
        raise GraftError(f"{degrees} degrees: this axis ends at {limit}")
    return value


def bearing(degrees: int) -> str:
    """A bearing or course in three figures, 1 to 360: 45 -> "zero four five degrees".

    Raises GraftError outside of that range; north is 360.
    """
    if not 1 <= degrees <= 360:
        raise GraftError(f"a bearing of {degrees}: say 1 to 360, north is 360")
    return f"{digits(f'{degrees:03}')} degrees"


def read_bearing(text: str) -> int:
    """Degrees of a bearing in words; the inverse of `bearing`."""
    value = int(read_number(re.sub(r"\s*degrees?\s*$", "", text.strip())))
    bearing(value)
    return value


def clock(time: str) -> str:
    """A time of day in four figures: "11:25" -> "one one two five UTC".

    Raises GraftError unless it is HH:MM within a day.
    """
    found = re.fullmatch(r"(\d\d):(\d\d)", time)
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        raise GraftError(f"{time!r} is no time of day; write HH:MM in UTC")
    return f"{digits(found[1] + found[2])} UTC"


def read_clock(text: str) -> str:
    """HH:MM of a time in words; the inverse of `clock`."""
    said = read_number(re.sub(r"\s*(utc|hours)\s*$", "", text.strip(), flags=re.IGNORECASE))
    time = f"{said[:-2].zfill(2)}:{said[-2:]}"
    clock(time)
    return time
