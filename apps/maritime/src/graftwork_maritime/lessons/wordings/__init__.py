"""Wordings of a scripted coast station in six sets, and of a scripted ship in four, with three levels of English.

Lessons have all of them.
"""

from .earlier import FIRST, FOURTH, SECOND, THIRD
from .form import Asked, Spoken, Wordings, spoken
from .later import FIFTH, SIXTH
from .ships import SHIP_FIRST, SHIP_SECOND
from .ships_later import SHIP_FOURTH, SHIP_THIRD

MENDED = {"first": FIRST, "second": SECOND, "third": THIRD, "fourth": FOURTH}
"""Those that the composer's ear was mended with."""
SETS = {**MENDED, "fifth": FIFTH, "sixth": SIXTH}
SHIPS = {"first": SHIP_FIRST, "second": SHIP_SECOND, "third": SHIP_THIRD, "fourth": SHIP_FOURTH}

__all__ = [
    "FIFTH",
    "FIRST",
    "FOURTH",
    "MENDED",
    "SECOND",
    "SETS",
    "SHIPS",
    "SIXTH",
    "THIRD",
    "Asked",
    "Spoken",
    "Wordings",
    "spoken",
]
