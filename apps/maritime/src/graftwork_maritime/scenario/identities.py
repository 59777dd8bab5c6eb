"""MMSI numbers and call signs: what they are, whose they are, and which nobody has (ITU-R M.585, Appendix 42).

An MMSI has nine digits and no check digit; its first digits say what carries it. The first three digits of a ship's
are its country's MID, and its call sign begins with one of the country's prefixes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from graftwork.errors import GraftError

# No country has these MIDs, and no call sign begins with Q, which the radio uses for codes.
EXERCISE_MIDS = tuple(str(mid) for mid in range(280, 300))
EXERCISE_PREFIX = "Q"
CALL_SIGN = re.compile(r"(?=.*[A-Z])[A-Z0-9]{3,7}")
_EXERCISES: tuple[str, tuple[str, ...]] = ("exercises", (EXERCISE_PREFIX,))
_CLASSES = {  # the longest prefix decides
    "00": "coast station",
    "0": "group",
    "111": "search and rescue aircraft",
    "8": "handheld",
    "98": "craft of a parent ship",
    "99": "aid to navigation",
    "970": "AIS search and rescue transmitter",
    "972": "man overboard device",
    "974": "EPIRB with AIS",
} | {str(first): "ship" for first in range(2, 8)}


def mmsi_class(mmsi: str) -> str:
    """What carries the number: "ship", "coast station" and so on.

    Raises GraftError unless it has nine digits and begins as one of them does.
    """
    if not re.fullmatch(r"[0-9]{9}", mmsi):
        raise GraftError(
            f"MMSI {mmsi!r} has not nine digits; a column kept as numbers loses leading zeros, so keep it as text"
        )
    for length in (3, 2, 1):
        if mmsi[:length] in _CLASSES:
            return _CLASSES[mmsi[:length]]
    raise GraftError(f"MMSI {mmsi} begins as none does; ships' begin with 2 to 7")


@cache
def countries() -> dict[str, tuple[str, tuple[str, ...]]]:
    """{MID: (country, call sign prefixes)} of the table in `data/mids.csv`."""
    table = {}
    text = (files(__package__) / "data" / "mids.csv").read_text(encoding="utf8")
    for row in csv.DictReader(text.splitlines()):
        prefixes = tuple(p for part in row["call_signs"].split() for p in _series(part))
        for part in row["mids"].split():
            first, _, last = part.partition("-")
            for mid in range(int(first), int(last or first) + 1):
                table[str(mid)] = (row["country"], prefixes)
    return table


def _series(part: str) -> Iterator[str]:
    """ "OU-OZ" -> OU, OV ... OZ."""
    first, _, last = part.partition("-")
    for code in range(ord(first[-1]), ord((last or first)[-1]) + 1):
        yield first[:-1] + chr(code)


def check_ship(mmsi: str | None, call_sign: str | None, exercise: bool) -> None:
    """Check a ship's numbers, and that both are of one country.

    Raises GraftError for an MMSI that is no ship's or whose MID no country has (those of exercises only where
    `exercise` is set), for a call sign of a wrong form, and for one of another country.
    """
    if call_sign is not None and not CALL_SIGN.fullmatch(call_sign):
        raise GraftError(
            f"call sign {call_sign!r} must have 3 to 7 of A to Z and 0 to 9, a letter among them"
        )
    if mmsi is None:
        return
    kind = mmsi_class(mmsi)
    if kind != "ship":
        raise GraftError(f"MMSI {mmsi} belongs to no ship ({kind}); ships' begin with 2 to 7")
    mid = mmsi[:3]
    if mid in EXERCISE_MIDS:
        if not exercise:
            raise GraftError(
                f"MMSI {mmsi}: no country has the MID {mid}; such numbers need --exercise"
            )
        country, prefixes = _EXERCISES
    elif mid in countries():
        country, prefixes = countries()[mid]
    else:
        raise GraftError(f"MMSI {mmsi}: no country has the MID {mid}; check the first three digits")
    if call_sign and not call_sign.startswith(prefixes):
        raise GraftError(
            f"call sign {call_sign} is not of {country}, which the MID {mid} stands for; one of the two is wrong"
        )
