"""Positions, bearings and courses: degrees, minutes and sides put together."""

from __future__ import annotations

import re

from graftwork.errors import GraftError

from ..spoken.positions import angle
from .item import Item, kind_at, skip

_SHORT = re.compile(r"(\d{2,3})(\d\d(?:\.\d+)?)")


def axes(items: list[Item]) -> list[Item]:
    """Degrees, minutes and a side become an axis of a position; other degrees become bearings or stay."""
    out: list[Item] = []
    place = 0
    while place < len(items):
        item = items[place]
        if (made := _short(items, place) or _side_first(items, place)) is not None:
            axis, place = made
            out.append(axis)
            continue
        if item.kind != "degrees" or not item.value[:1].isdigit():
            out.append(item)
            place += 1
            continue
        after = place + 1
        minutes = "0"
        if (found := skip(items, after, "and")) is not None and items[found].kind == "minutes":
            minutes, after = items[found].value, found + 1
            if minutes in ("'", "′", ""):
                minutes = "0"
        elif (
            found is not None
            and items[found].kind == "number"
            and kind_at(items, found + 1) == "side"
        ):
            minutes, after = items[found].value, found + 1
        side = skip(items, after)
        if side is not None and items[side].kind == "side":
            out.append(_axis(item, minutes, items[side]))
            place = side + 1
        elif _is_course(out[-4:]) and not _turns(items, place + 1):
            out.append(_bearing(item))
            place += 1
        else:
            out.append(item)
            place += 1
    return out


def _short(items: list[Item], place: int) -> tuple[Item, int] | None:
    """Degrees and minutes in one row of figures, "four niner three zero North"; and the place after it."""
    item = items[place]
    figures = _SHORT.fullmatch(str(item.value)) if item.kind == "number" else None
    if figures is None or kind_at(items, place + 1) != "side" or _of(items, place + 1):
        return None
    side = items[place + 1]
    north = str(side.value)[0].upper() in "NS"
    if len(figures[1]) > (2 if north else 3):
        return None
    degrees = Item("degrees", figures[1], item.start, item.end)
    return _axis(degrees, figures[2], side), place + 2


def _side_first(items: list[Item], place: int) -> tuple[Item, int] | None:
    """ "North four niner degrees three zero minutes", and the place after it."""
    kinds = [kind_at(items, n) for n in range(place, place + 3)]
    after = skip(items, place + 3)
    if kinds != ["side", "degrees", "minutes"] or not str(items[place + 1].value):
        return None
    if kind_at(items, place - 1) in ("degrees", "minutes", "side") or (
        after is not None and items[after].kind == "side" and not _axis_follows(items, after)
    ):
        return None
    made = _axis(items[place + 1], str(items[place + 2].value), items[place])
    return Item(made.kind, made.value, items[place].start, items[place + 2].end), place + 3


def _axis_follows(items: list[Item], place: int) -> bool:
    return kind_at(items, place + 1) == "degrees"


def _of(items: list[Item], side: int) -> bool:
    """Whether a side is a direction from something, "north of", or the first half of one, "north-east"."""
    if kind_at(items, side + 1) == "side":
        return True
    word = items[side + 1] if side + 1 < len(items) else None
    return word is not None and word.kind == "word" and word.value.lower() in ("of", "from")


def _is_course(before: list[Item]) -> bool:
    """Whether degrees follow a word for a course or bearing in their sentence."""
    kinds = [x.kind for x in before]
    return "bearing" in kinds and "stop" not in kinds[kinds.index("bearing") :]


def _turns(items: list[Item], place: int) -> bool:
    """Whether degrees are to a side of the ship: an alteration of course, or the wind's direction."""
    following = [str(i.value).lower() for i in items[place : place + 4]]
    return "port" in following or "starboard" in following


def _axis(item: Item, minutes: str, side: Item) -> Item:
    letter = side.value[0].upper()
    limit = 90 if letter in "NS" else 180
    try:
        value = angle(item.value, minutes, limit)
    except (GraftError, ValueError) as error:
        return Item(
            "fault", ("position-range", str(error), "correct the figures"), item.start, side.end
        )
    return Item("axis", (letter, -value if letter in "SW" else value), item.start, side.end)


def _bearing(item: Item) -> Item:
    if float(item.value) > 360:
        fault = (
            "bearing-range",
            f"{item.value} degrees",
            "bearings and courses go from 001 to 360",
        )
        return Item("fault", fault, item.start, item.end)
    return Item("bearing_degrees", item.value, item.start, item.end)


def positions(items: list[Item]) -> list[Item]:
    """A latitude and a longitude with little between them become a position; two latitudes are limits of an area."""
    out: list[Item] = []
    place = 0
    while place < len(items):
        item = items[place]
        other = skip(items, place + 1, "and", "longitude", "long", stop=True)
        if item.kind != "axis" or other is None or items[other].kind != "axis":
            out.append(item)
            place += 1
            continue
        (first, lat), (second, lon) = item.value, items[other].value
        if (first in "NS") == (second in "NS"):
            out.append(item)
            place += 1
            continue
        if first in "NS" and second in "EW":
            out.append(Item("position", (lat, lon), item.start, items[other].end))
        else:
            fault = (
                "position-form",
                "two axes of a position that do not belong together",
                "say the latitude North or South, then the longitude East or West",
            )
            out.append(Item("fault", fault, item.start, items[other].end))
        place = other + 1
    return out
