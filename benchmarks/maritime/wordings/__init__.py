"""Wordings of a scripted station that no model has learnt from and the composer's ear was not made with.

Each set was written by an author who had seen neither the composer, nor what it understands, nor another set. `SETS`
of coast stations and `SHIPS` hold those that the lessons use (`graftwork_maritime.lessons.wordings`), too.
"""

from graftwork_maritime.lessons.wordings import SETS as LEARNT
from graftwork_maritime.lessons.wordings import SHIPS as LEARNT_SHIPS

from .eighth import EIGHTH
from .seventh import SEVENTH
from .ships import SHIP_FIFTH, SHIP_SIXTH

SETS = {**LEARNT, "seventh": SEVENTH, "eighth": EIGHTH}
SHIPS = {**LEARNT_SHIPS, "fifth": SHIP_FIFTH, "sixth": SHIP_SIXTH}

__all__ = ["SETS", "SHIPS"]
