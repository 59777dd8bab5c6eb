"""Wordings of a scripted coast station that no model has learnt from and the composer's ear was not made with.

Each set was written by an author who had seen neither the composer, nor what it understands, nor another set. `SETS`
holds those that the lessons use (`graftwork_maritime.lessons.wordings`), too.
"""

from graftwork_maritime.lessons.wordings import SETS as LEARNT

from .eighth import EIGHTH
from .seventh import SEVENTH

SETS = {**LEARNT, "seventh": SEVENTH, "eighth": EIGHTH}

__all__ = ["SETS"]
