"""Where: degrees and minutes in range, the scenario's position, direction and distance from the places it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from ...grammar import lexicon
from ...scenario.sea import CELLS, is_sea
from ..case import Case, Filter, Told
from .said import Said, after, figures, numbers
from .whose import own_place, without_names

_SIDE = re.compile(r"\W*(north|south|east|west)\b(?!\s*(?:east|west))", re.IGNORECASE)
_OF = re.compile(r"\b((?:north|south|east|west)[\s-]?(?:east|west)?)\W+(?:of|from)\W*(?:the )?$")
_COURSE = r"\bbearing\b|(?<!\bof )\bcourse\b|\bheading\b(?! for\b)|\bsteer(?:ing)?\b(?! gear\b)"
_DRIFT = r"\bdrift(?:ing)?\b|\bdirection\b|\btrack\b"  # where degrees are said
_NO_COURSE = re.compile(
    r"\W+(?:degrees )?(?:more )?(?:to |of )?"
    r"(?:port|starboard|rudder|knots?|miles?|cables?|minutes?|metres?|persons?)\b",
    re.IGNORECASE,
)
_MILES = re.compile(r"\W+(?:nautical )?miles?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Axis:
    """One axis as it is said: degrees and minutes; minutes `None` when only degrees are."""

    degrees: float
    minutes: float | None
    side: str

    @property
    def value(self) -> float:
        """Decimal degrees, south and west negative."""
        size = self.degrees + (self.minutes or 0) / 60
        return -size if self.side in ("south", "west") else size


def axes(text: str) -> Iterator[tuple[Axis, str]]:
    """Each axis of a position, and its words: figures, "degrees", perhaps figures and "minutes", and the side."""
    said = numbers(text)
    for i, one in enumerate(said):
        unit = re.compile(r"\W*degrees?\b\W*", re.IGNORECASE).match(text, one.end)
        if not unit:
            continue
        comma = text.rfind(
            ",", one.start, one.end
        )  # before it stands another number, such as an MMSI
        alone = numbers(text[comma + 1 : one.end])[0] if comma >= 0 else one
        degrees, end = float(alone.value), unit.end()
        minutes: float | None = None
        if (following := _minutes(text, said[i + 1 :], end)) is not None:
            minutes, end = following
        side = _SIDE.match(text, end)
        if side:
            words = text[max(one.start, comma + 1) : side.end()].strip()
            yield Axis(degrees, minutes, side[1].lower()), words


def _minutes(text: str, said: list[Said], begin: int) -> tuple[float, int] | None:
    """Minutes that begin where the degrees ended, with a decimal part, and where their words end."""
    if not said or text[begin : said[0].start].strip(" ,and"):
        return None
    value, end = said[0].value, said[0].end
    point = re.compile(r"\s*(?:decimal|point)\s*", re.IGNORECASE).match(text, end)
    if point and len(said) > 1 and said[1].start == point.end():
        value, end = f"{value}.{said[1].value}", said[1].end
    unit = re.compile(r"\W*minutes?\b", re.IGNORECASE).match(text, end)
    return (float(value), unit.end()) if unit else None


def said_axes(case: Case) -> Iterator[tuple[int, Axis, str]]:
    """Of all turns: (turn, axis, words)."""
    for n, turn in enumerate(case.dialogue.turns, 1):
        for axis, words in axes(turn.text):
            yield n, axis, words


def _form(case: Case) -> list[Told]:
    told: list[Told] = []
    for n, axis, words in said_axes(case):
        limit = 90 if axis.side in ("north", "south") else 180
        if abs(axis.value) > limit:
            told.append((n, f"{words!r}: this axis ends at {limit} degrees"))
        if (axis.minutes or 0) >= 60:
            told.append((n, f"{words!r}: minutes stay under 60"))
    return told


def _no_position(case: Case) -> bool:
    return not case.scenario.get("position")


def _matches(case: Case) -> list[Told]:
    place, told = case.scenario["position"], list[Told]()
    for n, axis, words in ((n, *found) for n, part in own_place(case) for found in axes(part)):
        wanted = float(place["lat"] if axis.side in ("north", "south") else place["lon"])
        off = abs(axis.value - wanted)
        if off > (1.01 if axis.minutes is None else 0.02):
            told.append((n, f"{words!r} is {off:.2f} degrees from the scenario's position"))
    return told


def _at_sea(case: Case) -> list[Told]:
    """A position said with minutes, neither at sea nor within a cell of the mask, which is half a minute."""
    told: list[Told] = []
    for (n, lat, _), (m, lon, _) in pairwise(said_axes(case)):
        pair = lat.side in ("north", "south") and lon.side in ("east", "west")
        if n != m or not pair or lat.minutes is None or lon.minutes is None:
            continue
        steps = (-1 / CELLS, 0, 1 / CELLS)
        around = [(lat.value + a, lon.value + b) for a in steps for b in steps]
        right = max(lat.minutes, lon.minutes) < 60 and abs(lat.value) <= 90 >= abs(lon.value) / 2
        if right and not any(is_sea(*at) for at in around):
            told.append((n, f"{lat.value:.3f}, {lon.value:.3f} is on land"))
    return told


def _said(case: Case) -> list[Told]:
    """Neither a latitude nor a bearing, a distance or a place, by the one who calls."""
    caller = case.dialogue.turns[0].speaker
    for turn, message in zip(case.dialogue.turns, case.state.messages, strict=True):
        where = (
            "position" in message.offsets
            or any(True for _ in axes(turn.text))
            or lexicon.POSITION.search(without_names(case, turn.text))
        )
        if where and turn.speaker in (caller, "ship", "other"):
            return []
    return [(None, "no position is said, neither degrees nor a distance from a place")]


def _near(text: str, name: str) -> str:
    """The part between full stops that says a name; empty when none does."""
    parts = re.split(r"[.?!;]\s", text)
    return next((p for p in parts if name.lower() in p.lower()), "")


def _direction(case: Case) -> list[Told]:
    place = case.scenario["place"]
    name, wanted = str(place["name"]), _letters(str(place["bearing"]))
    told: list[Told] = []
    for n, sentence in own_place(case):
        part = _near(sentence, name).lower()
        lead = _OF.search(part[: max(part.find(name.lower()), 0)])
        if lead and _letters(lead[1]) != wanted:
            told.append((n, f"{lead[1]} of {name}, and the scenario has {place['bearing']}"))
    return told


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


def _distance(key: str, case: Case) -> list[Told]:
    name, wanted = str(case.scenario[key]["name"]), int(case.scenario[key]["distance_nm"])
    told: list[Told] = []
    for n, sentence in own_place(case):
        part = _near(sentence, name)
        said = {int(one.value) for one in numbers(part) if _MILES.match(part, one.end)}
        if said and wanted not in said:
            told.append((n, f"{min(said)} miles from {name}, and the scenario has {wanted}"))
    return told


def _without(key: str, field: str, case: Case) -> bool:
    return not (case.scenario.get(key) or {}).get(field)


def _rows(text: str) -> list[Said]:
    """Figures said one by one, or a whole number where that is longer: "one hundred and ten"."""
    whole = {one.start: one for one in numbers(text)}
    rows = figures(text)
    longer = [w if (w := whole.get(r.start)) and w.end > r.end else r for r in rows]
    begun = {r.start for r in longer}
    return sorted(
        [*longer, *(w for s, w in whole.items() if s not in begun)], key=lambda s: s.start
    )


def _bearings(case: Case) -> list[Told]:
    """Courses and bearings: three figures, at most 360; not how far a course is altered."""
    told: list[Told] = []
    for n, turn in enumerate(case.dialogue.turns, 1):
        rows = _rows(turn.text)
        degrees = [r for r in rows if re.match(r"\W+degrees\b", turn.text[r.end :], re.IGNORECASE)]
        said = [
            *after(turn.text, _COURSE, rows, words=1),
            *after(turn.text, _DRIFT, degrees, words=1),
        ]
        for one in said:
            if _NO_COURSE.match(turn.text, one.end):
                continue
            if len(one.value) != 3:
                told.append((n, f"bearing or course {one.value} is not said in three figures"))
            elif int(one.value) > 360:
                told.append((n, f"bearing or course {one.value} is over 360 degrees"))
    return told


POSITION = (
    Filter("position_form", "degrees or minutes out of range", _form),
    Filter("position_said", "no position in a distress, urgency or medical message", _said, ("scenario",),
           lambda c: c.scenario.get("kind") not in ("distress", "urgency", "medical")),
    Filter("position_at_sea", "a position on land", _at_sea),
    Filter("position_matches", "a position that is not the scenario's", _matches, ("scenario",), _no_position),
    Filter("direction_matches", "another direction from the named place", _direction, ("scenario",),
           partial(_without, "place", "bearing")),
    Filter("distance_matches", "another distance from the named place", partial(_distance, "place"), ("scenario",),
           partial(_without, "place", "distance_nm")),
    Filter("port_distance_matches", "another distance from the named port", partial(_distance, "port"),
           ("scenario",), partial(_without, "port", "distance_nm")),
    Filter("bearing_form", "a bearing or course not in three figures, or over 360", _bearings),
)  # fmt: skip
