"""Spoken forms of what is said on the radio, and back: exact inverse pairs.

Letters and figures (`alphabet`), numbers (`numbers`), positions, bearings and times (`positions`).
"""

from .alphabet import spell, unspell
from .numbers import cardinal, decimal, digits, read_number, thousands
from .positions import (
    Position,
    bearing,
    clock,
    read_bearing,
    read_clock,
    read_position,
)

__all__ = [
    "Position",
    "bearing",
    "cardinal",
    "clock",
    "decimal",
    "digits",
    "read_bearing",
    "read_clock",
    "read_number",
    "read_position",
    "spell",
    "thousands",
    "unspell",
]
