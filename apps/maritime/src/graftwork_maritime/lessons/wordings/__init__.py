"""Wordings of a scripted coast station in six sets, with three levels of English; lessons have all of them."""

from .earlier import FIRST, FOURTH, SECOND, THIRD
from .form import Asked, Wordings
from .later import FIFTH, SIXTH

MENDED = {"first": FIRST, "second": SECOND, "third": THIRD, "fourth": FOURTH}
"""Those that the composer's ear was mended with."""
SETS = {**MENDED, "fifth": FIFTH, "sixth": SIXTH}

__all__ = [
    "FIFTH",
    "FIRST",
    "FOURTH",
    "MENDED",
    "SECOND",
    "SETS",
    "SIXTH",
    "THIRD",
    "Asked",
    "Wordings",
]
